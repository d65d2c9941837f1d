"""
A soak: random changes at a high rate for some minutes, with connections and new ones all the while.

Every so often the changes pause, and the kernel must be as desired. Memory, descriptors and namespaces of the agent are looked at
all along: what only ever grows is a leak.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.lab.agent import Object
from tests.lab.objects import port, service, slice_of
from tests.soak.cluster import ENDPOINTS, SERVER_PORT, Cluster, laid_out
from tests.soak.flock import Flock
from tests.soak.newcomers import Newcomers, new_connections
from tests.soak.report import Check, Line, Report

SERVICES = 100
"""So many Services change at random, beside those with the connections."""
CHANGE_S = 0.005
"""The shortest time between two changes; 200 a second."""
GROWTH = 0.05
"""Part by which memory may be higher in the last quarter of the samples than in the second; the first is for warming up."""
SAMPLES_MIN = 8
"""Two for each quarter: a machine on which a change takes seconds goes on for longer than it was told."""
GROWTH_BYTES = 2 << 20

Say = Callable[[str], None]


class Change(NamedTuple):
    """Objects to write, and kind, namespace and name of objects to delete."""

    there: list[Object]
    gone: list[dict[str, str]]


class Sample(NamedTuple):
    """What the agent has: resident memory in bytes, open descriptors, and network namespaces it or a child holds."""

    memory: int
    descriptors: int
    namespaces: int


def sample_of(pid: int) -> Sample:
    """Look at a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    memory = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS:"))
    links = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(each))
    return Sample(memory, len(links), len({link for link in links if link.startswith("net:")}))


def namespaces_held() -> int:
    """How many network namespaces this process holds."""
    held = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(each).startswith("net:"):
                held.add(os.readlink(each))
    return len(held)


def run(seconds: float, connections: int = 500, pause_s: float = 30.0, seed: int = 0, say: Say = lambda _: None) -> Report:
    """Change things for so long; look at the kernel every `pause_s` seconds."""
    began, before = time.monotonic(), namespaces_held()
    with (
        tempfile.TemporaryDirectory(prefix="kpx-soak-") as directory,
        laid_out(Path(directory), seed) as cluster,
        contextlib.closing(_Soak(cluster, connections, say)) as soak,
    ):
        line = soak.go_on(seconds, pause_s)
        checks = tuple(soak.checks())
    left = namespaces_held()
    checks += (Check("namespaces of the run", left == before, f"{before} before, {left} after"),)
    return Report(connections, time.monotonic() - began, (line,), checks)


