"""Which endpoints count and why (contract sections 2, 3 and 5)."""

from __future__ import annotations

import pytest
from policy_builders import FACTS, TCP, UDP, endpoint, one_slice, printed

from kpx.model.endpointslice import Endpoint, EndpointSlice, SlicePort
from kpx.model.facts import NodeFacts
from kpx.policy.desired import Reason
from kpx.policy.eligibility import Eligible, choose, in_local_pool, join


def chosen(*slices: EndpointSlice, facts: NodeFacts = FACTS) -> Eligible:
    return choose(join(slices, "http", TCP), facts, uses_cluster=True, uses_local=True)


def of(*endpoints: Endpoint) -> Eligible:
    return chosen(one_slice(*endpoints))


def reasons(eligible: Eligible) -> list[Reason]:
    return [fate.reason for fate in eligible.considered]


def test_ports_join_by_name_and_protocol_and_the_slice_says_the_number() -> None:
    """J3, J4: several numbers for one name are a union."""
    here = endpoint("10.244.1.1")
    first = one_slice(
        here, name="a", ports=(SlicePort("http", TCP, 8080), SlicePort("ajp", TCP, 8009), SlicePort("http", UDP, 1))
    )
    second = one_slice(here, name="b", ports=(SlicePort("http", TCP, 9090),))

    assert printed(chosen(first, second).cluster.backends) == ["10.244.1.1:8080", "10.244.1.1:9090"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("draining", "ready", Reason.READY),
        ("ready", "draining", Reason.READY),
        ("unready", "ready", Reason.READY),
        ("ready", "unready", Reason.READY),
        ("draining", "unready", Reason.NOT_READY),
        ("unready", "gone", Reason.NOT_READY),
    ],
)
def test_of_two_entries_for_one_endpoint_the_living_one_counts(first: str, second: str, expected: Reason) -> None:
    """E5, in either order of the slices."""
    a = one_slice(endpoint("10.244.1.1", first), name="a")
    b = one_slice(endpoint("10.244.1.1", second), name="b")

    assert reasons(chosen(a, b)) == reasons(chosen(b, a)) == [expected]


def test_among_equal_entries_the_slice_that_sorts_first_counts() -> None:
    """E5: seen by the node name, which only one of them gets right."""
    a = one_slice(endpoint("10.244.1.1", node="n1"), name="a")
    b = one_slice(endpoint("10.244.1.1", node="n2"), name="b")

    for eligible in (chosen(a, b), chosen(b, a)):
        (fate,) = eligible.considered
        assert (fate.local, fate.slice_name) == (True, "a")


def test_endpoints_are_sorted() -> None:
    eligible = of(endpoint("10.244.1.10"), endpoint("10.244.1.9"), endpoint("10.244.1.2", "unready"))

    assert printed(eligible.cluster.backends) == ["10.244.1.9:8080", "10.244.1.10:8080"]
    assert printed(fate.backend for fate in eligible.considered) == ["10.244.1.2:8080", "10.244.1.9:8080", "10.244.1.10:8080"]


def test_unready_and_no_longer_serving_endpoints_are_never_used() -> None:
    """C5, C4: nothing is left."""
    eligible = of(endpoint("10.244.1.1", "unready"), endpoint("10.244.1.2", "gone"))

    assert reasons(eligible) == [Reason.NOT_READY, Reason.NOT_SERVING]
    assert not eligible.any
    assert eligible.serving == ()


def test_a_terminating_endpoint_is_used_when_none_is_ready() -> None:
    """C2."""
    eligible = of(endpoint("10.244.1.1", "draining"), endpoint("10.244.1.2", "unready"))

    assert printed(eligible.cluster.backends) == ["10.244.1.1:8080"]
    assert reasons(eligible) == [Reason.SERVING_TERMINATING, Reason.NOT_READY]


def test_a_terminating_endpoint_is_not_used_while_one_is_ready_but_its_udp_flows_live_on() -> None:
    eligible = of(endpoint("10.244.1.1", "draining"), endpoint("10.244.1.2"))

    assert reasons(eligible) == [Reason.TERMINATING, Reason.READY]
    assert printed(eligible.cluster.backends) == ["10.244.1.2:8080"]
    assert printed(sorted(eligible.serving)) == ["10.244.1.1:8080", "10.244.1.2:8080"]


