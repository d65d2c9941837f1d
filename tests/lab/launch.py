"""
Starting programs under test: each a process of its own, or, where starting Python takes seconds, forked from one that is loaded.

KPX_LAB_PRELOAD=1 chooses the second for `python -m kpx ...`; `tests/lab/preloaded.py` says what is different then (nothing but
the imports). Programs start in the network namespace the calling thread is in.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Protocol

from tests.lab.preloaded import REQUEST_BYTES

PRELOAD = os.environ.get("KPX_LAB_PRELOAD", "") not in ("", "0")
KPX = [sys.executable, "-m", "kpx"]


class Process(Protocol):
    """What the lab uses of `subprocess.Popen`."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Forked:
    """A process forked from the loaded one; like `subprocess.Popen` as far as `Process` goes."""

    def __init__(self, command: Sequence[str], pid: int, pipe: int) -> None:
        self.pid = pid
        self._command = command
        self._pipe = pipe
        self._status: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status, negative for a signal."""
        if self._status is None:
            if not select.select([self._pipe], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self._command, timeout or 0)
            self._status = int(os.read(self._pipe, 16) or -signal.SIGKILL)
            os.close(self._pipe)
        return self._status

    def send_signal(self, sig: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class _Loaded:
    """The loaded process, started when it is first needed; it ends with this one."""

    control: socket.socket | None = None

    def start(self, command: Sequence[str], environment: Mapping[str, str], files: Sequence[int], session: bool) -> Forked:
        """Fork from it; `files` are standard input, output and error."""
        if self.control is None:
            self.control = self._launch(environment)
        request = {
            "arguments": command[len(KPX) :], "environment": dict(environment), "directory": os.getcwd(), "session": session,
        }  # fmt: skip
        status, written = os.pipe()
        namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            socket.send_fds(self.control, [json.dumps(request).encode()], [*files, namespace, written])
        finally:
            os.close(namespace)
            os.close(written)
        return Forked(command, int(self.control.recv(REQUEST_BYTES)), status)

    @staticmethod
    def _launch(environment: Mapping[str, str]) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.lab.preloaded", str(theirs.fileno())]
            # Nobody waits for it; it sees that our end is closed.
            loaded = subprocess.Popen(command, env=dict(environment), pass_fds=[theirs.fileno()], start_new_session=True)
            loaded.returncode = 0
        return ours


_loaded = _Loaded()


def start(command: Sequence[str], output: IO[str], environment: Mapping[str, str]) -> Process:
    """Start a program in a session of its own; both its outputs go to a file, its input is empty."""
    if PRELOAD and list(command[: len(KPX)]) == KPX:
        with open(os.devnull, encoding="utf-8") as nothing:
            return _loaded.start(command, environment, (nothing.fileno(), output.fileno(), output.fileno()), session=True)
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True, text=True
    )


def run(command: Sequence[str], timeout_s: float, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program and wait for it; raises `subprocess.TimeoutExpired`."""
    if not (PRELOAD and list(command[: len(KPX)]) == KPX):
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False
        )
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, open(os.devnull, encoding="utf-8") as nothing:
        process = _loaded.start(command, environment, (nothing.fileno(), out.fileno(), err.fileno()), session=False)
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, status, out.read(), err.read())
