"""
Many connections with traffic: what of them is lost.

A connection is asked again and again and must be answered by the server it began with. It is lost when no answer comes within
`ANSWER_S`, which is longer than TCP takes to repeat a segment a few times, and reset when the kernel or the server says so.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tests.lab.netns import PATIENCE, Namespace
from tests.lab.traffic import open_socket

ANSWER_S = 20.0 * PATIENCE
CONNECT_S = 10.0 * PATIENCE
AT_ONCE = 64
"""So many connections begin at the same time; servers have room for 128."""
BEAT_S = 1.0
"""The connections are asked this often, or as often as there is time for."""


class Way(NamedTuple):
    """From where to where: namespace and address of the client, address and port it asks."""

    namespace: Namespace
    source: str
    to: str
    port: int


class Count(NamedTuple):
    """What became of established connections so far: questions answered, connections lost and reset."""

    answered: int = 0
    lost: int = 0
    reset: int = 0


class Flock:
    """
    Connections that live through everything, asked in a thread of their own from `start` on.

    Args:
        count: how many, spread over the ways.
    """

    def __init__(self, ways: Sequence[Way], count: int) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._greeting: dict[int, bytes] = {}
        self._count = Count()
        self._beats = 0
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="flock", daemon=True)
        for start in range(0, count, AT_ONCE):
            self._connect(ways[number % len(ways)] for number in range(start, min(start + AT_ONCE, count)))

    def _connect(self, ways: Iterable[Way]) -> None:
        opened = []
        for way in ways:
            client = open_socket(way.namespace, way.to, "TCP")
            client.bind((way.source, 0))
            with contextlib.suppress(BlockingIOError):
                client.connect((way.to, way.port))
            opened.append(client)
        for client in opened:
            self._sockets[client.fileno()] = client
        for number, said in self._hear({client.fileno() for client in opened}, CONNECT_S).items():
            assert said, "a connection could not be established at the start"
            self._greeting[number] = said

    def __len__(self) -> int:
        return len(self._sockets)

    @property
    def count(self) -> Count:
        """What became of them so far."""
        return self._count

    def start(self) -> None:
        """Begin to ask."""
        self._running.set()
        self._thread.start()

    def beat(self) -> None:
        """Wait until every connection was asked, and answered or lost, after now."""
        wanted = self._beats + 2  # the one that goes on now began before
        deadline = time.monotonic() + 3 * ANSWER_S
        while self._beats < wanted:
            assert time.monotonic() < deadline, "the connections are asked no more"
            time.sleep(0.02)

    def stop(self) -> None:
        """Ask no more, and end them."""
        if self._running.is_set():
            self._running.clear()
            self._thread.join()
        for client in self._sockets.values():
            client.close()

    def _beat_on(self) -> None:
        while self._running.is_set():
            began = time.monotonic()
            self._ask()
            self._beats += 1
            time.sleep(max(0.0, began + BEAT_S - time.monotonic()))

    def _ask(self) -> None:
        """Ask all of them once."""
        asked = set()
        for number, client in list(self._sockets.items()):
            try:
                client.send(b"?\n")
                asked.add(number)
            except OSError:
                self._bury(number, reset=True)
        for number, said in self._hear(asked, ANSWER_S).items():
            if said == self._greeting[number]:
                self._count = self._count._replace(answered=self._count.answered + 1)
            else:
                self._bury(number, reset=said is not None)

    def _hear(self, asked: set[int], within_s: float) -> dict[int, bytes | None]:
        """Return what each said: b"" for the end of the connection, None for nothing within the time."""
        heard: dict[int, bytes | None] = dict.fromkeys(asked)
        deadline = time.monotonic() + within_s
        with select.epoll() as epoll:
            for number in asked:
                epoll.register(number, select.EPOLLIN)
            left = len(asked)
            while left and (rest := deadline - time.monotonic()) > 0:
                for number, _ in epoll.poll(rest, 1024):
                    epoll.unregister(number)
                    left -= 1
                    try:
                        heard[number] = self._sockets[number].recv(4096)
                    except OSError:
                        heard[number] = b""
        return heard

    def _bury(self, number: int, reset: bool) -> None:
        self._sockets.pop(number).close()
        self._count = self._count._replace(lost=self._count.lost + (not reset), reset=self._count.reset + reset)
