"""The view is a function of what exists, not of how it came about; and dirt covers every difference."""

from __future__ import annotations

import random
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from kpx.cluster.events import Delete, Event, Object, Upsert
from kpx.cluster.view import ClusterView
from kpx.model.addresses import Family, parse_address, parse_prefix
from kpx.model.endpointslice import Endpoint, EndpointSlice
from kpx.model.health_check import EndpointHealth, Failing
from kpx.model.names import ObjectName
from kpx.model.node import Node, ServiceCIDR
from kpx.model.service import Service

Identity = tuple[type[Object], ObjectName]

# Few names, so that events meet: slices change their Service, objects come back, equal ones are repeated
SERVICES = [ObjectName("shop", name) for name in ("tomcat", "web", "dns")]
NAMES = st.sampled_from([ObjectName("shop", name) for name in ("a", "b", "c")])
NODES = st.sampled_from([ObjectName("", name) for name in ("n1", "n2")])
ENDPOINTS = st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2"]), max_size=2, unique=True)
OBJECTS = st.one_of(
    st.builds(
        Service,
        name=st.sampled_from(SERVICES),
        type=st.sampled_from(["ClusterIP", "NodePort"]),
        skipped=st.sampled_from(["", "headless"]),
    ),
    st.builds(
        EndpointSlice,
        name=NAMES,
        service=st.sampled_from([*SERVICES, None]),
        family=st.just(Family.IPV4),
        endpoints=ENDPOINTS.map(lambda texts: tuple(Endpoint(parse_address(text)) for text in texts)),
    ),
    st.builds(Node, name=NODES, zone=st.sampled_from(["a", "b"])),
    st.builds(
        EndpointHealth,
        name=st.sampled_from(SERVICES),
        failing=st.sampled_from([(), (Failing(parse_address("10.0.0.1"), 80, "no answer"),)]),
    ),
    st.builds(ServiceCIDR, name=NODES, prefixes=st.sampled_from([(), (parse_prefix("10.96.0.0/12"),)])),
)
EVENTS = st.one_of(OBJECTS.map(Upsert), OBJECTS.map(lambda value: Delete(type(value), value.name)))


def fold(events: Iterable[Event]) -> ClusterView:
    view = ClusterView()
    for event in events:
        view.fold(event)
    return view


def contents(view: ClusterView) -> tuple[object, ...]:
    """Return all anybody can see of a view."""
    behind = {service: (view.slices_of(service), view.health.get(service)) for service in SERVICES}
    return dict(view.services), behind, dict(view.nodes), dict(view.service_cidrs)


def existing(events: Iterable[Event]) -> dict[Identity, Object]:
    """Return what exists after events: the last word on each object."""
    found: dict[Identity, Object] = {}
    for event in events:
        if isinstance(event, Upsert):
            found[type(event.object), event.object.name] = event.object
        elif isinstance(event, Delete):
            found.pop((event.kind, event.name), None)
    return found


@given(st.lists(EVENTS, max_size=30), st.randoms(use_true_random=False))
def test_any_history_with_the_same_end_gives_the_same_view(events: list[Event], chance: random.Random) -> None:
    """J6: a shuffled list of what exists at the end is as good as the history that led there."""
    alive = list(existing(events).values())
    chance.shuffle(alive)

    assert contents(fold(events)) == contents(fold(map(Upsert, alive)))


@given(st.lists(EVENTS, max_size=20))
def test_deleting_everything_leaves_nothing(events: list[Event]) -> None:
    view = fold(events)
    for kind, name in existing(events):
        view.fold(Delete(kind, name))

    assert contents(view) == contents(ClusterView())


@given(st.lists(EVENTS, max_size=20), st.lists(EVENTS, max_size=10))
def test_dirt_covers_every_difference(before: list[Event], after: list[Event]) -> None:
    view = fold(before)
    view.take_dirty()
    services, slices, nodes, cidrs = contents(view)
    for event in after:
        view.fold(event)
    dirty = view.take_dirty()
    new_services, new_slices, new_nodes, new_cidrs = contents(view)

    for service in SERVICES:
        if (services.get(service), slices[service]) != (new_services.get(service), new_slices[service]):  # type: ignore[attr-defined,index]
            assert service in dirty.services
    assert {name for name in ("n1", "n2") if nodes.get(name) != new_nodes.get(name)} <= dirty.nodes  # type: ignore[attr-defined]
    assert dirty.cidrs or cidrs == new_cidrs


@given(st.lists(EVENTS, max_size=20))
def test_saying_again_what_exists_is_free(events: list[Event]) -> None:
    """S7."""
    view = fold(events)
    view.take_dirty()
    for value in existing(events).values():
        view.fold(Upsert(value))

    assert not view.take_dirty()
