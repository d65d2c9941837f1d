"""Which UDP flows are forgotten: contract section 11, rule by rule."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from kpx.dataplanes.stale import needs_flush, stale_flows
from kpx.kernel.wire.conntrack import Flow
from kpx.model.addresses import Address, Family, family_of, parse_address
from kpx.model.names import ObjectName, PortName, Protocol
from kpx.policy.desired import (
    Action,
    Backend,
    Considered,
    Fate,
    Frontend,
    FrontendKind,
    FrontendProgram,
    PortProgram,
    Reason,
    Verdict,
)

UDP, TCP = Protocol.UDP, Protocol.TCP
NODE = parse_address("192.168.0.2")
VIP = "172.30.3.1:80"
REJECT = Verdict(Action.REJECT, None, False)


def split(text: str) -> tuple[Address, int]:
    address, _, port = text.rpartition(":")
    return parse_address(address.strip("[]")), int(port)


def backends(texts: Iterable[str]) -> list[Backend]:
    return sorted(Backend(*split(text)) for text in texts)


def program(
    frontends: str, serving: str = "", listed: str = "", protocol: Protocol = UDP, service: str = "svc-udp", family: int = 4
) -> PortProgram:
    """Write a port: `frontends` as "172.30.3.1:80 nodePort:30380"; `listed` are listed and not serving."""
    ours, others = backends(serving.split()), backends(listed.split())
    fates = [Considered(one, one in ours, Reason.READY if one in ours else Reason.NOT_READY, True, "s") for one in ours + others]
    keys = []
    for text in frontends.split():
        if text.startswith("nodePort:"):
            keys.append(Frontend(Family(family), Address(b""), protocol, int(text[9:])))
        else:
            address, port = split(text)
            keys.append(Frontend(family_of(address), address, protocol, port))
    return PortProgram(
        PortName(ObjectName("ns1", service), "udp", protocol),
        Family(family),
        tuple(FrontendProgram(key, FrontendKind.CLUSTER_IP, REJECT, REJECT, REJECT) for key in keys),
        tuple(fate.backend for fate in sorted(fates)),
        tuple(Fate(*fate[1:]) for fate in sorted(fates)),
        tuple(sorted(ours)),
        (),
    )


def flow(destination: str, answered_by: str, protocol: int = 17) -> Flow:
    (dst, dport), (back, back_port) = split(destination), split(answered_by)
    client = parse_address("203.0.113.2" if len(dst) == 4 else "2001:db8::2")
    return Flow(4 if len(dst) == 4 else 6, protocol, client, dst, 12345, dport, back, back_port, client, 12345, 0, 1)


def is_stale(one: Flow, before: Iterable[PortProgram], after: Iterable[PortProgram], **former: list[Frontend]) -> bool:
    found = stale_flows([one], before, after, lambda address: address == NODE, **former)
    assert found in ([], [one])
    return bool(found)


def test_flow_to_an_endpoint_that_left_is_stale() -> None:
    """U3; the flow to the one that stays lives on (U6)."""
    before = [program(VIP, "10.0.1.1:80 10.0.1.2:80")]
    after = [program(VIP, "10.0.1.2:80")]

    assert is_stale(flow(VIP, "10.0.1.1:80"), before, after)
    assert not is_stale(flow(VIP, "10.0.1.2:80"), before, after)


def test_flow_to_an_endpoint_that_no_longer_serves_is_stale_when_others_do() -> None:
    """U3: a listed endpoint is no refuge while there are serving ones."""
    assert is_stale(flow(VIP, "10.0.1.1:80"), [], [program(VIP, "10.0.1.2:80", listed="10.0.1.1:80")])


def test_flow_to_a_dying_endpoint_ends_when_the_endpoint_is_gone() -> None:
    """U4: with nobody serving it is kept while its endpoint is listed, not longer."""
    dying, gone = program(VIP, listed="10.0.1.1:80"), program(VIP)

    assert not is_stale(flow(VIP, "10.0.1.1:80"), [program(VIP, "10.0.1.1:80")], [dying])
    assert is_stale(flow(VIP, "10.0.1.1:80"), [dying], [gone])


def test_flow_follows_the_target_port() -> None:
    """U8: an endpoint is its address and its port."""
    before, after = [program(VIP, "10.0.1.1:8080")], [program(VIP, "10.0.1.1:9090")]

    assert is_stale(flow(VIP, "10.0.1.1:8080"), before, after)
    assert not is_stale(flow(VIP, "10.0.1.1:9090"), before, after)


@pytest.mark.parametrize("serving", ["", "10.0.1.1:80"])
def test_flow_from_before_the_service_existed_is_stale(serving: str) -> None:
    """U5: it was never translated, and would go on passing by the new rules."""
    assert is_stale(flow(VIP, VIP), [], [program(VIP, serving)])


def test_translated_flow_of_a_deleted_frontend_is_stale() -> None:
    """U5: deleted Service, deleted port, address taken away; even to an endpoint that serves other frontends."""
    both, one = program(f"{VIP} 1.2.3.4:80", "10.0.1.1:80"), program(VIP, "10.0.1.1:80")

    assert is_stale(flow("1.2.3.4:80", "10.0.1.1:80"), [both], [one])
    assert is_stale(flow(VIP, "10.0.1.1:80"), [both], [])
    assert not is_stale(flow(VIP, "10.0.1.1:80"), [both], [one])


def test_untranslated_flow_of_a_deleted_frontend_is_none_of_ours() -> None:
    assert not is_stale(flow("1.2.3.4:80", "1.2.3.4:80"), [program("1.2.3.4:80", "10.0.1.1:80")], [])


def test_frontend_that_moves_belongs_to_its_new_service() -> None:
    """N10: the new Service's endpoints are the refuges, wherever the two stand in the list."""
    before = [program(VIP, "10.0.1.1:80", service="old"), program("172.30.3.9:80", "10.0.1.2:80", service="new")]
    after = [program(VIP, "10.0.1.2:80", service="new"), program("", "10.0.1.1:80", service="old")]

    assert is_stale(flow(VIP, "10.0.1.1:80"), before, after)
    assert not is_stale(flow(VIP, "10.0.1.2:80"), before, after)


