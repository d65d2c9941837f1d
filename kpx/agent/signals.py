"""
Signals as one more descriptor to wait on, so that they are handled between rounds and never within one.

SIGTERM and SIGINT end the loop and leave forwarding as it is (16.6); SIGHUP reads everything again.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from types import FrameType, TracebackType
from typing import Any, Final

CAUGHT: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """Catches signals while it is entered; main thread only (signal(7) and Python's own rule)."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1

    def __enter__(self) -> Signals:
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in CAUGHT:
            self._before[number] = signal.signal(number, _ignore)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a signal came."""
        return self._reader.fileno()

    def take(self) -> frozenset[int]:
        """Return the signals that came since the last call, without waiting."""
        came = b""
        with contextlib.suppress(BlockingIOError):
            came = self._reader.recv(4096)
        return frozenset(came) & frozenset(CAUGHT)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing here: the wakeup descriptor has the signal's number already."""
