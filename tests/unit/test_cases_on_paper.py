"""
Every packet case of tests/cases without a packet: policy, and a walk through the rows of each data plane, must come to what the
case expects. Real packets then say what a kernel makes of the same rows (tests/packets/test_cases.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from kpx.dataplanes.nftables.schema import read_endpoint
from kpx.dataplanes.way import NOTHING_REMEMBERED, Memory, outcomes
from kpx.model.addresses import Address, is_loopback, parse_address
from kpx.model.names import ObjectName, Protocol
from kpx.policy.desired import Backend
from kpx.policy.story import Outcome, Packet, Story
from tests.lab.flows import Row, parse_endpoint, row_from_case
from tests.lab.walker import PLANES, Cluster, PaperNode, decoded, paper_node
from tests.packets.case_files import all_cases

CASES = all_cases()


def wanted(row: Row, host: frozenset[Address]) -> frozenset[Outcome]:
    """What a row expects; an endpoint of which it does not say who it sees counts as seeing the client."""
    expected = row.expected
    if expected.verdict in ("pass", "accept"):
        address = parse_address(row.destination)
        return frozenset({Outcome("local" if address in host or is_loopback(address) else "pass")})
    if expected.verdict != "dnat":
        return frozenset({Outcome(expected.verdict)})
    return frozenset(Outcome("forward", backend_of(text), expected.masquerade.get(text, False)) for text in expected.endpoints)


def backend_of(text: str) -> Backend:
    address, port = parse_endpoint(text)
    return Backend(parse_address(address), port)


def as_seen(ends: Iterable[Outcome], row: Row, host: frozenset[Address]) -> frozenset[Outcome]:
    """
    Outcomes as a row can tell them: the endpoint sees an address of the node, or the client's.

    What the node itself sends has one of the node's in any case; then, and where the row is silent, what it expects is seen.
    """
    from_here = parse_address(row.source) in host
    by_row = {backend_of(text): row.expected.masquerade.get(text) for text in row.expected.endpoints}

    def seen(outcome: Outcome) -> Outcome:
        told = by_row.get(outcome.backend) if outcome.backend in by_row else outcome.masquerade
        return outcome._replace(masquerade=bool(told)) if from_here or told is None else outcome

    return frozenset(map(seen, ends))


class Clients:
    """What each data plane remembers of clients over the steps of a case."""

    def __init__(self) -> None:
        self.memory: dict[str, Memory] = dict.fromkeys(PLANES, NOTHING_REMEMBERED)

    def forget(self, node: PaperNode) -> None:
        """Forget endpoints that are in no slice any more, as the agent has data planes do (A4)."""
        listed = {backend for program in node.programs.values() for port in program.ports for backend in port.listed}
        for plane, memory in self.memory.items():
            self.memory[plane] = {
                place: {key: value for key, value in held.items() if not value or Backend(*read_endpoint(value)) in listed}
                for place, held in memory.items()
            }

    def goes(self, node: PaperNode, plane: str, packet: Packet) -> frozenset[Outcome]:
        """Let the packet go one of its ways; return all it might have gone."""
        ways = node.ways(plane, packet, self.memory[plane])
        self.memory[plane] = ways[0].memory
        return outcomes(ways)


@pytest.mark.parametrize("name", sorted(CASES))
def test_policy_and_both_data_planes_expect_what_the_case_does(name: str) -> None:
    """All flows of the case, before and after each of its steps."""
    case, clients = CASES[name], Clients()
    objects = decoded(case["objects"])
    check(case, case, objects, clients)
    for step in case.get("steps", ()):
        objects |= decoded(step.get("apply", ()))
        for gone in step.get("delete", ()):
            del objects[gone["kind"], ObjectName(gone.get("namespace", ""), gone["name"])]
        check(case, step, objects, clients)


def check(case: Mapping[str, Any], part: Mapping[str, Any], objects: Cluster, clients: Clients) -> None:
    """Ask every flow of a part of a case that is a new one; those that live on follow no rule."""
    rows = [row for row in map(row_from_case, part.get("flows", ())) if not row.established]
    vips = {parse_address(row.source) for row in rows if row.kind == "node-as-vip"}
    node = paper_node(case["config"], [each for values in objects.values() for each in values], vips)
    clients.forget(node)
    for row in rows:
        packet = Packet(parse_address(row.destination), row.port, Protocol[row.protocol], parse_address(row.source))
        story, expected = node.story(packet), wanted(row, node.host)
        said = as_seen(story.outcomes, row, node.host)
        for plane in PLANES:
            assert outcomes(node.ways(plane, packet)) == story.outcomes, f"{plane}: {row}"
            went = as_seen(clients.goes(node, plane, packet), row, node.host)
            if row.sticky:
                assert went <= expected <= said, f"{plane}: {row}: {story.steps}"
            else:
                assert went == expected == said, f"{plane}: {row}: {story.steps}"
        check_what_people_read(story, said, row)


def check_what_people_read(story: Story, said: frozenset[Outcome], row: Row) -> None:
    """The values `kpx explain -o json` prints, against the case."""
    printed = story.to_json()
    verdicts = {"dnat": "forward", "accept": "pass"}
    assert printed["verdict"] == verdicts.get(row.expected.verdict, row.expected.verdict), f"{row}: {story.steps}"
    assert {one["endpoint"] for one in printed["endpoints"] if one["chosen"]} == {str(one.backend) for one in said if one.backend}
    assert printed["source"] == {"pod": "pod", "external": "outside"}.get(row.kind, "host") or row.kind in ("pod", "external")
