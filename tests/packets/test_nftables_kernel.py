"""The nftables data plane against a real kernel, in a namespace of its own: rows go in and come back, nothing else is touched."""

from __future__ import annotations

import json
import select
from collections.abc import Iterator

import pytest

from kpx.dataplanes.nftables.plane import NftablesDataplane
from kpx.dataplanes.nftables.schema import ROWS, endpoint_value
from kpx.kernel.netlink import Netlink
from kpx.model.addresses import Family, parse_address, parse_prefix
from kpx.model.facts import DetectLocal, LocalDetector, NodeFacts
from kpx.model.names import ObjectName
from kpx.model.node import ServiceCIDR
from kpx.reconcile.diff import diff
from kpx.reconcile.plan import Operation, Plan, Verb
from kpx.reconcile.rows import Rows
from tests.lab.netns import Namespace
from tests.lab.programs import service_program
from tests.lab.ruleset import assert_lists_cleanly

pytestmark = [pytest.mark.packets, pytest.mark.dataplane("nftables")]

CIDRS = [ServiceCIDR(ObjectName("", "k"), (parse_prefix("10.96.0.0/16"), parse_prefix("fd10::/112")))]
DETECTORS = {
    "by range": LocalDetector(prefixes=(parse_prefix("10.0.0.0/8"), parse_prefix("fd01::/48"))),
    "by bridge": LocalDetector(DetectLocal.BRIDGE_INTERFACE, (), "cbr0"),
    "by name": LocalDetector(DetectLocal.INTERFACE_NAME_PREFIX, (), "cali"),
    "none": LocalDetector(),
}


def facts(detector: str = "by range", anywhere: bool = False) -> NodeFacts:
    return NodeFacts(
        "n1",
        node_port_addresses=frozenset([parse_address("192.168.0.2"), parse_address("fd00::2")]),
        node_port_any=frozenset(Family) if anywhere else frozenset(),
        local_detector=DETECTORS[detector],
    )


@pytest.fixture
def host() -> Iterator[Namespace]:
    namespace = Namespace("host")
    yield namespace
    namespace.close()


@pytest.fixture
def plane(host: Namespace) -> Iterator[NftablesDataplane]:
    with host.entered():
        opened = NftablesDataplane(Netlink())
        opened.fileno()
    yield opened
    opened.close()


def desired(plane: NftablesDataplane, of: NodeFacts, *programs) -> Rows:
    rows = plane.render_node(of, CIDRS)
    for program in programs:
        for table, content in plane.render_service(program, of).items():
            rows.setdefault(table, {}).update(content)
    return rows


def synchronise(plane: NftablesDataplane, of: NodeFacts, rows: Rows):
    plane.prepare(of)
    return plane.apply(diff(plane.observe().rows, rows))


def filled(rows: Rows) -> Rows:
    return {table: content for table, content in rows.items() if content}


WEB = service_program("web", "10.96.0.1", ["10.0.1.1", "10.0.1.2"], external_ip="203.0.113.5", node_port=30080, affinity_s=60)
SIX = service_program("six", "fd10::1", ["fd01::1"], external_ip="fd20::1", node_port=30081, affinity_s=10800)
NEAR = service_program(
    "near", "10.96.0.4", ["10.0.1.1", "10.0.2.1", "10.0.3.1"], external_ip="203.0.113.4", node_port=30084, affinity_s=60,
    here=["10.0.1.1"], source_ranges=("192.0.2.0/28", "198.51.100.7/32"),
)  # fmt: skip
FAR = service_program("far", "10.96.0.5", ["10.0.2.1"], external_ip="203.0.113.6", node_port=30085, here=[])
NEAR_SIX = service_program(
    "near6", "fd10::4", ["fd01::1", "fd02::1", "fd03::1"], external_ip="fd20::4", affinity_s=60,
    here=["fd01::1"], source_ranges=("2001:db8::/33", "2001:db8:ffff::7/128"),
)  # fmt: skip
DNS = service_program("dns", "10.96.0.9", ["10.0.1.7"], port=53)
THEIRS = """
table ip theirs {
    set s { type ipv4_addr; elements = { 10.0.0.1 }; }
    chain c { type nat hook prerouting priority -100; ip daddr @s counter; }
}
"""
TOO_LONG = endpoint_value(parse_address("fd00::1"), 80)
"""An IPv6 endpoint, which a map of IPv4 endpoints refuses."""
EMPTY = service_program("empty", "10.96.0.8", [], node_port=30082)


