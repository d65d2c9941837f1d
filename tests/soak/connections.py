"""
Established connections and new ones, while the agent is restarted, killed, upgraded and reconfigured and endpoints churn.

All parts churn: one endpoint in ten of a Service that has half of the connections is replaced before each restart, kill, and so
on, so that an agent dies while it writes.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.lab.agent import REPOSITORY
from tests.lab.netns import PATIENCE
from tests.soak.cluster import Cluster, laid_out
from tests.soak.flock import Flock
from tests.soak.newcomers import Newcomers, new_connections
from tests.soak.report import Check, Line, Report

NEXT_VERSION = "99.0.0"
STARTING_S = 1.0 * PATIENCE
"""About as long as an agent takes from its start to the end of its first round; a kill strikes within this time or soon after."""
WRITING_S = 0.02 * PATIENCE

Say = Callable[[str], None]


class Size(NamedTuple):
    """How much of everything."""

    connections: int = 10_000
    restarts: int = 10
    kills: int = 100
    upgrades: int = 4
    reconfigurations: int = 10
    churns: int = 50


def run(size: Size, seed: int = 0, say: Say = lambda _: None) -> Report:
    """Carry it out; `say` hears how far it is."""
    began = time.monotonic()
    say(f"establishing {size.connections:,} connections")
    with (
        tempfile.TemporaryDirectory(prefix="kpx-soak-") as directory,
        laid_out(Path(directory), seed) as cluster,
        contextlib.closing(_Trial(cluster, size, Path(directory), say)) as trial,
    ):
        lines = tuple(trial.lines())
        checks = tuple(trial.checks())
    return Report(size.connections, time.monotonic() - began, lines, checks)


class _Trial:
    def __init__(self, cluster: Cluster, size: Size, directory: Path, say: Say) -> None:
        self._cluster = cluster
        self._agent = cluster.agent
        self._size = size
        self._directory = directory
        self._say = say
        self._settings = directory / "settings.yaml"
        self._configure(False)
        self._agent.stop()
        self._agent.run_options += ("--config", str(self._settings))
        self._agent.launch()
        self._flock = Flock([*cluster.steady, *cluster.churned], size.connections)
        self._newcomers = Newcomers(cluster.steady, cluster.is_endpoint)
        self._flock.start()

    def close(self) -> None:
        """Ask no more."""
        self._newcomers.stop()
        self._flock.stop()

    def lines(self) -> Iterator[Line]:
        """Let one thing after the other happen."""
        size = self._size
        yield self._line("nothing", 1, lambda: None)
        yield self._line("one endpoint in ten replaced", size.churns, self._churn)
        yield self._line("agent restarted", size.restarts, self._restart)
        yield self._line("agent killed (-9)", size.kills, self._kill)
        self._agent.stop(signal.SIGKILL)
        self._agent.launch()
        yield self._line("agent upgraded and taken back", size.upgrades, self._upgrade)
        yield self._line("agent reconfigured", size.reconfigurations, self._reconfigure)

    def checks(self) -> Iterator[Check]:
        """Look whether all of it is in force at the end."""
        self._agent.mark()
        self._agent.catch_up()
        diff = self._agent.kpx("diff", "--config", str(self._settings), check=False)
        yield Check("kernel as desired", diff.returncode == 0, diff.stdout.strip() or diff.stderr.strip() or "no difference")
        left = len(self._flock)
        yield Check("connections alive", left == self._size.connections, f"{left:,} of {self._size.connections:,}")
        yield new_connections(self._newcomers.seen())

    def _line(self, title: str, times: int, happen: Callable[[], None]) -> Line:
        began, before = time.monotonic(), self._now()
        for number in range(times):
            happen()
            self._say(f"{title}: {number + 1} of {times}, {self._flock.count.lost + self._flock.count.reset} lost so far")
        self._flock.beat()
        now = self._now()
        return Line(title, times, time.monotonic() - began, *(one - other for one, other in zip(now, before, strict=True)))

    def _now(self) -> tuple[int, ...]:
        return (*self._flock.count, *self._newcomers.seen().counts)

    def _churn(self) -> None:
        self._cluster.churn()
        self._agent.mark()
        self._agent.catch_up()

    def _restart(self) -> None:
        self._cluster.churn()
        self._agent.stop()
        self._cluster.churn()
        self._agent.launch()

    def _kill(self) -> None:
        """Kill it at its start, or, every other time, while it writes."""
        rolls = self._cluster.random
        if rolls.random() < 0.5:
            self._agent.stop(signal.SIGKILL)
            self._cluster.churn()
            self._agent.begin()
            time.sleep(rolls.uniform(0, 1.5 * STARTING_S))
        else:
            self._agent.stop(signal.SIGKILL)
            self._agent.launch()
            self._cluster.churn()
            time.sleep(rolls.uniform(0, WRITING_S))
        self._agent.stop(signal.SIGKILL)

    def _upgrade(self) -> None:
        """Start the other build, or this one again."""
        self._cluster.churn()
        self._agent.stop()
        if self._agent.build is None:
            self._agent.build = other_build(self._directory)
        else:
            self._agent.build = None
        said = len(self._agent.log.read_text())
        self._agent.launch()
        is_other = f"version={NEXT_VERSION}" in self._agent.log.read_text()[said:]
        assert is_other == (self._agent.build is not None), "this is not the build that was meant"

    def _reconfigure(self) -> None:
        """Change a setting that is in every rule for pods while the agent runs, by the file and by SIGHUP in turns."""
        self._cluster.churn()
        self._configure(not self._masquerades)
        self._agent.mark()
        self._agent.catch_up()

    def _configure(self, masquerade_all: bool) -> None:
        self._masquerades = masquerade_all
        settings = {
            "apiVersion": "kpx.io/v1alpha1", "kind": "KpxConfiguration", "masqueradeAll": masquerade_all,
            "minSyncPeriod": "10ms" if masquerade_all else "0s",
        }  # fmt: skip
        hidden = self._settings.with_name(".settings")
        hidden.write_text(json.dumps(settings))
        hidden.rename(self._settings)


def other_build(directory: Path) -> Path:
    """Return where kpx of another version is, made of this one."""
    build = directory / "build"
    if not build.exists():
        shutil.copytree(REPOSITORY / "kpx", build / "kpx", ignore=shutil.ignore_patterns("__pycache__"))
        named = build / "kpx" / "__init__.py"
        text, count = re.subn(r'^__version__ = ".*"$', f'__version__ = "{NEXT_VERSION}"', named.read_text(), flags=re.MULTILINE)
        assert count == 1, "a build says its version in one place"
        named.write_text(text)
    return build
