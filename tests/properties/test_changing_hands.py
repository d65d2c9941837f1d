"""
Frontends that pass between IPVS and nftables: whatever was written when an agent dies, a packet for a frontend that is
there before and after comes to what either state says, and never to nothing (16.2, decision 0019).
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from kpx.dataplanes import way
from kpx.dataplanes.ipvs.schema import FAMILIES, TABLES
from kpx.model.decode import Object
from kpx.model.service import Service
from kpx.policy.desired import Backend
from kpx.policy.story import Outcome, Packet, Story
from kpx.reconcile.diff import diff
from kpx.reconcile.plan import Operation, Plan, Verb
from kpx.reconcile.rows import Rows
from tests.lab.walker import PaperNode, plane
from tests.properties.questions import CIDRS, nodes, packets, services, slices

Change = tuple[PaperNode, PaperNode, list[Packet], list[int]]


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Draw two states of a cluster that have most of their Services in common, packets, and where writing breaks off."""
    facts, host = draw(nodes())
    known = draw(st.lists(services, min_size=1, max_size=3, unique_by=lambda service: service.name))
    parts = draw(st.lists(slices(known), min_size=1, max_size=5))
    told: list[Object] = [*known, *parts, CIDRS]
    edited = [draw(_edited(service)) for service in known]
    moved = draw(st.sampled_from([parts, draw(st.lists(slices(known), max_size=5))]))
    before, after = PaperNode(told, facts, host), PaperNode([*edited, *moved, CIDRS], facts, host)
    several = draw(st.lists(packets(facts, host, known), min_size=3, max_size=3))
    return before, after, several, draw(st.lists(st.integers(0, 200), min_size=4, max_size=4))


def _edited(service: Service) -> st.SearchStrategy[Object]:
    """Another state of a Service: what decides who carries it may be another, its addresses and ports are not."""
    return services.map(
        lambda other: structs.replace(
            service,
            source_ranges=other.source_ranges,
            external_policy_local=other.external_policy_local,
            internal_policy_local=other.internal_policy_local,
            affinity_timeout_s=other.affinity_timeout_s,
        )
    )


@settings(max_examples=60)
@given(changes())
def test_no_packet_is_lost_between_the_two(change: Change) -> None:
    before, after, several, ends = change
    composed = plane("ipvs")
    plan = diff(before.rows["ipvs"], after.rows["ipvs"])
    first, last = _of_ipvs(plan)
    told = [(packet, before.story(packet), after.story(packet)) for packet in several]
    lasting = [(packet, _allowed(one, other)) for packet, one, other in told if one.frontend and one.frontend == other.frontend]
    for end in {first + number % (last - first + 1) for number in ends} if lasting else ():
        hooks = list(composed.hooks(_written(before.rows["ipvs"], plan.operations[:end]), before.facts, before.host))
        for packet, allowed in lasting:
            came = way.outcomes(way.walk(hooks, packet, before.host, before.facts.steer_bit))
            written = "\n".join(_spelled(operation) for operation in plan.operations[:end])
            assert _places(came) <= allowed, f"{packet} from {packet.source!r} after {end} operations:\n{written}"


def _of_ipvs(plan: Plan) -> tuple[int, int]:
    """Return how many operations precede the first of IPVS, and up to the last; those of nftables are transactions."""
    places = [number for number, operation in enumerate(plan.operations) if "/" not in operation.table.name]
    return (places[0], places[-1] + 1) if places else (len(plan.operations), len(plan.operations))


def _allowed(one: Story, other: Story) -> frozenset[tuple[str, Backend | None]]:
    return _places(one.outcomes | other.outcomes)


def _places(found: frozenset[Outcome]) -> frozenset[tuple[str, Backend | None]]:
    """Forget whose name a packet has: for a moment that may be as in one state, and its endpoint as in the other."""
    return frozenset((outcome.verdict, outcome.backend) for outcome in found)


def _written(rows: Rows, operations: tuple[Operation, ...]) -> Rows:
    kernel = {table: dict(content) for table, content in rows.items()}
    for verb, table, key, _, new in operations:
        if verb is Verb.REMOVE:
            kernel[table].pop(key, None)
        else:
            kernel.setdefault(table, {})[key] = new
            if table.name == "spared":
                # One destination has one weight, so to add it here is to take it from there.
                kernel.get(TABLES[FAMILIES[table.family], "destinations"], {}).pop(key, None)
    return kernel


def _spelled(operation: Operation) -> str:
    value = operation.new if operation.new is not None else operation.old
    return f"{operation.verb.value} {plane('ipvs').row_command(operation.table, operation.key, value)}"
