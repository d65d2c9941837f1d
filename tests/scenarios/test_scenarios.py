"""
Scenarios: manifests in, frontends and rows out; see `scenario_file` for what a file looks like.

The expected frontends and rows come from computing each state from nothing. Then every history in `scenario_orders` is played
to an agent's engine on an in-memory kernel: whatever happened before, the kernel must hold just those rows, and nothing but the
node's own once everything is deleted. `pytest tests/scenarios --accept` writes what came out as what is expected.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from msgspec import structs

from kpx.agent.engine import Engine
from kpx.cluster.events import Synced, Upsert
from kpx.cluster.view import ClusterView
from kpx.model.addresses import family_of, parse_address
from kpx.model.facts import NodeFacts
from kpx.model.service import Service
from kpx.policy.claims import Claims
from kpx.policy.compile import compile_all
from kpx.policy.desired import ServiceProgram
from kpx.reconcile.rows import Key, Rows, Table, Value
from tests.scenarios import scenario_file
from tests.scenarios.scenario_file import Scenario, State
from tests.scenarios.scenario_kernel import Dictionary, DictionaryKernel, IpvsDictionary
from tests.scenarios.scenario_orders import ORDERS, Order, nothing_in
from tests.scenarios.scenario_table import frontends_text

CASES = sorted((Path(__file__).parent / "cases").glob("*.yaml"))
DATAPLANES: dict[type[Dictionary], Dictionary] = {kind: kind() for kind in (DictionaryKernel, IpvsDictionary)}
DATAPLANE = DATAPLANES[DictionaryKernel]


def programs_of(state: State) -> list[ServiceProgram]:
    """Compute the programs of a state from nothing."""
    view, claims = ClusterView(), Claims()
    for value in state.objects.values():
        view.fold(Upsert(value))
        if isinstance(value, Service):
            claims.update(value.name, value)
    return list(compile_all(view.services, view.slices_of, state.facts, claims).values())


def rows_of(state: State, kind: type[Dictionary] = DictionaryKernel) -> Rows:
    """Compute the rows of a state from nothing."""
    dataplane = DATAPLANES[kind]
    view = ClusterView()
    for value in state.objects.values():
        view.fold(Upsert(value))
    result: Rows = {}
    parts = [dataplane.render_service(program, state.facts) for program in programs_of(state)]
    for part in [dataplane.render_node(state.facts, view.service_cidrs.values()), *parts]:
        for table, rows in part.items():
            result.setdefault(table, {}).update(rows)
    return result


def on_addresses(facts: NodeFacts) -> NodeFacts:
    """Name the addresses of a node on which any answers, as it is done for a data plane with rows for each (D10)."""
    some = (
        address for address in map(parse_address, ("192.0.2.77", "2001:db8::77")) if family_of(address) in facts.node_port_any
    )
    return structs.replace(facts, node_port_addresses=facts.node_port_addresses | frozenset(some))


def every(rows: Rows) -> set[tuple[Table, Key, Value]]:
    return {(table, key, value) for table, content in rows.items() for key, value in content.items()}


def commands(rows: Iterable[tuple[Table, Key, Value]]) -> list[str]:
    return sorted(DATAPLANE.row_command(*row) for row in rows)


def results_of(scenario: Scenario) -> dict[str, dict[str, str]]:
    """Return what is written into the file: rows that any node has anyway are left out."""
    usual = every(rows_of(State("usual", scenario_file.NODE_FACTS, {}, ())))
    return {
        state.name: {
            "frontends": frontends_text(programs_of(state), state.findings),
            "rows": "\n".join(commands(every(rows_of(state)) - usual)),
        }
        for state in scenario.states
    }


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_states_give_these_frontends_and_rows(path: Path, pytestconfig: pytest.Config) -> None:
    scenario = scenario_file.read_scenario(path)
    results = results_of(scenario)
    if pytestconfig.getoption("--accept"):
        scenario_file.accept(path, results)
        scenario = scenario_file.read_scenario(path)
    expected = {
        name: {section: text.rstrip("\n") for section, text in parts.items()} for name, parts in scenario.expected.items()
    }

    assert expected == results


@pytest.mark.parametrize("kind", DATAPLANES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.__name__)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_history_leaves_no_trace(path: Path, order: Order, kind: type[Dictionary]) -> None:
    scenario = scenario_file.read_scenario(path)
    states = [state._replace(facts=on_addresses(state.facts)) for state in scenario.states]
    kernel = kind()
    engine = Engine(kernel, states[0].facts)
    engine.fold([Synced()])
    engine.round()
    after = nothing_in(states[0])

    for facts, events, after_this in order(states):
        engine.set_facts(facts)
        engine.fold(events)
        done = engine.round()
        assert done.refused == 0
        if after_this is not None:
            after = after_this
            expected, actual = every(rows_of(after, kind)), every(kernel.observe().rows)
            assert expected == actual

    assert after.name == "nothing"
    assert engine.programs == {}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_both_data_planes_say_the_same_of_every_frontend(path: Path) -> None:
    """Rows of either, read back, are the same frontends: action, endpoints, masquerading, session affinity."""
    for state in scenario_file.read_scenario(path).states:
        here = state._replace(facts=on_addresses(state.facts))
        told = [DATAPLANES[kind].frontends_of(rows_of(here, kind)) for kind in DATAPLANES]

        assert told[0] == told[1], state.name


def test_every_case_says_what_it_is_about() -> None:
    """A reader finds the story first, and rules by their tags."""
    for path in CASES:
        first = path.read_text()
        assert first.startswith("story: |\n"), path.name
