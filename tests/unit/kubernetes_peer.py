"""The other end of a channel, played by the test itself: it takes connections and says what bytes it likes, when it likes."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable

from kpx.sources.kubernetes.access import Access, Told, access_of
from kpx.sources.kubernetes.poller import Poller
from tests.lab.hearing import LONG_S

HOST = "127.0.0.1"
OTHER = "127.0.0.2"


class Clock:
    """Monotonic seconds, which a test moves ahead."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


class Peer:
    """A listening socket; use as a context manager."""

    def __init__(self, poller: Poller, host: str = HOST, port: int = 0) -> None:
        self._poller = poller
        self._listening = socket.create_server((host, port))
        self._listening.settimeout(LONG_S)
        self._open: list[socket.socket] = []

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (*self._open, self._listening):
            sock.close()

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def access(self, *hosts: str, tls: bool = False) -> Access:
        """Return how to get here."""
        return access_of(Told(server="http://api", host="api", port=self.port, tls=tls, addresses=hosts or (HOST,)))

    def accept(self) -> socket.socket:
        """Return the next connection, which is closed in the end."""
        sock, _ = self._listening.accept()
        sock.settimeout(LONG_S)
        self._open.append(sock)
        return sock

    def has_caller(self) -> bool:
        """Tell whether a connection waits to be accepted."""
        return bool(select.select([self._listening], [], [], 0)[0])

    def request(self, sock: socket.socket) -> bytes:
        """Return the head of the next request on a connection; the channel goes on meanwhile."""
        data = b""
        sock.setblocking(False)
        give_up_at = time.monotonic() + LONG_S
        while not data.endswith(b"\r\n\r\n"):
            assert time.monotonic() < give_up_at, data
            select.select([self._poller, sock], [], [], 0.05)
            self._poller.dispatch()
            with contextlib.suppress(BlockingIOError):
                data += sock.recv(1)
        sock.settimeout(LONG_S)
        return data

    def until(self, reached: Callable[[], bool]) -> None:
        """Let the channel go on until a condition holds."""
        give_up_at = time.monotonic() + LONG_S
        while not reached():
            assert time.monotonic() < give_up_at, "not reached"
            select.select([self._poller], [], [], 0.05)
            self._poller.dispatch()
