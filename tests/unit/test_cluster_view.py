"""ClusterView: what is held, and what is dirty after which event."""

from __future__ import annotations

from kpx.cluster.events import Delete, Event, Object, Synced, Upsert
from kpx.cluster.view import ClusterView, Dirty
from kpx.model.addresses import Family, parse_address, parse_prefix
from kpx.model.endpointslice import Endpoint, EndpointSlice
from kpx.model.names import ObjectName
from kpx.model.node import Node, ServiceCIDR
from kpx.model.service import Service

TOMCAT = ObjectName("shop", "tomcat")
WEB = ObjectName("shop", "web")


def slice_(name: str = "a", service: ObjectName | None = TOMCAT, address: str = "10.0.0.1", skipped: str = "") -> EndpointSlice:
    return EndpointSlice(ObjectName("shop", name), service, Family.IPV4, (), (Endpoint(parse_address(address)),), skipped)


def view_after(*events: Event) -> ClusterView:
    """Return a view that has folded events and has nothing dirty."""
    view = ClusterView()
    for event in events:
        view.fold(event)
    view.take_dirty()
    return view


def dirty_after(view: ClusterView, event: Event) -> Dirty:
    view.fold(event)
    return view.take_dirty()


def test_an_empty_view_is_clean_and_not_synced() -> None:
    view = ClusterView()

    assert not view.take_dirty()
    assert view.synced is False
    assert view.slices_of(TOMCAT) == ()


def test_synced_is_remembered_and_dirties_nothing() -> None:
    view = ClusterView()

    assert not dirty_after(view, Synced())
    assert view.synced is True


def test_a_service_is_held_and_dirty_until_taken() -> None:
    view = ClusterView()

    assert dirty_after(view, Upsert(Service(TOMCAT))) == Dirty(services=frozenset({TOMCAT}))
    assert view.services == {TOMCAT: Service(TOMCAT)}
    assert not view.take_dirty()


def test_an_equal_upsert_is_free() -> None:
    """S7, for every kind."""
    objects: tuple[Object, ...] = (
        Service(TOMCAT),
        slice_(),
        Node(ObjectName("", "n1")),
        ServiceCIDR(ObjectName("", "k"), (parse_prefix("10.96.0.0/12"),)),
    )
    view = view_after(*map(Upsert, objects))

    for value in objects:
        assert not dirty_after(view, Upsert(value))


def test_deleting_what_was_never_seen_is_nothing() -> None:
    """E7, for every kind."""
    view = ClusterView()

    for kind in (Service, EndpointSlice, Node, ServiceCIDR):
        assert not dirty_after(view, Delete(kind, TOMCAT))


def test_a_deleted_service_is_dirty_and_gone() -> None:
    view = view_after(Upsert(Service(TOMCAT)))

    assert dirty_after(view, Delete(Service, TOMCAT)).services == {TOMCAT}
    assert view.services == {}


def test_a_skipped_service_is_held_and_dirty() -> None:
    """Explaining why it is skipped needs it."""
    view = view_after(Upsert(Service(TOMCAT)))
    skipped = Service(TOMCAT, skipped="headless")

    assert dirty_after(view, Upsert(skipped)).services == {TOMCAT}
    assert view.services[TOMCAT] == skipped


def test_slices_come_before_their_service() -> None:
    """J6."""
    view = ClusterView()

    assert dirty_after(view, Upsert(slice_())).services == {TOMCAT}
    assert view.slices_of(TOMCAT) == (slice_(),)


def test_slices_are_sorted_by_name_and_skipped_ones_included() -> None:
    view = view_after(*(Upsert(slice_(name, skipped=skipped)) for name, skipped in (("c", ""), ("a", "headless"), ("b", ""))))

    assert [found.name.name for found in view.slices_of(TOMCAT)] == ["a", "b", "c"]


def test_a_slice_that_moves_to_another_service_dirties_both() -> None:
    view = view_after(Upsert(slice_()))

    assert dirty_after(view, Upsert(slice_(service=WEB))).services == {TOMCAT, WEB}
    assert view.slices_of(TOMCAT) == ()
    assert view.slices_of(WEB) == (slice_(service=WEB),)


def test_a_slice_that_loses_its_label_dirties_the_service_it_had() -> None:
    """J2."""
    view = view_after(Upsert(slice_()))

    assert dirty_after(view, Upsert(slice_(service=None))).services == {TOMCAT}
    assert dirty_after(view, Upsert(slice_(service=None, address="10.0.0.2"))).services == frozenset()
    assert view.slices_of(TOMCAT) == ()


def test_a_deleted_slice_dirties_its_service() -> None:
    view = view_after(Upsert(slice_("a")), Upsert(slice_("b")))

    assert dirty_after(view, Delete(EndpointSlice, ObjectName("shop", "a"))).services == {TOMCAT}
    assert view.slices_of(TOMCAT) == (slice_("b"),)


def test_nodes_are_dirty_by_name() -> None:
    view = ClusterView()
    node = Node(ObjectName("", "n1"), zone="a")

    assert dirty_after(view, Upsert(node)) == Dirty(nodes=frozenset({"n1"}))
    assert view.nodes == {"n1": node}
    assert dirty_after(view, Delete(Node, node.name)).nodes == {"n1"}


def test_service_cidrs_have_one_flag() -> None:
    """S8: two of them may cover the same range, so they are kept by name."""
    first, second = (ServiceCIDR(ObjectName("", name), (parse_prefix("10.96.0.0/12"),)) for name in ("a", "b"))
    view = ClusterView()

    assert dirty_after(view, Upsert(first)) == Dirty(cidrs=True)
    view.fold(Upsert(second))
    view.fold(Delete(ServiceCIDR, first.name))
    assert view.service_cidrs == {second.name: second}
    assert view.take_dirty() == Dirty(cidrs=True)
