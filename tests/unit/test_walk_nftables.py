"""The interpreter of nf_tables expressions: what the rules of kpx rely on, and what it must refuse to guess."""

from __future__ import annotations

import sys

import pytest

from kpx.dataplanes.nftables import walk
from kpx.dataplanes.nftables.machine import Ended, Machine, Running
from kpx.dataplanes.nftables.render import render_node
from kpx.dataplanes.nftables.schema import CHAINS, ROWS, endpoint_value, frontend_key
from kpx.dataplanes.nftables.sets import Sets
from kpx.dataplanes.way import Hook, Place, Traveller, outcomes
from kpx.dataplanes.way import walk as send
from kpx.kernel.wire import nft_expression as x
from kpx.kernel.wire.nft import NF_ACCEPT, NF_DROP
from kpx.kernel.wire.nft_instruction import VERDICT, read
from kpx.model.addresses import Family, parse_address, parse_prefix
from kpx.model.facts import LocalDetector, NodeFacts
from kpx.model.names import Protocol
from kpx.policy.desired import Backend
from kpx.policy.story import Outcome, Packet
from kpx.reconcile.rows import Rows

POD, VIP, NODE = parse_address("10.244.0.7"), parse_address("10.96.0.1"), parse_address("192.0.2.1")
FACTS = NodeFacts("n1", families=(Family.IPV4,), local_detector=LocalDetector(prefixes=(parse_prefix("10.244.0.0/16"),)))
TRAVELLER = Traveller(Family.IPV4, POD, VIP, Protocol.TCP, 80, Backend(VIP, 80), "cni0", {})
KEY = frontend_key(VIP, Protocol.TCP, 80)


def run(*expressions: bytes, rows: Rows | None = None, packet: Traveller = TRAVELLER) -> list[tuple[Running, Ended]]:
    """Carry a rule out."""
    machine = Machine(Sets(rows or {}, Family.IPV4), lambda address: address == NODE)
    return list(machine.run([read(each) for each in expressions], Running(packet)))


def falls_through(*expressions: bytes, packet: Traveller = TRAVELLER) -> bool:
    """Whether all expressions of a rule hold."""
    ((_, ended),) = run(*expressions, x.verdict(NF_DROP), packet=packet)
    return ended.code == NF_DROP


@pytest.mark.parametrize(
    ("load", "value"),
    [
        (x.payload(x.PAYLOAD_NETWORK, 12, 4, 1), POD),
        (x.payload(x.PAYLOAD_NETWORK, 16, 4, 1), VIP),
        (x.payload(x.PAYLOAD_TRANSPORT, 2, 2, 1), b"\0\x50"),
        (x.meta(x.META_L4PROTO, 1), b"\x06"),
        (x.meta(x.META_IIFNAME, 1), b"cni0".ljust(16, b"\0")),
        (x.ct(x.CT_STATE, 1), x.CT_STATE_NEW_BIT.to_bytes(4, sys.byteorder)),
        (x.ct(x.CT_DST_IP, 1, x.CT_DIR_ORIGINAL), VIP),
        (x.ct(x.CT_PROTO_DST, 1, x.CT_DIR_ORIGINAL), b"\0\x50"),
        (x.load(b"abcd", 1), b"abcd"),
    ],
)
def test_what_a_packet_is_comes_to_registers_as_in_the_kernel(load: bytes, value: bytes) -> None:
    """And it is what it is, not something else: a comparison with another value fails."""
    assert falls_through(load, x.compare(x.CMP_EQ, value, 1))
    assert not falls_through(load, x.compare(x.CMP_NEQ, value, 1))
    assert not falls_through(load, x.compare(x.CMP_EQ, bytes(len(value)), 1))


def test_addresses_of_ipv6_are_where_its_header_has_them() -> None:
    six = parse_address("fd00::7"), parse_address("fd00:96::1")
    packet = TRAVELLER._replace(family=Family.IPV6, source=six[0], destination=six[1])

    assert falls_through(x.payload(x.PAYLOAD_NETWORK, 8, 16, 0), x.compare(x.CMP_EQ, six[0], 0), packet=packet)
    assert falls_through(x.payload(x.PAYLOAD_NETWORK, 24, 16, 0), x.compare(x.CMP_EQ, six[1], 0), packet=packet)


@pytest.mark.parametrize("destination", [NODE, VIP])
def test_a_route_type_tells_addresses_of_this_host(destination: bytes) -> None:
    local = x.RTN_LOCAL.to_bytes(4, sys.byteorder)
    packet = TRAVELLER._replace(destination=destination)

    is_local = falls_through(x.fib_type(x.FIB_F_DADDR, 0), x.compare(x.CMP_EQ, local, 0), packet=packet)
    assert is_local is (destination == NODE)


def test_bits_outside_of_a_mask_do_not_count() -> None:
    marked = TRAVELLER._replace(mark=0x3001)
    bits = (0x1000).to_bytes(4, sys.byteorder)

    assert falls_through(x.meta(x.META_MARK, 0), x.mask(bits, 0), x.compare(x.CMP_EQ, bits, 0), packet=marked)
    assert not falls_through(x.meta(x.META_MARK, 0), x.compare(x.CMP_EQ, bits, 0), packet=marked)


