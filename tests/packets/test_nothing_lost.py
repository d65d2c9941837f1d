"""
Nothing is lost while the agent comes and goes and everything changes (16.2, 16.6, G1): the runs of `scripts/soak`, smaller.

docs/nothing-lost.md has the results of ten thousand connections and a hundred kills, and of fifteen minutes.
"""

from __future__ import annotations

import pytest

from tests.lab.netns import PATIENCE
from tests.soak import changes, connections
from tests.soak.connections import Size

pytestmark = pytest.mark.dataplane

SIZE = Size(connections=300, restarts=1, kills=10, upgrades=2, reconfigurations=2, churns=3)
SLOW_SIZE = Size(connections=50, restarts=1, kills=2, upgrades=1, reconfigurations=1, churns=1)
SOAK_S = 15.0


def test_connections_outlive_restarts_kills_upgrades_and_churn() -> None:
    """0 lost, 0 reset, and no new connection to a Service that does not change fails."""
    report = connections.run(SIZE if PATIENCE == 1 else SLOW_SIZE)
    assert report.is_good, report.as_table()


def test_random_changes_leave_the_kernel_as_desired_and_nothing_behind() -> None:
    """As desired in between and at the end; no memory, descriptor or namespace is left over."""
    report = changes.run(SOAK_S, connections=100 if PATIENCE == 1 else 20, pause_s=5.0 * PATIENCE)
    assert report.is_good, report.as_table()
