"""
The behaviour cases of tests/cases, with real packets: one test a case, the agent run as `kpx run` runs it.

Cases that need what kpx does not do yet are named in tests/cases/NOT_YET.yaml; they are not collected at all, so they are
neither passed nor skipped. What one data plane alone lacks is asked all the same: such a case may fail there, and the run
says so with the reason (chance may also let it pass).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.lab import dataplane, features
from tests.lab.flows import Row, row_from_case
from tests.lab.world import NodeConfig, World
from tests.packets.case_files import all_cases, covered, not_yet

CASES = all_cases()


def test_every_case_is_either_covered_or_waiting() -> None:
    """The two lists together are all cases, and none is in both; a waiting case must exist."""
    waiting = set(not_yet())

    assert set(CASES) == set(covered()) | waiting
    assert not set(covered()) & waiting
    assert covered(), "no case is covered at all"


@pytest.mark.parametrize("plane", list(dataplane.NEEDS))
def test_what_one_dataplane_lacks_is_asked_and_has_a_reason(plane: str) -> None:
    """The list of a data plane names cases that exist, that others pass, and far from all of them."""
    lacking = not_yet(plane)

    assert set(lacking) <= set(covered())
    assert all(lacking.values())
    assert len(lacking) < len(covered()) / 4


def may_fail(name: str) -> tuple[pytest.MarkDecorator, ...]:
    """The mark of a case that the chosen data plane cannot do yet."""
    reason = not_yet(dataplane.CHOSEN).get(name)
    return (pytest.mark.xfail(reason=f"{dataplane.CHOSEN}: {reason}", strict=False, raises=AssertionError),) if reason else ()


@pytest.mark.dataplane
@pytest.mark.parametrize("name", [pytest.param(name, marks=may_fail(name)) for name in covered()])
def test_case(name: str, tmp_path: Path) -> None:
    """All flows of the case, before and after each of its steps."""
    case = CASES[name]
    if "ipv6" in case["requires"] and features.lacks("IPv6", name):
        pytest.skip("this kernel has no IPv6")

    with World(NodeConfig.from_case(case["config"]), objects_of(case), rows_of(case), tmp_path) as world:
        world.agent.write(case["objects"], mark=False)
        world.agent.start()
        check(world, case)
        for step in case.get("steps", ()):
            take(world, step)
            check(world, step)
        world.wind_up()


def take(world: World, step: Mapping[str, Any]) -> None:
    """Do what a step says, in the order tests/cases/README.md gives."""
    proxy = step.get("proxy", "")
    if proxy in ("stop", "restart"):
        world.agent.stop()
    world.agent.write(step.get("apply", ()), mark=False)
    world.agent.delete(step.get("delete", ()))
    if proxy in ("start", "restart"):
        world.agent.start()
    elif proxy != "stop":
        world.agent.catch_up()
    time.sleep(step.get("wait_seconds", 0))


def check(world: World, part: Mapping[str, Any]) -> None:
    """Ask every flow of a case or a step, as often over as it says."""
    assert not part.get("http"), "health-check node ports are not asked yet"
    for _ in range(part.get("rounds", 1)):
        for flow in part["flows"]:
            world.check(row_from_case(flow))


def parts_of(case: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The case itself and its steps: whatever has flows."""
    yield case
    yield from case.get("steps", ())


def objects_of(case: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every object the case ever writes."""
    return [each for part in parts_of(case) for each in (*part.get("objects", ()), *part.get("apply", ()))]


def rows_of(case: Mapping[str, Any]) -> list[Row]:
    """Every flow the case ever asks."""
    return [row_from_case(flow) for part in parts_of(case) for flow in part["flows"]]
