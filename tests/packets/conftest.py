"""
Packet tests: everything here needs root, a kernel with nf_tables, and nothing else prepared.

Without root they fail in one line instead of being skipped: a skip is easily read as a pass. What a kernel cannot do is
collected by `lacks` and printed at the end of the run, by feature.

Tests with the mark `dataplane` run the agent on the data plane that KPX_LAB_DATAPLANE names; those that name data planes
only run for these, and are deselected for the others.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.lab import dataplane, features
from tests.lab.netns import require_root

HERE = Path(__file__).parent
NAMED = 12
"""So many tests that could not run are named for each feature."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks of this directory, and refuse a data plane that does not exist."""
    config.addinivalue_line("markers", "dataplane(*names): runs the agent on the chosen data plane, if it is one of these")
    config.addinivalue_line("markers", "needs(*features): needs these of tests/lab/features.py besides")
    if dataplane.complaint():
        raise pytest.UsageError(dataplane.complaint())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark every test of this directory, and leave out those about a data plane that is not chosen."""
    others = []
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.packets)
            if any(mark.args and dataplane.CHOSEN not in mark.args for mark in item.iter_markers("dataplane")):
                others.append(item)
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, before any fixture is made, what this kernel cannot do; all that is missing is noted."""
    require_root()
    wanted = [feature for mark in item.iter_markers("needs") for feature in mark.args]
    if item.get_closest_marker("dataplane"):
        wanted += dataplane.NEEDS[dataplane.CHOSEN]
    missing = [feature for feature in wanted if features.lacks(feature, item.name)]
    if missing:
        pytest.skip(f"this kernel has no {', no '.join(missing)}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what could not run here, and for want of which feature of the kernel."""
    missing = features.missing()
    if not missing:
        return
    terminalreporter.section("not tested on this kernel")
    for feature, names in sorted(missing.items()):
        listed = ", ".join(sorted(names)[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        terminalreporter.write_line(f"{feature}: {listed}")
