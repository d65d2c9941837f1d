"""The interpreter of our iptables rules and of IPVS: every rule can be read, and means what it means to iptables."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from kpx.dataplanes.ipvs import rule_text
from kpx.dataplanes.ipvs.rule_text import Asked
from kpx.dataplanes.ipvs.rules import chains
from kpx.dataplanes.ipvs.schema import TABLES, server_key
from kpx.dataplanes.ipvs.walk import hooks_of
from kpx.dataplanes.way import Place, Traveller, Turn, outcomes, walk
from kpx.kernel.wire.ipvs import ServerSettings
from kpx.model.addresses import Family, parse_address, parse_prefix
from kpx.model.facts import DetectLocal, LocalDetector, NodeFacts
from kpx.model.names import Protocol
from kpx.policy.desired import Backend
from kpx.policy.story import Outcome, Packet
from kpx.reconcile.rows import Rows

POD, VIP, NODE, ENDPOINT = map(parse_address, ("10.244.0.7", "10.96.0.1", "192.0.2.1", "10.244.1.1"))
DETECTORS = [
    LocalDetector(prefixes=(parse_prefix("10.244.0.0/16"),)),
    LocalDetector(DetectLocal.BRIDGE_INTERFACE, interface="cni0"),
    LocalDetector(DetectLocal.INTERFACE_NAME_PREFIX, interface="cali"),
]
FACTS = NodeFacts("n1", families=(Family.IPV4,), local_detector=DETECTORS[0])
TRAVELLER = Traveller(Family.IPV4, POD, VIP, Protocol.TCP, 80, Backend(VIP, 80), "cni0", {}, mark=0x1000)
KEY = server_key(VIP, Protocol.TCP, 80)
HERE = Asked(lambda name, directions, packet: (name, directions) == ("KPX-A", "dst,dst"), lambda address: address == NODE)


@pytest.mark.parametrize("retiring", [False, True])
@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("family", list(Family))
def test_every_rule_there_is_can_be_read(family: Family, detector: LocalDetector, retiring: bool) -> None:
    facts = NodeFacts("n1", local_detector=detector)
    written = chains(facts, family, retiring)
    names = {chain.name for chain in written}
    targets = {rule_text.read(text).target.name for chain in written for _, text in chain.rules}

    assert targets - names == {"DROP", "MARK", "MASQUERADE", "REJECT", "RETURN"}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("-p tcp -j DROP", True),
        ("-p udp -j DROP", False),
        ("! -p udp -j DROP", True),
        ("-p icmp -j DROP", False),
        ("-i cni0 -j DROP", True),
        ("-i cni+ -j DROP", True),
        ("! -i cni+ -j DROP", False),
        ("-i eth+ -j DROP", False),
        ("-m conntrack --ctstate NEW -j DROP", True),
        ("-m conntrack ! --ctstate NEW -j DROP", False),
        ("-m conntrack --ctstate RELATED,ESTABLISHED -j DROP", False),
        ("-m conntrack --ctstate DNAT -j DROP", False),
        ("-m conntrack ! --ctstatus CONFIRMED -j DROP", True),
        ("-m mark --mark 0x1000/0x1000 -j DROP", True),
        ("-m mark --mark 0x2000/0x2000 -j DROP", False),
        ("-m addrtype --dst-type LOCAL -j DROP", False),
        ("-m set --match-set KPX-A dst,dst -j DROP", True),
        ("-m set ! --match-set KPX-A dst,dst -j DROP", False),
        ("-m set --match-set KPX-B dst,dst -j DROP", False),
        ("-m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP", True),
        ("-p tcp -m set --match-set KPX-B dst,dst -j DROP", False),
    ],
)
def test_a_rule_matches_as_in_iptables(text: str, holds: bool) -> None:
    assert rule_text.read(text).matches(TRAVELLER, HERE) is holds


@pytest.mark.parametrize(
    "text",
    [
        "-m recent --update -j DROP",
        "-p tcp",
        "-j MARK --set-mark 1",
        "-m addrtype --dst-type MULTICAST -j DROP",
        "-m conntrack --ctstatus EXPECTED -j DROP",
        "-j DNAT --to 1.2.3.4",
    ],
)
def test_what_it_does_not_understand_is_an_error_and_not_a_guess(text: str) -> None:
    with pytest.raises(ValueError, match=r"the walk does not|does nothing"):
        rule_text.read(text)


def rows_of(weights: Iterable[int], steered: bool = True) -> Rows:
    """One virtual server; its destinations have these weights."""
    destinations = {KEY + ENDPOINT + (8080 + n).to_bytes(2, "big"): weight for n, weight in enumerate(weights)}
    tables = {"virtual-servers": {KEY: ServerSettings("rr", 0, 0)}, "servers": {KEY: b""}, "destinations": destinations}
    tables["frontends"] = {KEY: b""} if steered else {}
    return {TABLES[Family.IPV4, name]: dict(content) for name, content in tables.items()}


def sent(rows: Rows, source: bytes = POD) -> frozenset[Outcome]:
    packet = Packet(VIP, 80, Protocol.TCP, source, "cni0")
    return outcomes(walk(hooks_of(rows, FACTS, {NODE}), packet, {NODE}, FACTS.steer_bit))


def test_a_flow_goes_to_any_destination_that_has_a_weight() -> None:
    assert sent(rows_of([1, 0, 1])) == {Outcome("forward", Backend(ENDPOINT, port)) for port in (8080, 8082)}


def test_what_is_not_steered_never_comes_to_its_virtual_server_but_from_this_host() -> None:
    """IPVS takes what this host sends wherever it is bound, and of the rest only what is delivered here."""
    assert sent(rows_of([1], steered=False)) == {Outcome("pass")}
    assert sent(rows_of([1], steered=False), NODE) == {Outcome("forward", Backend(ENDPOINT, 8080))}


def test_nobody_answers_for_a_virtual_server_without_destinations_that_packets_are_steered_to() -> None:
    assert sent(rows_of([])) == {Outcome("drop")}


def test_the_mark_of_steering_is_gone_when_the_packet_goes_on_to_its_endpoint() -> None:
    """Else it would be delivered here (decision 0013): it passes the hooks of output again."""
    packet = Packet(VIP, 80, Protocol.TCP, POD, "cni0")
    (way,) = walk(hooks_of(rows_of([1]), FACTS, {NODE}), packet, {NODE}, FACTS.steer_bit)

    assert [met.words for met in way.met if met.place == "output"] == ["IPVS has translated it", "steering has done its work"]


def test_without_rows_there_are_no_hooks() -> None:
    assert list(hooks_of({}, FACTS, {NODE})) == []
    assert {hook.place for hook in hooks_of(rows_of([1]), FACTS, {NODE})} == set(Place)


def test_a_drop_ends_the_way() -> None:
    rows = rows_of([1]) | {TABLES[Family.IPV4, "service-cidrs"]: {parse_address("10.96.0.0") + b"\x10": b""}}
    packet = Packet(parse_address("10.96.0.9"), 80, Protocol.TCP, POD, "cni0")

    (way,) = walk(hooks_of(rows, FACTS, {NODE}), packet, {NODE}, FACTS.steer_bit)

    assert (way.outcome.verdict, way.met[-1].words) == (Turn.DROP.value, "a Service address that nobody owns")
