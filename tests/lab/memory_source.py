"""A source and a host whose news a test writes: the two other seams of the agent, beside the data plane."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping

from kpx.cluster.events import Event, Synced
from kpx.errors import SourceError
from kpx.model.addresses import Address, parse_address
from kpx.model.findings import Finding
from kpx.sources.base import News


class Bell:
    """A descriptor that is readable once it was rung and until it is drained."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)

    def ring(self) -> None:
        self._writer.send(b"!")

    def fileno(self) -> int:
        return self._reader.fileno()

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


class MemorySource:
    """
    A source that says what it is told to; implements `kpx.sources.base.Source`.

    Attributes:
        heard: what `heard_at` returns.
        failure: raised instead of the next news, until it is taken away.
        slow: `Synced` is not said at the start, but left to `say`.
        closed: whether `close` was called.
    """

    def __init__(
        self,
        *events: Event,
        findings: tuple[Finding, ...] = (),
        failure: SourceError | None = None,
        slow: bool = False,
    ) -> None:
        self.slow = slow
        self._bell = Bell()
        self._events = events
        self._later: list[Event] = []
        self.findings = findings
        self.failure = failure
        self.wanted_at: float | None = None
        self.heard: dict[str, float] = {}
        self.closed = False

    def say(self, *events: Event) -> None:
        self._later += events
        self._bell.ring()

    def start(self) -> News:
        if self.failure:
            raise self.failure
        events = self._events if self.slow else (*self._events, Synced())
        return News(events, self.findings, time.monotonic())

    def fileno(self) -> int:
        return self._bell.fileno()

    def poll(self) -> News:
        if self.failure:
            raise self.failure
        self._bell.drain()
        self.wanted_at = None
        events, self._later = tuple(self._later), []
        return News(events, self.findings, time.monotonic())

    def deadline(self) -> float | None:
        return self.wanted_at

    def heard_at(self) -> Mapping[str, float]:
        return self.heard

    def close(self) -> None:
        self.closed = True
        self._bell.close()


class MemoryHost:
    """Interface addresses in memory; implements `kpx.host.addresses.AddressKernel`."""

    def __init__(self, *entries: tuple[str, str, int]) -> None:
        self.entries = list(entries)
        self.watches: list[Bell] = []

    def change(self, *entries: tuple[str, str, int]) -> None:
        self.entries = list(entries)
        for watch in self.watches:
            watch.ring()

    def addresses(self) -> list[tuple[str, Address, int, int]]:
        return [(interface, parse_address(text), length, 0) for interface, text, length in self.entries]

    def subscribe_addresses(self) -> Bell:
        self.watches.append(Bell())
        return self.watches[-1]
