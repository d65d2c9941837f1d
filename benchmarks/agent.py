"""The agent as people run it, measured from outside: a process, its input, and the kernel's notifications."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.feeds import DirectoryFeed, Feed
from benchmarks.kube_proxy import KubeProxy
from benchmarks.manifests import Cluster
from benchmarks.process import KPX_OPTIONS, Commits, Kpx
from benchmarks.stages import Took

CHANGE_S: Final = 120.0
BURST_HZ: Final = 1000
READ_BACK_ENDPOINTS: Final = 200_000
"""Above it the agent is not started a second time: the kernel takes minutes to tell what it holds (docs/performance.md)."""


class Burst(NamedTuple):
    """
    Changes at a steady rate.

    Args:
        asked_hz, made_hz: how many a second were wanted, and how many could be made beside the agent on this machine.
        rounds: in how many transactions the agent wrote them. lags_s: of each round, from reading to the kernel's answer.
        drained_s: from the last change to the last commit. cpu: processor time of the agent for each second of the burst.
        equal: the kernel was as the manifests say afterwards, by `kpx diff`; None where that takes minutes.
    """

    asked_hz: int
    made_hz: float
    rounds: int
    lags_s: list[float]
    drained_s: float
    cpu: float
    equal: bool | None


class AgentNumbers(NamedTuple):
    """Of one program on one feed; times in seconds, sizes in bytes, lists a number a change, None where nothing was measured."""

    program: str
    feed: str
    start: Took
    rss_bytes: int
    peak_bytes: int
    changes_s: list[float]
    idle_cpu: float
    burst: Burst | None = None
    restart: Took | None = None
    restart_commits: int | None = None
    partial: Took | None = None
    partial_services: int = 0
    partial_rows: int | None = None


def measure(feed: Feed, cluster: Cluster, place: Path, changes: int, burst_s: float) -> AgentNumbers:
    """Start kpx on an empty kernel, change its input, stop it, start it again; then the kernel is empty again."""
    commits = Commits()
    try:
        numbers = _first_run(feed, cluster, place, commits, changes, burst_s)
        if cluster.services * cluster.endpoints > READ_BACK_ENDPOINTS:
            return numbers
        commits.drain()
        again = Kpx(feed.options, place)
        again.stop()
        numbers = numbers._replace(restart=Took(again.start_s, again.start_cpu_s), restart_commits=commits.drain())
        if isinstance(feed, DirectoryFeed):
            numbers = _partly_changed(numbers, feed, cluster, place)
        return numbers
    finally:
        commits.close()
        _kpx("cleanup", "--proxy-mode", "nftables")


def _first_run(feed: Feed, cluster: Cluster, place: Path, commits: Commits, changes: int, burst_s: float) -> AgentNumbers:
    agent = Kpx(feed.options, place)
    try:
        start = Took(agent.start_s, agent.start_cpu_s)
        changes_s = _changes(feed, commits, changes)
        idle_cpu, rss = agent.idle(), agent.status_bytes("VmRSS")
        burst = _burst(agent, feed, commits, burst_s) if isinstance(feed, DirectoryFeed) and burst_s else None
        if burst is not None and cluster.services * cluster.endpoints <= READ_BACK_ENDPOINTS:
            burst = burst._replace(equal=not _kpx("diff", *feed.options, *KPX_OPTIONS))
        return AgentNumbers("kpx", feed.name, start, rss, agent.status_bytes("VmHWM"), changes_s, idle_cpu, burst)
    finally:
        agent.stop()


def measure_kube_proxy(program: str, feed: Feed, kubeconfig: Path, changes: int) -> AgentNumbers:
    """The same with kube-proxy, as far as it can do the same."""
    commits = Commits()
    proxy = KubeProxy(program, kubeconfig, commits)
    try:
        start = Took(proxy.start_s, proxy.start_cpu_s)
        changes_s = _changes(feed, commits, changes)
        rss, peak = proxy.status_bytes("VmRSS"), proxy.status_bytes("VmHWM")
        return AgentNumbers("kube-proxy", feed.name, start, rss, peak, changes_s, proxy.idle())
    finally:
        proxy.cleanup()
        commits.close()


def _changes(feed: Feed, commits: Commits, changes: int) -> list[float]:
    """Make changes one after the other; return how long each took from the moment it was made to its commit."""
    took = []
    for number in range(changes):
        change = feed.prepare(number)
        commits.quiet_after(0.02, CHANGE_S)
        started = time.perf_counter()
        change()
        if not commits.wait(CHANGE_S):
            raise SystemExit(f"change {number} did not reach the kernel within {CHANGE_S:g} s")
        took.append(time.perf_counter() - started)
    return took


def _burst(agent: Kpx, feed: Feed, commits: Commits, burst_s: float) -> Burst:
    """Make changes at a steady rate, then see how long the agent goes on, and whether it arrived."""
    count = int(BURST_HZ * burst_s) // 2 * 2
    prepared = [feed.prepare(number) for number in range(count)]
    before, cpu_s = len(agent.lags_s()), agent.cpu_s()
    commits.drain()
    started = time.perf_counter()
    for number, change in enumerate(prepared):
        # Whoever is late goes on without pause: the agent must stand that, too.
        time.sleep(max(0.0, started + number / BURST_HZ - time.perf_counter()))
        change()
    ended = time.perf_counter()
    drained_s = commits.quiet_after(1.0, CHANGE_S) - ended
    lags_s, cpu = agent.lags_s()[before:], (agent.cpu_s() - cpu_s) / (ended - started)
    return Burst(BURST_HZ, count / (ended - started), len(lags_s), lags_s, drained_s, cpu, None)


def _partly_changed(numbers: AgentNumbers, feed: DirectoryFeed, cluster: Cluster, place: Path) -> AgentNumbers:
    """Change one Service in a hundred while nobody looks, and start again."""
    services = max(1, cluster.services // 100)
    for number in range(services):
        feed.prepare(2 * number)()
    agent = Kpx(feed.options, place)
    agent.stop()
    for number in range(services):
        feed.prepare(2 * number + 1)()
    took = Took(agent.start_s, agent.start_cpu_s)
    return numbers._replace(partial=took, partial_services=services, partial_rows=agent.rows_written())


def _kpx(*arguments: str) -> int:
    """Run a verb; return its exit code."""
    command = [sys.executable, "-m", "kpx", *arguments]
    return subprocess.run(command, capture_output=True, timeout=600, check=False).returncode