class _Soak:
    def __init__(self, cluster: Cluster, connections: int, say: Say) -> None:
        self._cluster = cluster
        self._agent = cluster.agent
        self._say = say
        self._changes = Changes(cluster.random)
        self._samples: list[Sample] = []
        self._looks: list[str] = []
        self._flock = Flock(cluster.steady, connections)
        self._newcomers = Newcomers(cluster.steady, cluster.is_endpoint)
        self._flock.start()

    def close(self) -> None:
        """Ask no more."""
        self._newcomers.stop()
        self._flock.stop()

    def go_on(self, seconds: float, pause_s: float) -> Line:
        """Change things for so long."""
        began = time.monotonic()
        self._agent.write(self._changes.everything(), mark=False)
        self._look()
        look_at, sample_at, changed = time.monotonic() + pause_s, 0.0, 0
        while (now := time.monotonic()) < began + seconds or len(self._samples) < SAMPLES_MIN:
            self._change()
            changed += 1
            if now >= sample_at:
                sample_at = now + min(1.0, seconds / 40)
                self._samples.append(sample_of(self._agent.pid))
            if now >= look_at:
                look_at = now + pause_s
                self._look()
                memory = self._samples[-1].memory / 1e6
                self._say(
                    f"{now - began:.0f} of {seconds:.0f} s, {changed:,} changes, {memory:.1f} MB, {len(self._flock)} connections"
                )
            time.sleep(max(0.0, now + CHANGE_S - time.monotonic()))
        self._look()
        self._flock.beat()
        seen = (*self._flock.count, *self._newcomers.seen().counts)
        return Line("random changes", changed, time.monotonic() - began, *seen)

    def _change(self) -> None:
        if self._cluster.random.random() < 0.05:
            self._cluster.churn()
        else:
            there, gone = self._changes.one()
            self._agent.write(there, mark=False)
            self._agent.delete(gone, mark=False)

    def _look(self) -> None:
        """Wait until all is in force, and compare the kernel."""
        self._agent.mark()
        self._agent.catch_up()
        diff = self._agent.kpx("diff", check=False)
        self._looks.append("" if diff.returncode == 0 else diff.stdout.strip() or diff.stderr.strip())

    def checks(self) -> Iterator[Check]:
        """Say what was found."""
        wrong = [look for look in self._looks if look]
        found = (
            f"not {len(wrong)} of {len(self._looks)} times: {wrong[0]}" if wrong else f"no difference, {len(self._looks)} times"
        )
        yield Check("kernel as desired", not wrong, found)
        quarter = len(self._samples) // 4
        early, late = self._samples[quarter : 2 * quarter], self._samples[-quarter:]
        yield _flat("memory of the agent", early, late)
        for what in ("descriptors", "namespaces"):
            # The least: a file being read just then, or a connection to the agent, is there by chance; what leaks stays.
            one, other = (min(getattr(each, what) for each in part) for part in (early, late))
            yield Check(f"{what} of the agent", other <= one, f"{one} early, {other} late")
        yield new_connections(self._newcomers.seen())
        refused = self._agent.log.read_text().count("refuses rows")
        yield Check("rows the kernel refused", not refused, f"{refused}")


def _flat(title: str, early: list[Sample], late: list[Sample]) -> Check:
    one, other = (statistics.median(each.memory for each in part) for part in (early, late))
    found = f"{one / 1e6:.1f} MB early, {other / 1e6:.1f} MB late"
    return Check(title, other <= one + max(GROWTH * one, GROWTH_BYTES), found)


class Changes:
    """Random changes of random Services: objects to write, and names of objects to delete."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._gone: set[int] = set(range(SERVICES))

    def everything(self) -> list[Object]:
        """All Services with all their endpoints, so that all memory there may be is taken at the start."""
        self._gone.clear()
        return [each for number in range(SERVICES) for each in (self._service(number), self._slice(number, ENDPOINTS))]

    def one(self) -> Change:
        """Other endpoints, mostly; another Service; or none."""
        number, kind = self._dice.randrange(SERVICES), self._dice.random()
        if number in self._gone or 0.8 <= kind < 0.95:
            self._gone.discard(number)
            return Change([self._service(number), self._slice(number)], [])
        if kind < 0.8:
            return Change([self._slice(number)], [])
        self._gone.add(number)
        both = (("Service", f"s{number}"), ("EndpointSlice", f"s{number}-1"))
        return Change([], [{"kind": kind, "namespace": "shop", "name": name} for kind, name in both])

    def _service(self, number: int) -> Object:
        dice = self._dice
        ports = [port(80, _protocol(number), node_port=31000 + number if dice.random() < 0.5 else 0)]
        external = [f"203.0.113.{number}"] if dice.random() < 0.3 else []
        return service(f"s{number}", f"10.96.1.{number}", *ports, external_ips=external, affinity_s=dice.choice((0, 0, 600)))

    def _slice(self, number: int, some: Sequence[str] | None = None) -> Object:
        dice = self._dice
        chosen = dice.sample(ENDPOINTS, dice.randrange(len(ENDPOINTS))) if some is None else some
        ending = [each for each in chosen if dice.random() < 0.1]
        return slice_of(f"s{number}", *chosen, port=SERVER_PORT, protocol=_protocol(number), terminating=ending)


def _protocol(number: int) -> str:
    return "UDP" if number % 4 == 0 else "TCP"
