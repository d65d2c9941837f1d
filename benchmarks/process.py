"""A proxy under measurement as a process: started, waited for, weighed, ended; and the kernel's word of what it committed."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.manifests import CLUSTER_CIDR
from benchmarks.stages import NODE
from kpx.kernel.notifications import nftables_notifications

KPX_OPTIONS: Final = ("--proxy-mode", "nftables", "--cluster-cidr", CLUSTER_CIDR, "--hostname-override", NODE)
READY_S: Final = 600.0
"""How long a proxy may take to have everything in the kernel."""
QUIET_S: Final = 3.0
"""A proxy that does not say when it is ready is when it has committed nothing and computed nothing for so long."""

_ROUND: Final = re.compile(r" round reason=(\w+) .*?added=(\d+) changed=(\d+) removed=(\d+)(.*)$", re.MULTILINE)
_LAG: Final = re.compile(r" lag_ms=([0-9.]+)")


def rounds_in(log: str) -> list[tuple[str, int, float | None]]:
    """Return the rounds the agent logged: reason, rows written, and seconds from reading the input to the kernel's answer."""
    found = []
    for reason, added, changed, removed, rest in _ROUND.findall(log):
        lag = _LAG.search(rest)
        found.append((reason, int(added) + int(changed) + int(removed), float(lag[1]) / 1000 if lag else None))
    return found


class Commits:
    """
    Transactions of anybody in this network namespace.

    A commit is seen as the notification nf_tables multicasts after each transaction, so a time measured to one has everything
    in between in it.
    """

    def __init__(self) -> None:
        self._notifications = nftables_notifications(None)

    def drain(self) -> int:
        """Return how many notifications have arrived since the last call; 0 means nobody wrote."""
        datagrams, lost = self._notifications.drain()
        return len(datagrams) + lost

    def wait(self, timeout_s: float) -> bool:
        """Wait for the next transaction; False when there is none in time."""
        ready, _, _ = select.select([self._notifications.fileno()], [], [], timeout_s)
        return bool(ready)

    def quiet_after(self, quiet_s: float, limit_s: float) -> float:
        """Return when the last transaction was heard of before it was quiet for so long, `time.perf_counter`."""
        last, limit = time.perf_counter(), time.perf_counter() + limit_s
        while time.perf_counter() < limit and self.wait(quiet_s):
            self.drain()
            last = time.perf_counter()
        return last

    def close(self) -> None:
        """Hear no more."""
        self._notifications.close()


class Proxy:
    """
    A running program.

    Attributes:
        start_s: from its start to everything in the kernel. start_cpu_s: processor time it used for it, the kernel's included.
    """

    start_s = start_cpu_s = 0.0

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        self._log = log
        self._began = time.perf_counter()
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr
            )

    def note_start(self, ended: float) -> None:
        """Take note that everything is in the kernel since then, `time.perf_counter`."""
        self.start_s, self.start_cpu_s = ended - self._began, self.cpu_s()

    def check(self) -> None:
        """Raise SystemExit with its last words when it has ended."""
        if self._process.poll() is not None:
            raise SystemExit(f"{self._process.args} ended: {self._log.read_text()[-2000:]}")

    def status_bytes(self, field: str) -> int:
        """Return a size of /proc/PID/status: VmRSS now, VmHWM at its highest."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)[1]) * 1024  # type: ignore[index]

    def cpu_s(self) -> float:
        """Return the processor time used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def idle(self, seconds: float = 5.0) -> float:
        """Return the share of a core it uses while nothing happens."""
        before, started = self.cpu_s(), time.monotonic()
        select.select([], [], [], seconds)
        return (self.cpu_s() - before) / (time.monotonic() - started)

    def stop(self) -> None:
        """End it as systemd would; forwarding stays."""
        self._process.terminate()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Kpx(Proxy):
    """`kpx run`, waited for by its own readiness message (sd_notify)."""

    def __init__(self, options: Sequence[str], place: Path) -> None:
        path = place / f"notify-{time.monotonic_ns()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(path))
            quiet = ["--healthz-bind-address", "", "--metrics-bind-address", ""]
            command = [sys.executable, "-m", "kpx", "run", *options, *KPX_OPTIONS, *quiet]
            super().__init__(command, place / "kpx.log", {"NOTIFY_SOCKET": str(path)})
            try:
                self._wait_ready(notify)
            except BaseException:
                self.stop()
                raise

    def _wait_ready(self, notify: socket.socket) -> None:
        message, limit = b"", time.monotonic() + READY_S
        while b"READY=1" not in message:
            self.check()
            if time.monotonic() > limit:
                raise SystemExit(f"kpx run was not ready within {READY_S:g} s")
            ready, _, _ = select.select([notify], [], [], 1.0)
            message = notify.recv(4096) if ready else b""
        self.note_start(time.perf_counter())

    def lags_s(self) -> list[float]:
        """Return, for each round it logged for a change, the time from reading the input to the kernel's answer."""
        return [lag for reason, _, lag in rounds_in(self._log.read_text()) if reason == "change" and lag is not None]

    def rows_written(self) -> int:
        """Return how many rows it logged as written since its start."""
        return sum(rows for _, rows, _ in rounds_in(self._log.read_text()))
