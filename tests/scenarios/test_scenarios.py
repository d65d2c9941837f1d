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

from kpx.agent.engine import Engine
from kpx.cluster.events import Synced, Upsert
from kpx.cluster.view import ClusterView
from kpx.model.service import Service
from kpx.policy.claims import Claims
from kpx.policy.compile import compile_all
from kpx.policy.desired import ServiceProgram
from kpx.reconcile.rows import Key, Rows, Table, Value
from tests.scenarios import scenario_file
from tests.scenarios.scenario_file import Scenario, State
from tests.scenarios.scenario_kernel import DictionaryKernel
from tests.scenarios.scenario_orders import ORDERS, Order, nothing_in
from tests.scenarios.scenario_table import frontends_text

CASES = sorted((Path(__file__).parent / "cases").glob("*.yaml"))
DATAPLANE = DictionaryKernel()


def programs_of(state: State) -> list[ServiceProgram]:
    """Compute the programs of a state from nothing."""
    view, claims = ClusterView(), Claims()
    for value in state.objects.values():
        view.fold(Upsert(value))
        if isinstance(value, Service):
            claims.update(value.name, value)
    return list(compile_all(view.services, view.slices_of, state.facts, claims).values())


def rows_of(state: State) -> Rows:
    """Compute the rows of a state from nothing."""
    view = ClusterView()
    for value in state.objects.values():
        view.fold(Upsert(value))
    result: Rows = {}
    parts = [DATAPLANE.render_service(program, state.facts) for program in programs_of(state)]
    for part in [DATAPLANE.render_node(state.facts, view.service_cidrs.values()), *parts]:
        for table, rows in part.items():
            result.setdefault(table, {}).update(rows)
    return result


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


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.__name__)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_history_leaves_no_trace(path: Path, order: Order) -> None:
    scenario = scenario_file.read_scenario(path)
    kernel = DictionaryKernel()
    engine = Engine(kernel, scenario.states[0].facts)
    engine.fold([Synced()])
    engine.round()
    after = nothing_in(scenario.states[0])

    for facts, events, after_this in order(scenario.states):
        engine.set_facts(facts)
        engine.fold(events)
        done = engine.round()
        assert done.refused == 0
        if after_this is not None:
            after = after_this
            expected, actual = every(rows_of(after)), every(kernel.observe().rows)
            assert commands(expected - actual) == commands(actual - expected) == []
            assert expected == actual

    assert after.name == "nothing"
    assert engine.programs == {}


def test_every_case_says_what_it_is_about() -> None:
    """A reader finds the story first, and rules by their tags."""
    for path in CASES:
        first = path.read_text()
        assert first.startswith("story: |\n"), path.name