@pytest.mark.parametrize("anywhere", [False, True])
@pytest.mark.parametrize("detector", list(DETECTORS))
def test_rows_come_back_as_written_and_list_cleanly(host, plane, detector, anywhere):
    of = facts(detector, anywhere)
    rows = desired(plane, of, WEB, SIX, DNS, EMPTY, NEAR, FAR, NEAR_SIX)

    assert synchronise(plane, of, rows).failures == ()
    assert filled(plane.observe().rows) == filled(rows)
    assert plane.prepare(of) == []
    assert "table ip kpx" in assert_lists_cleanly(host)


def test_every_table_and_rule_says_what_it_is_for(host, plane):
    of = facts()
    synchronise(plane, of, desired(plane, of, WEB, SIX, NEAR, NEAR_SIX))
    objects = [
        next(iter(o.values())) | {"kind": next(iter(o))}
        for o in json.loads(host.run("nft", "-j", "list", "ruleset").stdout)["nftables"]
    ]
    rules = [o for o in objects if o["kind"] == "rule"]
    text = host.run("nft", "list", "ruleset").stdout

    assert rules
    assert all(rule.get("comment") for rule in rules)
    assert text.count("comment") == len(rules) + sum(o["kind"] in ("set", "map", "table") for o in objects)


def test_nothing_to_do_writes_nothing(plane):
    of = facts()
    rows = desired(plane, of, WEB, SIX)
    synchronise(plane, of, rows)
    outcome = synchronise(plane, of, rows)

    assert (outcome.datagrams, outcome.written_bytes) == (0, 0)


def test_going_from_any_state_to_any_other_leaves_exactly_the_other(plane):
    of = facts()
    states = [
        (),
        (WEB,),
        (service_program("web", "10.96.0.1", ["10.0.1.2", "10.0.1.3", "10.0.1.4"], external_ip="203.0.113.5"), DNS),
        (SIX, EMPTY),
        (service_program("empty", "10.96.0.8", ["10.0.1.5"], node_port=30082), WEB),
        (NEAR, FAR, NEAR_SIX),
        (service_program("near", "10.96.0.4", ["10.0.1.1", "10.0.2.1"], external_ip="203.0.113.4", node_port=30084),),
        (service_program("web", "10.96.0.1", [], external_ip="203.0.113.5", node_port=30080, affinity_s=60),),
    ]
    for one in states:
        for other in states:
            synchronise(plane, of, desired(plane, of, *one))
            rows = desired(plane, of, *other)

            assert synchronise(plane, of, rows).failures == ()
            assert filled(plane.observe().rows) == filled(rows)


def test_a_changed_setting_replaces_rules_in_place_and_keeps_affinity(host, plane):
    of = facts()
    synchronise(plane, of, desired(plane, of, WEB))
    host.run("nft", "add element ip kpx nodeport-affinity { 192.0.2.1 . tcp . 30080 timeout 60s : 10.0.1.1 . 8080 }")
    other = facts("by bridge", anywhere=True)
    rows = desired(plane, other, WEB)

    assert synchronise(plane, other, rows).failures == ()
    assert filled(plane.observe().rows) == filled(rows)
    assert [str(e.backend) for e in plane.affinity()] == ["10.0.1.1:8080"]


def test_a_refused_row_takes_its_frontend_with_it_and_nothing_else(plane):
    of = facts()
    synchronise(plane, of, desired(plane, of, WEB))
    rows = desired(plane, of, WEB, DNS, SIX)
    plan = diff(plane.observe().rows, rows)
    table = ROWS[Family.IPV4, "endpoints"]
    spoiled = [o._replace(new=TOO_LONG) if o.table == table else o for o in plan.operations]
    outcome = plane.apply(Plan(tuple(spoiled)))
    dns = next(f.frontend for _, f in DNS.frontends())

    assert {plane.row_frontend(f.operation.table, f.operation.key) for f in outcome.failures} == {dns}
    assert any("add element ip kpx endpoints { 10.96.0.9 . tcp . 53" in f.reason for f in outcome.failures)
    programmed = {str(k.frontend) for k in plane.frontends_of(plane.observe().rows)}
    assert {"10.96.0.1:80/TCP", "[fd10::1]:80/TCP"} <= programmed
    assert "10.96.0.9:53/TCP" not in programmed