def test_an_endpoint_published_while_not_ready_is_used_although_it_terminates() -> None:
    """E2: the slice says ready."""
    eligible = of(Endpoint(endpoint("10.244.1.1").address, ready=True, serving=False, terminating=True))

    assert eligible.any


def test_the_local_set_falls_back_on_its_own() -> None:
    """C3: this node has only a terminating endpoint, another node a ready one."""
    eligible = of(endpoint("10.244.1.1", "draining", node="n1"), endpoint("10.244.2.1"))

    assert printed(eligible.local.backends) == ["10.244.1.1:8080"]
    assert printed(eligible.cluster.backends) == ["10.244.2.1:8080"]
    assert [fate.reason for fate in in_local_pool(eligible.considered)] == [Reason.SERVING_TERMINATING, Reason.NOT_LOCAL]


def test_a_ready_local_endpoint_keeps_the_terminating_one_out_of_the_local_set() -> None:
    eligible = of(endpoint("10.244.1.1", "draining", node="n1"), endpoint("10.244.1.2", node="n1"))

    assert printed(eligible.local.backends) == ["10.244.1.2:8080"]
    assert [fate.reason for fate in in_local_pool(eligible.considered)] == [Reason.TERMINATING, Reason.READY]


def test_an_endpoint_without_node_name_is_never_local() -> None:
    """E3."""
    assert of(endpoint("10.244.1.1", node=None)).local.backends == ()


def test_zone_hints_keep_the_zone_when_every_ready_endpoint_has_one() -> None:
    """T3; an unready endpoint without hints does not matter (T1)."""
    eligible = of(
        endpoint("10.244.1.1", zones=("a", "b")), endpoint("10.244.1.2", zones=("b",)), endpoint("10.244.1.3", "unready")
    )

    assert reasons(eligible) == [Reason.READY, Reason.WRONG_ZONE, Reason.NOT_READY]
    assert printed(eligible.cluster.backends) == ["10.244.1.1:8080"]


def test_node_hints_win_over_zone_hints() -> None:
    """T2."""
    eligible = of(endpoint("10.244.1.1", zones=("a",), nodes=("n2",)), endpoint("10.244.1.2", zones=("b",), nodes=("n1",)))

    assert reasons(eligible) == [Reason.WRONG_NODE, Reason.READY]


@pytest.mark.parametrize(
    "endpoints",
    [
        (endpoint("10.244.1.1", zones=("a",)), endpoint("10.244.1.2")),
        (endpoint("10.244.1.1", zones=("b",)), endpoint("10.244.1.2", zones=("c",))),
        (endpoint("10.244.1.1", nodes=("n2",)), endpoint("10.244.1.2", nodes=("n3",))),
    ],
    ids=["one without hint", "no hint for this zone", "no hint for this node"],
)
def test_hints_that_do_not_fit_are_ignored(endpoints: tuple[Endpoint, ...]) -> None:
    """T4."""
    assert len(of(*endpoints).cluster.backends) == 2


def test_a_node_without_zone_ignores_zone_hints() -> None:
    """T4."""
    nowhere = NodeFacts("n1")

    assert len(chosen(one_slice(endpoint("10.244.1.1", zones=("b",))), facts=nowhere).cluster.backends) == 1


def test_hints_do_not_touch_the_local_set_and_not_the_terminating_fallback() -> None:
    """T8."""
    local = of(endpoint("10.244.1.1", node="n1", zones=("b",)), endpoint("10.244.1.2", zones=("a",)))
    draining = of(endpoint("10.244.1.1", "draining", zones=("a",)), endpoint("10.244.1.2", "draining", zones=("b",)))

    assert printed(local.local.backends) == ["10.244.1.1:8080"]
    assert len(draining.cluster.backends) == 2


def test_a_hairpin_can_happen_to_chosen_endpoints_that_are_or_may_be_here() -> None:
    """M16."""
    eligible = of(
        endpoint("10.244.1.1", node="n1"),
        endpoint("10.244.1.2", node=None),
        endpoint("10.244.1.3", node="n2"),
        endpoint("10.244.1.4", "unready", node="n1"),
    )

    assert eligible.hairpin == (endpoint("10.244.1.1").address, endpoint("10.244.1.2").address)
