"""
From every state of a Service to every other, on a live one, without leftovers.

A state is what the API lets one choose: type with its addresses, both traffic policies, session affinity; ports, families; source
ranges and endpoints besides. The walk takes every pair of (type, policies), in both directions, while (affinity, ports, families)
go through all pairs of their own, and ranges with endpoints through theirs, so that no two changes always come together. After
each step the kernel must hold exactly the rows of a start in that state, and no operation may have been refused on the way.

KPX_TRANSITIONS=every takes every pair of all of (type, policies, affinity, ports, families), which lasts an hour.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import pytest

from kpx.agent.engine import Engine
from kpx.cluster.events import Delete, Event, Synced, Upsert
from kpx.model.addresses import Address, Family, parse_address, parse_prefix
from kpx.model.endpointslice import Endpoint, EndpointSlice, SlicePort
from kpx.model.facts import LocalDetector, NodeFacts
from kpx.model.names import ObjectName, Protocol
from kpx.model.service import Service, ServicePort
from kpx.reconcile.rows import Rows
from tests.scenarios.scenario_kernel import DictionaryKernel, IpvsDictionary

KERNELS = {"nftables": DictionaryKernel, "ipvs": IpvsDictionary}
NODE = [parse_address("192.0.2.1"), parse_address("2001:db8::1")]
FACTS = NodeFacts(
    "n1",
    node_ips=tuple(NODE),
    node_port_addresses=frozenset(NODE),
    local_detector=LocalDetector(prefixes=(parse_prefix("10.244.0.0/16"), parse_prefix("fd00:244::/32"))),
)
NAME, OTHER = ObjectName("shop", "web"), ObjectName("shop", "other")
CLUSTER_IPS = {Family.IPV4: parse_address("10.96.0.1"), Family.IPV6: parse_address("fd00:96::1")}
EXTERNAL_IPS = tuple(map(parse_address, ("198.51.100.1", "2001:db8:51::1")))
LOAD_BALANCERS = tuple(map(parse_address, ("203.0.113.1", "2001:db8:113::1")))
ENDPOINTS = {
    Family.IPV4: ("10.244.1.1", "10.244.1.2", "10.244.2.1"),
    Family.IPV6: ("fd00:244:1::1", "fd00:244:1::2", "fd00:244:2::1"),
}
EVERY = os.environ.get("KPX_TRANSITIONS") == "every"

T = TypeVar("T")


class Kind(NamedTuple):
    """A type and policies; `there` is False for no Service at all."""

    there: bool = True
    external_name: bool = False
    external_ips: bool = False
    node_port: bool = False
    load_balancer: bool = False
    external_local: bool = False
    internal_local: bool = False


class Shape(NamedTuple):
    """Affinity, ports and families."""

    affinity: bool
    ports: tuple[ServicePort, ...]
    families: tuple[Family, ...]


class Around(NamedTuple):
    """Source ranges, and endpoints as indices with a condition."""

    ranges: tuple[str, ...]
    endpoints: tuple[tuple[int, str], ...]


WAYS_IN = [
    {},
    {"external_ips": True},
    {"node_port": True},
    {"node_port": True, "load_balancer": True},
    {"load_balancer": True},
]
"""ClusterIP, with external IPs, NodePort, LoadBalancer, and LoadBalancer without node ports."""
KINDS = [
    Kind(there=False),
    Kind(external_name=True),
    *(
        Kind(**way, external_local=external, internal_local=internal)
        for way in WAYS_IN
        for external in (False, True)
        if way or not external
        for internal in (False, True)
    ),
]
HTTP, HTTPS = ServicePort("http", Protocol.TCP, 80, 30080), ServicePort("https", Protocol.TCP, 443, 30443)
DNS = ServicePort("dns", Protocol.UDP, 80, 30080)
PORTS = [(HTTP,), (HTTP, DNS), (HTTP._replace(node_port=30081), HTTPS)]
V4, V6 = Family.IPV4, Family.IPV6
FAMILIES = [(V4,), (V4, V6), (V6, V4), (V6,)]
SHAPES = [Shape(*each) for each in itertools.product((False, True), PORTS, FAMILIES)]
MIXED = ((0, "ready"), (1, "ready"), (2, "ready"))
AROUND = [
    Around((), MIXED),
    Around(("192.0.2.0/24",), MIXED),
    Around(("192.0.2.0/24", "2001:db8:2::/48"), ((2, "ready"),)),
    Around((), ((0, "draining"), (2, "ready"))),
    Around(("0.0.0.0/1", "128.0.0.0/1"), ()),
]


def state(kind: Kind, shape: Shape, around: Around) -> list[Event]:
    """Return everything that is so in a state, as events that make it so whatever was before."""
    events: list[Event] = [Upsert(service(kind, shape, around)) if kind.there else Delete(Service, NAME)]
    for family in Family:
        endpoints = tuple(endpoint(family, index, condition) for index, condition in around.endpoints)
        ports = tuple(SlicePort(port.name, port.protocol, port.port + 8000) for port in shape.ports)
        events.append(Upsert(EndpointSlice(ObjectName("shop", f"web-{int(family)}"), NAME, family, ports, endpoints)))
    return events


def service(kind: Kind, shape: Shape, around: Around) -> Service:
    """Return the Service of a state."""
    if kind.external_name:
        return Service(NAME, skipped="it is an ExternalName")
    ports = shape.ports if kind.node_port else tuple(port._replace(node_port=0) for port in shape.ports)
    local = kind.external_local and (kind.external_ips or kind.node_port or kind.load_balancer)
    return Service(
        NAME,
        cluster_ips=tuple(CLUSTER_IPS[family] for family in shape.families),
        ports=ports,
        external_ips=EXTERNAL_IPS if kind.external_ips else (),
        load_balancer_ips=LOAD_BALANCERS if kind.load_balancer else (),
        source_ranges=tuple(map(parse_prefix, around.ranges)) if kind.load_balancer else (),
        internal_policy_local=kind.internal_local,
        external_policy_local=local,
        health_check_node_port=32000 if local and kind.load_balancer else 0,
        affinity_timeout_s=60 if shape.affinity else None,
    )


def endpoint(family: Family, index: int, condition: str) -> Endpoint:
    """Return one of three endpoints; the last is on another node."""
    ready = condition == "ready"
    address: Address = parse_address(ENDPOINTS[family][index])
    return Endpoint(address, ready, True, not ready, "n2" if index == 2 else "n1")


def all_pairs(states: Sequence[T]) -> Iterator[T]:
    """Walk from state to state so that every ordered pair of different ones comes, beginning and ending at the first."""
    count = len(states)
    yield states[0]
    for first in range(count):
        for other in range(first + 1, count):
            yield from (states[other], states[first])
        if first + 1 < count:
            yield states[first + 1]
    yield states[0]


def test_the_walk_has_every_pair() -> None:
    """The walk is what it says."""
    for count in (2, 3, 7):
        walk = list(all_pairs(range(count)))
        assert set(itertools.pairwise(walk)) >= set(itertools.permutations(range(count), 2))


def walk_of_states() -> Iterator[tuple[Kind, Shape, Around]]:
    if EVERY:
        yield from ((*each, AROUND[0]) for each in all_pairs(list(itertools.product(KINDS, SHAPES))))
        return
    walks = [list(all_pairs(states)) for states in (KINDS, SHAPES, AROUND)]
    steps = zip(*map(itertools.cycle, walks), strict=True)
    yield from itertools.islice(steps, max(map(len, walks)))


def filled(rows: Rows) -> Rows:
    return {table: content for table, content in rows.items() if content}


class Fresh:
    """The rows of a start in a state; kept, as states come back."""

    def __init__(self, kind: type[DictionaryKernel] | type[IpvsDictionary]) -> None:
        self._kind = kind
        self._known: dict[object, Rows] = {}

    def rows(self, key: object, events: list[Event]) -> Rows:
        if key not in self._known:
            kernel = self._kind()
            engine = Engine(kernel, FACTS)
            engine.fold([*NEIGHBOUR, *events, Synced()])
            assert not engine.round().refused
            self._known[key] = filled(kernel.rows)
        return self._known[key]


NEIGHBOUR: list[Event] = [
    Upsert(Service(OTHER, cluster_ips=(parse_address("10.96.0.2"),), ports=(HTTPS,), load_balancer_ips=LOAD_BALANCERS[:1])),
    Upsert(
        EndpointSlice(
            ObjectName("shop", "other-1"), OTHER, V4, (SlicePort("https", Protocol.TCP, 443),), (endpoint(V4, 0, "ready"),)
        )
    ),
]
"""Another Service on the same endpoint and load balancer, older in name, whose port another state of ours claims."""


@pytest.mark.parametrize("plane", KERNELS)
def test_every_state_follows_every_other_without_leftovers(plane: str) -> None:
    """Section 24: type, policies, affinity, ports, families and whatever else changes on a live Service (J5, S4, V5, A5)."""
    kernel, fresh = KERNELS[plane](), Fresh(KERNELS[plane])
    engine = Engine(kernel, FACTS)
    engine.fold([*NEIGHBOUR, Synced()])
    before: object = None
    for each in walk_of_states():
        events = state(*each)
        engine.fold(events)
        refused = engine.round().refused
        assert not refused, f"{before} -> {each}: {refused}"
        assert filled(kernel.rows) == fresh.rows(each, events), f"{before} -> {each}"
        before = each
