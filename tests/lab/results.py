"""
What a test run did, as a file that another program reads while it runs: `--results FILE` of pytest.

Several runs, each on its own kernel and data plane, become one table (scripts/test_runs.py). That table must not depend on
what pytest prints; and a run that was killed must not look like one that passed, so the file says whether it is finished.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.lab import dataplane, features

ALL_TESTS = pytest.StashKey[int]()
"""How many tests the whole run has of which this is a part (`--part`)."""


class Results:
    """
    A pytest plugin that writes the counts after every test; the file is replaced as a whole.

    A test that went wrong in its setup or its teardown has failed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
        self._outcome = ""
        self._total = self._all = 0
        self._exit_status: int | None = None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Say how many there will be."""
        self._total = len(session.items)
        self._all = session.config.stash.get(ALL_TESTS, self._total)
        self._write()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once, when its last phase is over."""
        if report.failed:
            self._outcome = "failed"
        elif report.skipped and self._outcome != "failed":
            self._outcome = "skipped"
        if report.when == "teardown":
            self._counts[self._outcome or "passed"] += 1
            self._outcome = ""
            self._write()

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Say that this is all."""
        self._exit_status = int(exitstatus)
        self._write()

    def _write(self) -> None:
        content = {
            "dataplane": dataplane.CHOSEN,
            "kernel": os.uname().release,
            "total": self._total,
            "of": self._all,
            **self._counts,
            "missing": {feature: len(names) for feature, names in sorted(features.missing().items())},
            "exit_status": self._exit_status,
        }
        unfinished = self._path.with_suffix(".new")
        unfinished.write_text(json.dumps(content))
        unfinished.replace(self._path)