def test_a_refused_row_holds_its_frontend_back_in_later_transactions_too(plane, monkeypatch):
    """A large plan goes in several transactions: a slot refused in the first must keep the frontend out of the last."""
    monkeypatch.setattr("kpx.dataplanes.nftables.apply.TRANSACTION_MAX_OPERATIONS", 40)
    of = facts()
    programs = [service_program(f"s{i}", f"10.96.1.{i}", ["10.0.1.1", "10.0.1.2"]) for i in range(60)]
    plane.prepare(of)
    plan = diff(plane.observe().rows, desired(plane, of, *programs))
    table = ROWS[Family.IPV4, "endpoints"]
    bad = parse_address("10.96.1.7")
    spoiled = [o._replace(new=TOO_LONG) if o.table == table and o.key[:4] == bad else o for o in plan.operations]
    outcome = plane.apply(Plan(tuple(spoiled)))

    assert outcome.datagrams > 4
    assert {plane.row_frontend(f.operation.table, f.operation.key).address for f in outcome.failures} == {bad}
    programmed = plane.frontends_of(plane.observe().rows)
    assert len(programmed) == 59
    assert all(len(frontend.backends) == 2 for frontend in programmed)


def test_many_refused_rows_are_all_named(plane):
    of = facts()
    synchronise(plane, of, desired(plane, of))
    programs = [service_program(f"s{i}", f"10.96.1.{i}", ["10.0.1.1"]) for i in range(200)]
    plan = diff(plane.observe().rows, desired(plane, of, *programs))
    table = ROWS[Family.IPV4, "endpoints"]
    bad = {parse_address(f"10.96.1.{i}") for i in range(0, 200, 7)}
    spoiled = [o._replace(new=TOO_LONG) if o.table == table and o.key[:4] in bad else o for o in plan.operations]
    outcome = plane.apply(Plan(tuple(spoiled)))

    assert {plane.row_frontend(f.operation.table, f.operation.key).address for f in outcome.failures} == bad
    assert len(plane.frontends_of(plane.observe().rows)) == 200 - len(bad)


def test_a_small_socket_buffer_means_more_transactions_and_the_same_rows(plane, host, monkeypatch):
    """Without the right to a large buffer (in a user namespace) a plan goes in pieces, each of which fits."""
    monkeypatch.setattr("kpx.kernel.netlink.BUFFER_BYTES", 64 << 10)
    of = facts()
    programs = [service_program(f"s{i}", f"10.96.3.{i}", [f"10.1.{i}.{e}" for e in range(1, 9)]) for i in range(200)]
    rows = desired(plane, of, *programs)
    with host.entered():
        modest = NftablesDataplane(Netlink())
    outcome = synchronise(modest, of, rows)
    modest.close()

    assert outcome.failures == ()
    assert outcome.datagrams > 10
    assert filled(plane.observe().rows) == filled(rows)


def test_affinity_to_an_endpoint_that_is_gone_is_forgotten_and_the_rest_kept(host, plane):
    of = facts()
    synchronise(plane, of, desired(plane, of, WEB))
    endpoints = ((client, "10.0.1.1" if client % 2 else "10.0.1.2") for client in range(1, 200))
    entries = (f"192.0.2.{client} . 10.96.0.1 . tcp . 80 timeout 60s : {endpoint} . 8080" for client, endpoint in endpoints)
    host.run("nft", "-f", "-", stdin=f"add element ip kpx affinity {{ {', '.join(entries)} }}\n")
    gone = parse_address("10.0.1.1")

    assert plane.forget_affinity(lambda entry: entry.backend.address == gone) == 100
    assert {str(e.backend) for e in plane.affinity()} == {"10.0.1.2:8080"}
    assert len(plane.affinity()) == 99


