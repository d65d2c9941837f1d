"""Reads tests/cases: which cases there are, and which wait for a later step of the project."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml

CASES = Path(__file__).resolve().parents[1] / "cases"
NOT_YET = CASES / "NOT_YET.yaml"
NO_PACKETS = frozenset(("state_cases.yaml", NOT_YET.name))
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def load(path: Path) -> Any:
    """Read one YAML file, once: on an emulated processor all of them take seconds. Nobody changes what is returned."""
    with path.open() as file:
        return yaml.load(file, Loader=_Loader)


def all_cases() -> dict[str, dict[str, Any]]:
    """Return every packet case by name; names are unique over all files."""
    cases: dict[str, dict[str, Any]] = {}
    for path in sorted(CASES.glob("*.yaml")):
        if path.name in NO_PACKETS:
            continue
        for case in load(path)["cases"]:
            assert case["name"] not in cases, f"{path.name}: case {case['name']} stands twice"
            cases[case["name"]] = case
    return cases


def not_yet(dataplane: str = "every") -> dict[str, str]:
    """
    Return the cases that are not covered yet, by name, with the reason.

    Args:
        dataplane: "every" for what no data plane does, else the name of one for what it alone lacks.
    """
    return {name: reason for reason, names in (load(NOT_YET)[dataplane] or {}).items() for name in names}


def covered() -> list[str]:
    """Return the names of the cases that are asked: all but those that no data plane can do yet."""
    waiting = not_yet()
    return [name for name in all_cases() if name not in waiting]
