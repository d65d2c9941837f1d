"""
The behaviour cases of tests/cases, with real packets: one test a case, the agent run as `kpx run` runs it.

Nothing a case says is passed over: a key or a word that nobody carries out fails a test.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.lab import features
from tests.lab.flows import Row, endpoint_name, row_from_case
from tests.lab.http_row import Request, request_from_case
from tests.lab.shop import SOON_S
from tests.lab.world import NodeConfig, World
from tests.packets.case_files import all_cases, not_understood, parts_of

CASES = all_cases()


def test_no_key_of_a_case_is_ignored() -> None:
    """Every key and every word of every case is carried out."""
    ignored = {name: complaints for name, case in CASES.items() if (complaints := not_understood(case))}

    assert not ignored


def test_what_nobody_carries_out_is_found() -> None:
    """A key, a word and a combination that would have no effect, each at the place it could stand."""
    case = copy.deepcopy(next(case for case in CASES.values() if "http" in case and "steps" in case))
    case["steps"][0] |= {"proxy": "pause", "flow": []}
    case["http"][0]["expect"]["body"] = ""
    case["config"] |= {"bind": "", "zone": "elsewhere"}
    case["flows"].append({"name": "one", "from": "moon", "established": True, "expect": {"verdict": "maybe", "by": 1}})
    found = "\n".join(not_understood(case))

    for each in ("step: flow", "answer: body", "config: bind", "verdict: by", "proxy: pause", "from: moon", "verdict: maybe"):
        assert each in found
    assert "established without conn" in found
    assert "config: zone is elsewhere" in found


@pytest.mark.dataplane
@pytest.mark.parametrize("name", CASES)
def test_case(name: str, tmp_path: Path) -> None:
    """All flows of the case, before and after each of its steps."""
    case = CASES[name]
    if "ipv6" in case["requires"] and features.lacks("IPv6", name):
        pytest.skip("this kernel has no IPv6")

    requests = requests_of(case)
    rows = rows_of(case) + [each.row() for each in requests]
    with World(NodeConfig.from_case(case["config"]), objects_of(case), rows, tmp_path) as world:
        world.agent.write(case["objects"], mark=False)
        world.agent.start()
        check(world, case, rows)
        for step in case.get("steps", ()):
            take(world, step)
            check(world, step, rows)
        for row in asked(case)[-1:]:
            explain(world, row)
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


def check(world: World, part: Mapping[str, Any], rows: list[Row]) -> None:
    """Ask every flow and request of a case or a step, as often over as it says."""
    for _ in range(part.get("rounds", 1)):
        for flow in part.get("flows", ()):
            world.check(row_from_case(flow))
        for request in part.get("http", ()):
            world.request(request_from_case(request, rows), SOON_S)


def asked(case: Mapping[str, Any]) -> list[Row]:
    """The new flows that a case asks; those that live on follow no rule."""
    return [row for row in rows_of(case) if not row.established]


def explain(world: World, row: Row) -> None:
    """`kpx explain` tells of this packet what became of it, and finds the kernel's rows to lead there."""
    packet = f"{endpoint_name(row.destination, row.port)}/{row.protocol.lower()}"
    story = json.loads(world.agent.kpx("explain", packet, "--from", row.source, "-o", "json").stdout)
    chosen = {each["endpoint"] for each in story["endpoints"] if each["chosen"]}
    verdicts = {"dnat": "forward", "accept": "pass"}
    expected = row.expected.verdict, set(row.expected.endpoints)
    assert story["verdict"] == verdicts.get(expected[0], expected[0]), story["steps"]
    assert chosen >= expected[1] if row.sticky else chosen == expected[1], story["steps"]
    assert story["kernel"]["agrees"], story["kernel"]["differences"]


def objects_of(case: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every object the case ever writes."""
    return [each for part in parts_of(case) for each in (*part.get("objects", ()), *part.get("apply", ()))]


def rows_of(case: Mapping[str, Any]) -> list[Row]:
    """Every flow the case ever asks."""
    return [row_from_case(flow) for part in parts_of(case) for flow in part.get("flows", ())]


def requests_of(case: Mapping[str, Any]) -> list[Request]:
    """Every request to a health-check node port."""
    rows = rows_of(case)
    return [request_from_case(request, rows) for part in parts_of(case) for request in part.get("http", ())]
