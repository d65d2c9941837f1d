"""
The scenario files once more, through an API server: the same manifests, listed and watched, give the same frontends and rows.

Each step is done to the stand-in server while the Kubernetes source watches; what the agent's engine comes to must be what the
scenario's state gives when it is computed from nothing. In the end everything is deleted there, and nothing is left here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kpx.agent.engine import Engine
from kpx.cluster.events import Delete, Event, Upsert
from kpx.model.names import ObjectName
from kpx.model.node import Node
from tests.lab.apiserver import ApiServer
from tests.lab.hearing import Listener
from tests.lab.known_access import listening
from tests.scenarios import scenario_file
from tests.scenarios.scenario_file import State
from tests.scenarios.scenario_kernel import Dictionary, DictionaryKernel
from tests.scenarios.scenario_orders import nothing_in
from tests.scenarios.scenario_table import frontends_text
from tests.scenarios.test_scenarios import CASES, every, programs_of, rows_of

NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": scenario_file.NODE_FACTS.name}}


def manifests_of(path: Path) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Return the manifests of a scenario by their short names, and its steps."""
    written = next(yaml.safe_load_all(path.read_text()))
    return written["objects"], written["steps"]


def is_of_the_api(manifest: dict[str, Any]) -> bool:
    """Leave out what the source does not ask for: EndpointSlices are made of Endpoints by a controller (S6)."""
    return manifest["kind"] != "Endpoints"


CASES_OF_THE_API = [path for path in CASES if all(map(is_of_the_api, manifests_of(path)[0].values()))]


class Play:
    """A scenario on its way through server, source and engine."""

    def __init__(self, server: ApiServer, listener: Listener, kernel: Dictionary, first: State) -> None:
        self.engine = Engine(kernel, first.facts)
        self._server = server
        self._listener = listener
        self._kernel = kernel
        self._folded = 0

    def do(self, step: dict[str, Any], objects: dict[str, dict[str, Any]]) -> None:
        """Do a step to the server."""
        for name in step.get("delete", ()):
            metadata = objects[name]["metadata"]
            self._server.delete(objects[name]["kind"], metadata["name"], metadata.get("namespace", ""))
        for name in step.get("apply", ()):
            self._server.apply(objects[name])

    def expect(self, state: State) -> None:
        """Hear until the engine has come to what a state gives; fails with the difference otherwise."""
        self.engine.set_facts(state.facts)
        expected, rows = frontends_text(programs_of(state), ()), every(rows_of(state, type(self._kernel)))

        def reached() -> bool:
            self._fold()
            return expected == self._frontends() and rows == every(self._kernel.observe().rows)

        try:
            self._listener.until(reached)
        except AssertionError:
            assert expected == self._frontends(), state.name
            assert rows == every(self._kernel.observe().rows), state.name
            raise

    def _fold(self) -> None:
        news, self._folded = self._listener.events[self._folded :], len(self._listener.events)
        self.engine.fold(news)
        assert self.engine.round().refused == 0

    def _frontends(self) -> str:
        return frontends_text(self.engine.programs.values(), ())


@pytest.mark.parametrize("path", CASES_OF_THE_API, ids=lambda path: path.stem)
def test_api_server_gives_the_same_frontends_and_rows(path: Path) -> None:
    scenario = scenario_file.read_scenario(path)
    objects, steps = manifests_of(path)
    with ApiServer() as server:
        server.apply(NODE)
        with listening(server, scenario_file.NODE_FACTS.name) as listener:
            play = Play(server, listener, DictionaryKernel(), scenario.states[0])
            for step, state in zip(steps, scenario.states, strict=True):
                play.do(step, objects)
                play.expect(state)
            for kind in ("Service", "EndpointSlice", "ServiceCIDR"):
                for found in server.store.every(kind):
                    server.delete(kind, found["metadata"]["name"], found["metadata"].get("namespace", ""))
            play.expect(nothing_in(scenario.states[-1]))
            listener.until(lambda: not heard(listener.events) - {(Node, ObjectName("", "n1"))})

    assert play.engine.programs == {}


def heard(events: list[Event]) -> set[tuple[type, ObjectName]]:
    """Return what is there, as events tell."""
    there: set[tuple[type, ObjectName]] = set()
    for event in events:
        if isinstance(event, Upsert):
            there.add((type(event.object), event.object.name))
        elif isinstance(event, Delete):
            there.remove((event.kind, event.name))
    return there


def test_most_scenarios_are_played() -> None:
    """What is left out is told apart by its kind alone, so that no new scenario is lost by accident."""
    assert len(CASES_OF_THE_API) > 0.9 * len(CASES)
