"""
What systemd is told: ready, alive, stopping, and how it goes in one line (sd_notify(3)).

Without $NOTIFY_SOCKET all of this does nothing, so the agent need not know who started it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

EXTENDED_S: Final = 60
"""How long systemd waits after each word that start-up goes on, seconds."""


class Notifier:
    """
    The socket systemd listens on, if there is one.

    Attributes:
        watchdog_s: how often to say `alive`, seconds, None when nobody waits for it. Half of what systemd allows.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the leading zero byte of an abstract name.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._status = ""
        self.watchdog_s = self._watchdog(environ) if path else None

    @staticmethod
    def _watchdog(environ: Mapping[str, str]) -> float | None:
        """Read sd_watchdog_enabled(3)'s variables; they count only if they are meant for this process."""
        microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        if not microseconds.isdigit() or not int(microseconds) or (pid and pid != str(os.getpid())):
            return None
        return int(microseconds) / 2_000_000

    def starting(self) -> None:
        """Say that start-up takes longer, and that it is not to be given up for another while (`EXTENDED_S`)."""
        self._send(f"EXTEND_TIMEOUT_USEC={EXTENDED_S * 1_000_000}")

    def ready(self) -> None:
        """Say that start-up is over: the kernel equals the cluster."""
        self._send("READY=1")

    def alive(self) -> None:
        """Pat the watchdog."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the agent is about to end."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Say how it goes, one line; saying the same again costs nothing."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def _send(self, line: str) -> None:
        if not self._address:
            return
        # Whoever listens may be gone or slow; forwarding does not depend on it.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.setblocking(False)
            out.sendto(line.encode(), self._address)
