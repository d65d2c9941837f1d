"""
One agent a network namespace.

The lock is an abstract UNIX socket: such names belong to a network namespace (unix(7)), which is exactly what an agent
programs, and the kernel frees them when the process is gone, however it went. No file is left behind, none can be stale.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Final

from kpx.errors import AlreadyRunning, KpxError

NAME: Final = "\0kpx-agent"

QUEUE: Final = 16
"""How many may ask at once who holds the lock."""

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid (socket(7), SO_PEERCRED)."""


class AgentLock:
    """Held from construction until `close`; usable as a context manager."""

    def __init__(self, name: str = NAME) -> None:
        """
        Take the lock.

        Raises:
            AlreadyRunning: somebody holds it; the message names the process.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(name)
            # Whoever finds the name taken connects, and learns from the connection itself who we are.
            self._socket.listen(QUEUE)
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            if error.errno != errno.EADDRINUSE:
                raise KpxError(f"cannot take the lock of the agent: {os.strerror(error.errno or 0)}") from error
            raise AlreadyRunning(
                f"another kpx agent ({_who(holder(name))}) serves this network namespace; stop it before you start this one"
            ) from None

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when somebody asked who holds the lock."""
        return self._socket.fileno()

    def drain(self, answer: Callable[[socket.socket], None] = socket.socket.close) -> None:
        """Answer those who asked, and let go of them, so that others can ask."""
        with contextlib.suppress(BlockingIOError):
            while True:
                with self._socket.accept()[0] as asker:
                    answer(asker)

    def close(self) -> None:
        """Give the lock back; idempotent."""
        self._socket.close()

    def __enter__(self) -> AgentLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def holder(name: str = NAME) -> int | None:
    """Return the pid of the agent of this network namespace, 0 when it cannot be told from here, None without one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(name)
        except BlockingIOError:
            return 0
        except OSError:
            return None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(credentials)
    return int(pid)


def _who(pid: int | None) -> str:
    return f"pid {pid}" if pid else "its pid cannot be told from here"
