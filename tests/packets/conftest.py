"""
Packet tests: everything here needs root, a kernel with nf_tables, and nothing else prepared.

Without root they fail in one line instead of being skipped: a skip is easily read as a pass. What a kernel cannot do is
collected by `lacks` and printed at the end of the run, by feature.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.lab import features
from tests.lab.netns import require_root

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.packets)


@pytest.fixture(autouse=True)
def root() -> None:
    """Fail clearly without root."""
    require_root()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what could not run here, and for want of which feature of the kernel."""
    missing = features.missing()
    if not missing:
        return
    terminalreporter.section("not tested on this kernel")
    for feature, names in sorted(missing.items()):
        terminalreporter.write_line(f"{feature}: {', '.join(sorted(names))}")