def test_foreign_tables_are_neither_read_nor_touched(host, plane):
    host.run("nft", "-f", "-", stdin=THEIRS)
    before = host.run("nft", "list", "table", "ip", "theirs").stdout
    of = facts()
    synchronise(plane, of, desired(plane, of, WEB))

    assert all(table.family in ("ip", "ip6") for table in plane.observe().rows)
    assert sorted(plane.cleanup()) == ["nftables table ip kpx", "nftables table ip6 kpx"]
    assert plane.cleanup() == []
    assert host.run("nft", "list", "ruleset").stdout == before


DAMAGE = {
    "a rule is deleted": "flush chain ip kpx masquerading",
    "a rule is added": "insert rule ip kpx forwarding drop",
    "an element is deleted": "delete element ip kpx frontends { 10.96.0.1 . tcp . 80 }",
    "an element is added": "add element ip kpx cluster-ips { 10.96.7.7 }",
    "a base chain is emptied": "flush chain ip kpx prerouting",
    "a range is added": "add element ip kpx service-cidrs { 10.98.0.0/16 }",
    "the table is gone": "delete table ip kpx",
    "everything is gone": "flush ruleset",
    "an element no Service has is added": "add element ip kpx frontends { 10.96.0.1 . icmp . 80 : accept }",
    "a chain is added": "add rule ip kpx refuse counter",
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_damage_is_noticed_without_asking_and_repaired(host, plane, damage):
    of = facts()
    rows = desired(plane, of, WEB, SIX)
    synchronise(plane, of, rows)

    assert plane.touched() == []
    host.run("nft", DAMAGE[damage])
    select.select([plane.fileno()], [], [], 5)
    assert any("kpx" in sentence for sentence in plane.touched())
    assert synchronise(plane, of, rows).failures == ()
    assert filled(plane.observe().rows) == filled(rows)


def test_what_others_do_to_their_tables_is_none_of_our_business(host, plane):
    of = facts()
    synchronise(plane, of, desired(plane, of, WEB))
    host.run("nft", "add table ip kpx-not-ours")

    assert select.select([plane.fileno()], [], [], 5)[0]
    assert plane.touched() == []


def test_a_table_of_another_version_is_replaced_in_one_transaction(host, plane):
    host.run("nft", "-f", "-", stdin="table ip kpx { map frontends { type ipv4_addr : verdict; }; chain old { }; }")
    of = facts()
    rows = desired(plane, of, WEB)

    assert any("has another type" in sentence for sentence in plane.prepare(of))
    assert plane.apply(diff(plane.observe().rows, rows)).failures == ()
    assert filled(plane.observe().rows) == filled(rows)
    assert "chain old" not in host.run("nft", "list", "ruleset").stdout


def test_a_missing_set_is_told_and_made_again(host, plane):
    of = facts()
    rows = desired(plane, of, DNS)
    synchronise(plane, of, rows)
    host.run("nft", "flush chain ip kpx refusing; delete set ip kpx captured")

    assert plane.observe().differences == ("table ip kpx: captured is missing",)
    assert synchronise(plane, of, rows).failures == ()
    assert plane.observe().differences == ()
    assert filled(plane.observe().rows) == filled(rows)


def test_the_probe_finds_nothing_missing_and_writes_nothing(host, plane):
    assert plane.probe(facts("by bridge", anywhere=True)) == []
    assert host.run("nft", "list", "ruleset").stdout == ""


def test_one_change_of_an_endpoint_sends_only_its_own_rows(plane):
    of = facts()
    programs = [service_program(f"s{i}", f"10.96.2.{i}", [f"10.0.{i}.{e}" for e in range(10)]) for i in range(200)]
    rows = desired(plane, of, *programs)
    synchronise(plane, of, rows)
    table = ROWS[Family.IPV4, "endpoints"]
    key, old = next(iter(rows[table].items()))
    outcome = plane.apply(Plan((Operation(Verb.CHANGE, table, key, old, old[:3] + b"\xfe" + old[4:]),)))

    assert outcome.failures == ()
    assert outcome.datagrams == 1
    assert outcome.written_bytes < 400
