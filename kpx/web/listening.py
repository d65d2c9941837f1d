"""
Which addresses the agent listens on: what is wanted against what is open, and another try where it failed (15.1, H5, H6).

An address that cannot be bound is no reason to stop forwarding: it is said, and tried again. An address that goes on being wanted
stays open, so no probe is refused while Services change around it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from kpx.web.server import Handler, Place, WebServer, open_listener

RETRY_S: Final = 5.0
"""Pause between attempts to bind, seconds (15.1)."""


class Wanted(NamedTuple):
    """
    What is to answer on an address.

    Args:
        name: whose it is; another name in its place closes the address and opens it again (H5).
        handler: who answers, from the thread of the server.
        both_families: see `kpx.web.server.open_listener`.
    """

    name: str
    handler: Handler
    both_families: bool = False


Told = Callable[[Place, Wanted, str], None]
"""Told why an address cannot be listened on when that begins or changes, and "" when it is over."""


class Listening:
    """
    The open sockets; used from one thread.

    Args:
        server: answers on them.
        told: see `Told`.
        retry_s: see `RETRY_S`.
        clock: monotonic seconds.

    Attributes:
        failing: why an address that is wanted is not open.
    """

    def __init__(
        self, server: WebServer, told: Told, retry_s: float = RETRY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.failing: dict[Place, str] = {}
        self._server = server
        self._told = told
        self._retry_s = retry_s
        self._clock = clock
        self._groups: dict[str, Mapping[Place, Wanted]] = {}
        self._wanted: dict[Place, Wanted] = {}
        self._open: dict[Place, socket.socket] = {}
        self._try_at: float | None = None

    def want(self, group: str, wanted: Mapping[Place, Wanted]) -> None:
        """
        Let these be the addresses of a group: open what is new, close what is gone, leave the rest alone.

        What failed before is tried again, too. Of two groups that want one address the first keeps it.
        """
        self._groups[group] = wanted
        merged: dict[Place, Wanted] = {}
        for of_group in self._groups.values():
            for place, one in of_group.items():
                merged.setdefault(place, one)
        for place, held in list(self._wanted.items()):
            if place not in merged or merged[place].name != held.name:
                self._close(place)
        self._wanted = {place: self._wanted.get(place, one) for place, one in merged.items()}
        self._open_missing()

    def deadline(self) -> float | None:
        """Return when `act` has something to do, monotonic seconds."""
        return self._try_at

    def act(self, now: float) -> None:
        """Try again what failed, when it is time."""
        if self._try_at is not None and self._try_at <= now:
            self._open_missing()

    def port(self, place: Place) -> int | None:
        """Return the port that is open for an address, of interest when any would do (0); None when it is not open."""
        opened = self._open.get(place)
        return None if opened is None else int(opened.getsockname()[1])

    def __len__(self) -> int:
        return len(self._open)

    def _open_missing(self) -> None:
        for place, wanted in self._wanted.items():
            if place not in self._open:
                self._attempt(place, wanted)
        self._try_at = self._clock() + self._retry_s if self.failing else None

    def _attempt(self, place: Place, wanted: Wanted) -> None:
        try:
            opened = open_listener(place, wanted.both_families)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            if self.failing.get(place) != reason:
                self.failing[place] = reason
                self._told(place, wanted, reason)
            return
        self._open[place] = opened
        self._server.add(opened, wanted.handler)
        if self.failing.pop(place, None) is not None:
            self._told(place, wanted, "")

    def _close(self, place: Place) -> None:
        wanted = self._wanted.pop(place)
        opened = self._open.pop(place, None)
        if opened is not None:
            self._server.remove(opened)
        if self.failing.pop(place, None) is not None:
            self._told(place, wanted, "")
