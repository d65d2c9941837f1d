"""The demonstration of scripts/demo, without the installing: it checks itself and says so with its exit code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.lab import dataplane
from tests.lab.agent import REPOSITORY, environment
from tests.lab.netns import PATIENCE

SETTINGS = {"KPX_PROXY_MODE": dataplane.CHOSEN, "KPX_LAB_PATIENCE": str(PATIENCE)}


@pytest.mark.dataplane
def test_the_demonstration_shows_what_it_promises_and_cleans_up() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.demo"],
        cwd=REPOSITORY, env={**environment(), **SETTINGS}, capture_output=True, text=True,
        timeout=120 * PATIENCE, check=False,
    )  # fmt: skip
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout

    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "everything went as it should" in done.stdout
    assert "kpx-demo-" not in left
