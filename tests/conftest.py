"""What all tests share: options, and the rule that a run in which everything was skipped has not passed."""

from __future__ import annotations

import hypothesis
import pytest

# Deadlines measure the machine, not the code; the same examples everywhere make a failure one that others can repeat.
hypothesis.settings.register_profile("kpx", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("kpx")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options of every kind of test; see `pytest --help`."""
    group = parser.getgroup("kpx")
    group.addoption(
        "--accept", action="store_true", help="write what scenarios give as what they expect; read the diff before committing"
    )
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
    """Watch over `--must-run`."""
    if directories := config.getoption("--must-run"):
        config.pluginmanager.register(MustRun(directories), "kpx-must-run")
