"""The state cases about flows the kernel tracks: which of them a proxy deletes (contract section 11)."""

from __future__ import annotations

from state_cases import CASES, Case, of_kind
from test_state_cases import FAMILIES, program_of, view_of

from kpx.dataplanes.stale import stale_flows
from kpx.kernel.wire.conntrack import Flow
from kpx.model.addresses import parse_address
from kpx.model.facts import NodeFacts
from kpx.model.names import Protocol

CLIENT = parse_address("203.0.113.2")


def tracked(entry: Case) -> Flow:
    destination, back = parse_address(entry["orig_dst"]), parse_address(entry["reply_src"])
    number = int(Protocol[entry["proto"]])
    return Flow(
        4, number, CLIENT, destination, 12345, entry["orig_dport"], back, entry["reply_sport"], CLIENT, 12345, 0, 1
    )  # fmt: skip


@of_kind("conntrack_cleanup")
def test_conntrack_cleanup(case: Case) -> None:
    """U2-U7: at a start with these objects, these flows and no others are deleted."""
    family = FAMILIES[case["family"]]
    view = view_of(*case["objects"])
    facts = NodeFacts("n1", families=(family,), node_port_any=frozenset({family}))
    ports = [port for service in view.services.values() for port in program_of(service, view, facts).ports]
    here = set(map(parse_address, case.get("node_addresses", ["192.168.0.2"])))
    for entry in case["entries"]:
        flow = tracked(entry)
        stale = stale_flows([flow], ports, ports, lambda address: address in here)
        assert bool(stale) == entry.get("kpx_deleted", entry["deleted"]), entry


def test_some_flows_are_deleted_and_some_are_kept() -> None:
    """The cases tell one from the other."""
    entries = [entry for case in CASES if case["kind"] == "conntrack_cleanup" for entry in case["entries"]]

    assert {entry["deleted"] for entry in entries} == {True, False}
