"""
Destinations that take no new connections and keep those they have, until they are idle or nobody can be behind them (section 13).

A destination drains when its weight is 0: that is all a restarted process needs to go on (G4). Since when it drains is
remembered by an element of the set `draining`, whose timeout runs down; a destination without one is taken to have begun when it
was first seen. IPVS tells nobody of connections that end, so destinations that drain are looked at from time to time, one dump
for each virtual server that has any.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

from kpx.dataplanes.base import Draining, Listed
from kpx.dataplanes.ipvs.doors import Doors
from kpx.dataplanes.ipvs.schema import (
    DRAINING,
    backend_of,
    draining_element,
    read_server,
    server_of,
    set_name,
)
from kpx.kernel.wire.ipset import Element
from kpx.kernel.wire.ipvs import DEL_DESTINATION, Destination, DestinationState, ServerKey, destination_message
from kpx.model.addresses import Family

MEMORY_S: Final = 2_000_000
"""The timeout elements of `draining` begin with, three weeks; what is left of it tells the age, whatever the settings were."""

LOOK_MIN_S: Final = 1.0
LOOK_MAX_S: Final = 15.0
"""How often destinations that drain are looked at: after a quarter of their age, between these bounds."""


class Drain:
    """One destination that drains: since when, and since when its endpoint is in no slice (None: it is in one)."""

    __slots__ = ("since", "unlisted_since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.unlisted_since: float | None = None


class Drains:
    """
    What drains, by destination.

    Args:
        clock: monotonic seconds.

    Attributes:
        timeout_s: how long one may drain at most. grace_s: how long its connections live on after its endpoint left all slices.
    """

    def __init__(self, doors: Doors, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout_s = 3600.0
        self.grace_s = 60.0
        self._doors = doors
        self._clock = clock
        self._held: dict[tuple[Family, bytes], Drain] = {}
        self._look_at: float | None = None

    def __len__(self) -> int:
        return len(self._held)

    def holds(self, family: Family, key: bytes) -> bool:
        """Tell whether a destination drains."""
        return (family, key) in self._held

    def begin(self, family: Family, keys: Collection[bytes]) -> None:
        """Remember, in the kernel first, that destinations drain from now on; their weight is the caller's to lower."""
        now = self._clock()
        fresh = [key for key in keys if (family, key) not in self._held]
        self._remember(family, fresh)
        for key in fresh:
            self._held[family, key] = Drain(now)
        if fresh:
            self._look_at = min(now + LOOK_MIN_S, self._look_at or now + LOOK_MIN_S)

    def _remember(self, family: Family, keys: Collection[bytes]) -> None:
        if keys:
            elements = [draining_element(family, key, MEMORY_S) for key in keys]
            self._doors.sets.write([(set_name(family, DRAINING), True, elements)])

    def forget(self, family: Family, keys: Iterable[bytes]) -> None:
        """Take destinations for drained or returned; nothing is written but the memory."""
        known = [key for key in keys if self._held.pop((family, key), None) is not None]
        if known:
            self._doors.sets.write([(set_name(family, DRAINING), False, [draining_element(family, key) for key in known])])

    def servers_gone(self, family: Family, servers: Iterable[bytes]) -> None:
        """Forget what drained in virtual servers that were deleted, and with them their destinations."""
        if self._held:
            gone = set(servers)
            self.forget(family, [key for held, key in self._held if held == family and server_of(family, key) in gone])

    def learn(self, family: Family, keys: Collection[bytes], memory: Collection[Element]) -> None:
        """Take what the kernel holds of a family for all there is: destinations of weight 0, and the set's elements (G4)."""
        now = self._clock()
        left = {element._replace(timeout_s=None): element.timeout_s for element in memory}
        before = self._held
        self._held = {place: drain for place, drain in before.items() if place[0] != family}
        forgotten = []
        for key in keys:
            remaining = left.get(draining_element(family, key))
            known = before.get((family, key))
            if known is None:
                known = Drain(now if remaining is None else now - max(0, MEMORY_S - remaining))
            if remaining is None:
                forgotten.append(key)
            self._held[family, key] = known
        self._remember(family, forgotten)
        if self._held and self._look_at is None:
            self._look_at = now

    def deadline(self) -> float | None:
        """Return when `tend` has something to look at, monotonic seconds."""
        return self._look_at if self._held else None

    def tend(self, listed: Listed) -> int:
        """Delete what is idle, what nobody is behind, and what has drained long enough; return how many those were."""
        now = self._clock()
        if not self._held or self._look_at is None or now < self._look_at:
            return 0
        deleted = 0
        for family in {family for family, _ in self._held}:
            states = self._states(family)
            over = [key for key, state in states.items() if self._is_over(family, key, state, listed, now)]
            vanished = [key for held, key in self._held if held == family and key not in states]
            self._doors.ipvs.write([self._deletion(family, key) for key in over])
            self.forget(family, over + vanished)
            deleted += len(over)
        youngest = max((drain.since for drain in self._held.values()), default=now)
        self._look_at = now + min(max((now - youngest) / 4, LOOK_MIN_S), LOOK_MAX_S)
        return deleted

    def _is_over(self, family: Family, key: bytes, state: DestinationState, listed: Listed, now: float) -> bool:
        drain = self._held[family, key]
        frontend = read_server(family, key)
        if frontend is not None and listed(frontend, backend_of(family, key)):
            drain.unlisted_since = None
        elif drain.unlisted_since is None:
            drain.unlisted_since = now
        if state.active + state.inactive == 0 or now - drain.since >= self.timeout_s:
            return True
        return drain.unlisted_since is not None and now - drain.unlisted_since >= self.grace_s

    def _deletion(self, family: Family, key: bytes) -> bytes:
        return destination_message(DEL_DESTINATION, kernel_key(family, key), Destination(*backend_of(family, key)))

    def _states(self, family: Family) -> dict[bytes, DestinationState]:
        """Return the state of each destination that drains and still does so; one that got its weight back does not."""
        result = {}
        for server in sorted({server_of(family, key) for held, key in self._held if held == family}):
            for (address, port), state in self._doors.ipvs.destinations(kernel_key(family, server)):
                key = server + address + port.to_bytes(2, "big")
                if state.weight == 0 and (family, key) in self._held:
                    result[key] = state
        return result

    def list(self) -> list[Draining]:
        """Return what drains now, sorted."""
        now = self._clock()
        found = []
        for family in Family:
            for key, state in self._states(family).items():
                frontend = read_server(family, key)
                if frontend is not None:
                    age = now - self._held[family, key].since
                    found.append(Draining(frontend, backend_of(family, key), age, state.active, state.inactive))
        return sorted(found)


def kernel_key(family: Family, key: bytes) -> ServerKey:
    """Return the kernel's key of the server a row's key begins with."""
    server = server_of(family, key)
    return ServerKey(int(family), server[:-3], server[-3], int.from_bytes(server[-2:], "big"))
