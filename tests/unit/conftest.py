"""
What all unit tests share: logging is left as it was found, and tests against an API server have one.

The stand-in always, a real kube-apiserver where there is one, and a word when there is none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.lab.kube_apiserver import ASSETS_VARIABLE, assets

AGAINST_SERVERS = "against_server"
"""The fixture whose tests run once for each kind of server."""


@pytest.fixture(autouse=True)
def logging_as_found() -> Iterator[None]:
    """Undo what a command that ran in this process did to logging, so that tests pass in any order."""
    logger = logging.getLogger("kpx")
    level, handlers, propagate = logger.level, list(logger.handlers), logger.propagate
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers
    logger.propagate = propagate


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test against every server there is; without a real one its tests do not exist, so that none of them can pass."""
    if AGAINST_SERVERS in metafunc.fixturenames:
        servers = ["stand-in", *(["kube-apiserver"] if assets() else [])]
        metafunc.parametrize(AGAINST_SERVERS, servers, indirect=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say that the real server was left out."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    names = [report.nodeid for report in reports if isinstance(report, pytest.TestReport)]
    if not assets() and (count := sum("[stand-in" in name for name in set(names))):
        terminalreporter.write_line(f"kube-apiserver: NOT RUN, {count} tests had the stand-in only; {ASSETS_VARIABLE} is not set")