def test_of_a_random_number_all_are_drawn_and_what_a_map_lacks_goes_nowhere() -> None:
    """Slots 0 and 2 are there, 1 is not: the rule ends without a verdict, as in the kernel."""
    endpoints = {
        KEY + slot.to_bytes(4, sys.byteorder): endpoint_value(parse_address(f"10.244.0.{slot}"), 8080) for slot in (0, 2)
    }
    frontend = (x.payload(1, 16, 4, 0), x.meta(x.META_L4PROTO, 1), x.payload(2, 2, 2, 2))
    rows: Rows = {ROWS[Family.IPV4, "endpoints"]: dict(endpoints)}

    ends = run(*frontend, x.random_below(3, 3), x.map_value("endpoints", 0, 0), x.dnat(2, 0, 1), rows=rows)

    assert [ended.code for _, ended in ends] == [NF_ACCEPT, "next rule", NF_ACCEPT]
    assert [running.packet.destination[3] for running, _ in ends] == [0, VIP[3], 2]
    assert ends[0][0].packet.port == 8080
    assert ends[0][0].packet.asked == Backend(VIP, 80)


def test_what_a_rule_writes_another_finds() -> None:
    write = (x.payload(1, 12, 4, 0), x.update_set("pod-clients", 0, 60_000))
    ((after, _),) = run(*write)

    assert falls_through(x.payload(1, 12, 4, 0), x.in_set("pod-clients", 0), packet=after.packet)
    assert falls_through(x.payload(1, 12, 4, 0), x.in_set("pod-clients", 0, inverted=True))
    assert not TRAVELLER.memory


def test_a_register_that_nobody_wrote_is_an_error() -> None:
    """The kernel would compare whatever is there."""
    with pytest.raises(ValueError, match="none of its expressions wrote"):
        run(x.payload(1, 16, 4, 0), x.meta(x.META_L4PROTO, 1), x.map_verdict("frontends", 0))


@pytest.mark.parametrize(
    "unknown", [x.meta(99, 0), x.ct(99, 0), x.payload(2, 13, 1, 0), b"\x0c\0\x01\0counter\0", x.payload(1, 16, 40, 0)]
)
def test_what_rules_of_kpx_never_ask_is_an_error_and_not_a_guess(unknown: bytes) -> None:
    with pytest.raises(ValueError, match=r"walk knows|of which the walk"):
        run(unknown)


@pytest.mark.parametrize("word", [0, 1, 4, 5, 15])
def test_registers_are_read_back_as_they_were_written(word: int) -> None:
    assert read(x.meta(x.META_MARK, word)).registers == (word,)
    assert read(x.verdict(NF_DROP)).registers == (VERDICT,)


def hooks(rows: Rows) -> list[Hook]:
    return list(walk.hooks_of(rows, FACTS, {NODE}))


def test_every_base_chain_is_a_hook_where_the_kernel_calls_it() -> None:
    found = {(hook.place, hook.is_nat) for hook in hooks(render_node(FACTS, ()))}

    assert {(Place.PREROUTING, True), (Place.OUTPUT, True), (Place.POSTROUTING, True)} <= found
    assert {(Place.INPUT, False), (Place.FORWARD, False), (Place.OUTPUT, False)} <= found
    assert hooks({}) == []


def test_a_rule_of_somebody_else_is_stepped_over_and_named() -> None:
    rows = render_node(FACTS, ())
    chains = rows[CHAINS[Family.IPV4]]
    chains["forwarding"] = ("mine #0", *chains["forwarding"])

    (way,) = send(hooks(rows), Packet(VIP, 80, Protocol.TCP, POD), {NODE}, FACTS.steer_bit)

    assert way.outcome == Outcome("pass")
    assert any("did not write: mine #0" in met.words for met in way.met)


def test_a_chain_that_is_missing_is_named() -> None:
    rows = render_node(FACTS, ())
    rows[ROWS[Family.IPV4, "frontends"]] = {KEY: "goto pick-1"}

    (way,) = send(hooks(rows), Packet(VIP, 80, Protocol.TCP, POD), {NODE}, FACTS.steer_bit)

    assert outcomes([way]) == {Outcome("pass")}
    assert [met.chain for met in way.met if met.words == "the chain is missing"] == ["pick-1"]


def test_a_row_that_kpx_would_not_write_cannot_be_walked() -> None:
    rows = render_node(FACTS, ())
    rows[ROWS[Family.IPV4, "frontends"]] = {KEY: "queue"}

    with pytest.raises(ValueError, match="'queue'"):
        send(hooks(rows), Packet(VIP, 80, Protocol.TCP, POD), {NODE}, FACTS.steer_bit)


def test_who_sends_a_packet_must_be_said() -> None:
    with pytest.raises(ValueError, match="needs a source"):
        send([], Packet(VIP, 80, Protocol.TCP), {NODE}, FACTS.steer_bit)
