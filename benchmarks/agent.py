"""
The agent as people run it, measured from outside: a process, files, and the kernel's notifications.

A commit is seen as the notification nf_tables multicasts after each transaction, so a latency here runs from the rename of a file
to the moment the kernel has the change, everything in between included.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import manifests
from kpx.kernel.netlink import nftables_notifications

READY_S = 120.0
CHANGE_S = 5.0
LAG = re.compile(r"lag_ms=([0-9.]+)")


class AgentNumbers(NamedTuple):
    """Seconds and bytes; lists have one number a change."""

    start_s: float
    rss_bytes: int
    peak_bytes: int
    changes_s: list[float]
    lags_s: list[float]
    idle_cpu: float
    restart_s: float
    restart_writes: int


class Commits:
    """Counts transactions of anybody in this network namespace."""

    def __init__(self) -> None:
        self._notifications = nftables_notifications(None)
        self.count = 0

    def drain(self) -> int:
        """Return how many datagrams have arrived since the last call."""
        datagrams, lost = self._notifications.drain()
        self.count += len(datagrams) + lost
        return len(datagrams) + lost

    def wait(self, timeout_s: float) -> bool:
        """Wait for the next transaction."""
        ready, _, _ = select.select([self._notifications.fileno()], [], [], timeout_s)
        return bool(ready)


class Process:
    """`kpx run`, started and waited for by its own readiness message (sd_notify)."""

    def __init__(self, directory: Path, log: Path) -> None:
        self._log = log
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = directory.parent / f"notify-{time.monotonic_ns()}"
        self._socket.bind(str(path))
        options = ["--manifests", str(directory), "--cluster-cidr", manifests.CLUSTER_CIDR, "--hostname-override", "node-0"]
        quiet = ["--healthz-bind-address", "", "--metrics-bind-address", ""]
        started = time.perf_counter()
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kpx", "run", *options, *quiet],
                env={**os.environ, "NOTIFY_SOCKET": str(path)},
                stdin=subprocess.DEVNULL,
                stderr=stderr,
            )
        self._wait_ready()
        self.start_s = time.perf_counter() - started

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        message = b""
        while b"READY=1" not in message:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise SystemExit(f"kpx run did not get ready:\n{self._log.read_text()}")
            ready, _, _ = select.select([self._socket], [], [], 1.0)
            message = self._socket.recv(4096) if ready else b""

    def status_bytes(self, field: str) -> int:
        """Return a size of /proc/PID/status: VmRSS now, VmHWM at its highest."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)[1]) * 1024  # type: ignore[index]

    def cpu_s(self) -> float:
        """Return the processor time used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def lags_s(self) -> list[float]:
        """Return, for each change the agent logged, the time from the file read to the kernel."""
        return [float(found) / 1000 for found in LAG.findall(self._log.read_text())]

    def stop(self) -> None:
        """End it as systemd would; forwarding stays."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=30)
        self._socket.close()


def measure(directory: Path, services: int, endpoints: int, changes: int) -> AgentNumbers:
    """Start the agent on an empty kernel, change files under it, stop it, start it again."""
    log = directory.parent / "agent.log"
    process = Process(directory, log)
    try:
        rss = process.status_bytes("VmRSS")
        commits = Commits()
        before = len(process.lags_s())
        changes_s = [_change(commits, directory, services, endpoints, number) for number in range(changes)]
        lags_s = process.lags_s()[before:]
        idle_cpu = _idle(process)
        peak = process.status_bytes("VmHWM")
        rss = max(rss, process.status_bytes("VmRSS"))
    finally:
        process.stop()
    commits.drain()
    again = Process(directory, log)
    again.stop()
    return AgentNumbers(process.start_s, rss, peak, changes_s, lags_s, idle_cpu, again.start_s, commits.drain())


def _change(commits: Commits, directory: Path, services: int, endpoints: int, number: int) -> float:
    commits.drain()
    started = time.perf_counter()
    manifests.rewrite(directory, (number // 2 * 7919) % services, endpoints, replaced=number % 2 == 0)
    if not commits.wait(CHANGE_S):
        raise SystemExit(f"change {number} did not reach the kernel within {CHANGE_S:g} s")
    return time.perf_counter() - started


def _idle(process: Process) -> float:
    """Return the share of a core the agent uses while nothing happens, over three seconds."""
    before, started = process.cpu_s(), time.monotonic()
    select.select([], [], [], 3.0)
    return (process.cpu_s() - before) / (time.monotonic() - started)