def test_node_port_flow_must_be_to_an_address_of_the_node() -> None:
    """U5: traffic through the node to another host with the same port number is not touched."""
    before, after = [program("nodePort:30380", "10.0.1.1:80")], [program("nodePort:30380", "10.0.1.2:80")]

    assert is_stale(flow("192.168.0.2:30380", "10.0.1.1:80"), before, after)
    assert not is_stale(flow("198.51.100.7:30380", "198.51.100.7:30380"), before, after)
    assert not is_stale(flow("198.51.100.7:30380", "10.0.1.1:80"), before, after)


def test_deleted_node_port_loses_its_translated_flows_only() -> None:
    before = [program("nodePort:30380", "10.0.1.1:80")]

    assert is_stale(flow("192.168.0.2:30380", "10.0.1.1:80"), before, [])
    assert not is_stale(flow("192.168.0.2:30380", "192.168.0.2:30380"), before, [])
    assert not is_stale(flow("198.51.100.7:30380", "10.0.1.1:80"), before, [])


def test_frontend_with_an_address_goes_before_a_node_port() -> None:
    """An external IP that is also the node's own address is one frontend, the node port another."""
    after = [
        program("192.168.0.2:30380", "10.0.1.1:80", service="a"),
        program("nodePort:30380", "10.0.1.2:80", service="b"),
    ]

    assert not is_stale(flow("192.168.0.2:30380", "10.0.1.1:80"), [], after)
    assert is_stale(flow("192.168.0.2:30380", "10.0.1.2:80"), [], after)


def test_node_port_of_one_family_is_not_that_of_the_other() -> None:
    after = [program("nodePort:30380", "[fd00::1]:80", family=6)]

    assert not is_stale(flow("192.168.0.2:30380", "10.0.1.1:80"), [], after)


def test_ipv6_flows_go_by_the_same_rules() -> None:
    before = [program("[fd00:1::1]:53", "[fd00::1]:53 [fd00::2]:53", family=6)]
    after = [program("[fd00:1::1]:53", "[fd00::2]:53", family=6)]

    assert is_stale(flow("[fd00:1::1]:53", "[fd00::1]:53"), before, after)
    assert not is_stale(flow("[fd00:1::1]:53", "[fd00::2]:53"), before, after)


def test_only_udp_is_forgotten() -> None:
    """U7: neither a TCP flow of a UDP port nor any flow of a TCP port."""
    gone = program(VIP)

    assert not is_stale(flow(VIP, "10.0.1.1:80", protocol=6), [], [gone])
    assert not is_stale(flow(VIP, "10.0.1.1:80", protocol=132), [], [gone])
    assert not is_stale(flow(VIP, "10.0.1.1:80"), [], [program(VIP, protocol=TCP)])
    assert not is_stale(flow(VIP, "10.0.1.1:80"), [program(VIP, protocol=TCP)], [])


