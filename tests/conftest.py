"""What all tests share: options, and the rule that a run in which everything was skipped has not passed."""

from __future__ import annotations

import argparse
from pathlib import Path

import hypothesis
import pytest

# Deadlines measure the machine, not the code; the same examples everywhere make a failure one that others can repeat.
hypothesis.settings.register_profile("kpx", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("kpx")


def part(text: str) -> tuple[int, int]:
    """Read `--part`."""
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text}: not a part such as 1/2")
    return int(number), int(parts)


def number(text: str) -> int:
    """Read `--thin`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: not a number from 1 on")
    return int(text)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options of every kind of test; see `pytest --help`."""
    group = parser.getgroup("kpx")
    group.addoption(
        "--accept", action="store_true", help="write what scenarios give as what they expect; read the diff before committing"
    )
    group.addoption("--results", type=Path, metavar="FILE", help="write what was counted there as JSON, after every test")
    group.addoption("--part", type=part, default=(1, 1), metavar="I/N", help="run only every Nth test, from the Ith on")
    group.addoption("--thin", type=number, default=1, metavar="N", help="of the tests marked `alike` run only every Nth")
    group.addoption("--must-run", action="append", default=[], metavar="DIR", help="fail when no test under DIR ran to its end")


class MustRun:
    """Fail a session in which some directory's tests were all skipped, deselected or missing: skip is not pass."""

    def __init__(self, directories: list[str]) -> None:
        self.ran = dict.fromkeys((directory.rstrip("/") + "/" for directory in directories), 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the tests that were carried out, whatever came out of them."""
        if report.when == "call" and not report.skipped:
            for directory in self.ran:
                self.ran[directory] += report.nodeid.startswith(directory)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn a pass into a failure."""
        if session.exitstatus == pytest.ExitCode.OK and not all(self.ran.values()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say how many ran, so that nobody takes silence for success."""
        for directory, count in self.ran.items():
            terminalreporter.write_line(f"{directory}: {count} ran" if count else f"{directory}: NONE ran, which is a failure")


def pytest_configure(config: pytest.Config) -> None:
    """Watch over `--must-run`, and count for `--results`."""
    if directories := config.getoption("--must-run"):
        config.pluginmanager.register(MustRun(directories), "kpx-must-run")
    if path := config.getoption("--results"):
        from tests.lab.results import Results

        config.pluginmanager.register(Results(path), "kpx-results")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not of `--thin` and `--part`; neighbours, which take about the same time, go to different parts."""
    first, parts = config.getoption("--part")
    if config.getoption("--results"):
        from tests.lab.results import ALL_TESTS

        config.stash[ALL_TESTS] = len(items)
    alike = [item for item in items if item.get_closest_marker("alike")]
    thinned = set(alike).difference(alike[:: config.getoption("--thin")])
    chosen = [item for item in items if item not in thinned][first - 1 :: parts]
    if left_out := [item for item in items if item not in set(chosen)]:
        config.hook.pytest_deselected(items=left_out)
        items[:] = chosen