def test_flows_of_others_are_left_alone() -> None:
    after = [program(VIP, "10.0.1.1:80")]

    for one in (flow("172.30.3.1:81", "172.30.3.1:81"), flow("8.8.8.8:53", "8.8.8.8:53"), flow("10.0.1.1:80", "10.0.1.1:80")):
        assert not is_stale(one, after, after)


def test_restart_with_nothing_changed_finds_nothing_stale() -> None:
    """U6: what kpx finds at start is judged by where it leads, so a rolling restart cuts nobody off."""
    after = [program(f"{VIP} nodePort:30380", "10.0.1.1:80 10.0.1.2:80")]

    flows = [flow(VIP, "10.0.1.1:80"), flow(VIP, "10.0.1.2:80"), flow("192.168.0.2:30380", "10.0.1.2:80")]

    assert stale_flows(flows, [], after, lambda address: address == NODE) == []


def test_frontend_found_in_the_kernel_counts_as_gone_when_nobody_wants_it() -> None:
    """U5: its Service was deleted while kpx did not run."""
    found = [program(VIP).frontends[0].frontend, program(VIP, protocol=TCP).frontends[0].frontend]

    assert is_stale(flow(VIP, "10.0.1.1:80"), [], [], former=found)
    assert not is_stale(flow(VIP, "10.0.1.1:80"), [], [program(VIP, "10.0.1.1:80")], former=found)
    assert not is_stale(flow(VIP, "10.0.1.1:80"), [], [], former=found[1:])


def test_stale_flows_keep_their_order() -> None:
    flows = [flow(VIP, f"10.0.9.{number}:80") for number in (3, 1, 2)]

    assert flows == stale_flows([*flows, flow(VIP, "10.0.1.1:80")], [], [program(VIP, "10.0.1.1:80")], lambda _: False)


CYCLE = [
    ("10.0.1.1:80", None, None),
    ("10.0.1.1:80 10.0.1.2:80", "10.0.1.1:80", False),
    ("10.0.1.2:80", "10.0.1.1:80", True),
    ("", "10.0.1.2:80", True),
    ("10.0.1.3:80", "10.0.1.2:80", True),
]


@pytest.mark.parametrize(
    ("frontend", "destination"), [("nodePort:30380", "192.168.0.2:30380"), ("1.2.3.4:80", "1.2.3.4:80"), (VIP, VIP)]
)
def test_server_that_cycles_keeps_or_frees_its_client(frontend: str, destination: str) -> None:
    """U8: a client that keeps sending while servers come and go, as in the tests of Kubernetes."""
    before = [program(frontend)]
    for serving, answered_by, expected in CYCLE:
        after = [program(frontend, serving)]
        if answered_by is not None:
            assert expected == is_stale(flow(destination, answered_by), before, after), serving
            assert needs_flush(before, after) or not expected
        before = after


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([program(VIP, "10.0.1.1:80")], [program(VIP, "10.0.1.1:80")], False),
        ([program(VIP, "10.0.1.1:80")], [program(VIP, "10.0.1.1:80 10.0.1.2:80")], False),
        ([program(VIP, "10.0.1.1:80")], [program(VIP, "10.0.1.2:80")], True),
        ([program(VIP, "10.0.1.1:80")], [program(VIP, listed="10.0.1.1:80")], False),
        ([program(VIP, listed="10.0.1.1:80")], [program(VIP)], True),
        ([program(VIP, listed="10.0.1.1:80")], [program(VIP, "10.0.1.2:80", listed="10.0.1.1:80")], True),
        ([program(VIP, "10.0.1.1:80")], [program(VIP, "10.0.1.1:81")], True),
        ([program(VIP)], [program(VIP, "10.0.1.1:80")], True),
        ([program(VIP, listed="10.0.1.1:80")], [program(VIP, "10.0.1.1:80")], True),
        ([program(VIP)], [program(VIP, listed="10.0.1.1:80")], False),
        ([], [program(VIP)], True),
        ([program(VIP)], [], True),
        ([program(VIP, "10.0.1.1:80")], [program(f"{VIP} nodePort:30380", "10.0.1.1:80")], True),
        ([program(VIP, protocol=TCP)], [], False),
        ([], [program("", "10.0.1.1:80")], False),
        ([program(VIP, "10.0.1.1:80", service="a")], [program(VIP, "10.0.1.1:80", service="b")], False),
    ],
)
def test_flows_are_listed_only_when_some_can_be_stale(
    before: list[PortProgram], after: list[PortProgram], expected: bool
) -> None:
    assert expected == needs_flush(before, after)
