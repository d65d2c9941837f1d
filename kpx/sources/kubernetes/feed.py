"""One machine and one channel: carries out what the machine asks for and tells it what comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from kpx.cluster.events import Event
from kpx.sources.kubernetes.channel import Channel
from kpx.sources.kubernetes.finder import AccessSource
from kpx.sources.kubernetes.kinds import Kind
from kpx.sources.kubernetes.machine import ListWatch
from kpx.sources.kubernetes.poller import Poller
from kpx.sources.kubernetes.troubles import Trouble


class Feed:
    """
    What comes of one kind; implements `kpx.sources.kubernetes.channel.Listener`.

    Attributes:
        machine: the state.
    """

    def __init__(
        self,
        kind: Kind,
        poller: Poller,
        access: AccessSource,
        chance: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.machine = ListWatch(kind)
        self._channel = Channel(poller, clock)
        self._access = access
        self._chance = chance
        self._clock = clock
        self._asked = 0
        self._has_access = True
        self._events: list[Event] = []

    def advance(self, now: float) -> None:
        """Do what is due: the next request, or giving up on the one under way."""
        self._channel.tick()
        self.machine.tick(now, self._chance())
        self._drop_if_over()
        if self.machine.request is None and now >= (self.machine.wake_at() or 0.0):
            access = self._access.current(now)
            self._has_access = access is not None
            request = None if access is None else self.machine.begin(now, self._chance())
            if access is not None and request is not None:
                self._asked = request.number
                self._channel.ask(access, "GET", request.target, self)

    def wake_at(self) -> float | None:
        """Return when `advance` has something to do, monotonic seconds; without credentials it is called when there are some."""
        times = [self._channel.wake_at()]
        if self.machine.request is not None or self._has_access:
            times.append(self.machine.wake_at())
        return min((at for at in times if at is not None), default=None)

    def take(self) -> list[Event]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._channel.abandon()

    def head(self, status: int, retry_after: str) -> None:
        """Take in the status of the answer."""
        self.machine.head(status, retry_after, self._clock())

    def body(self, data: bytes) -> None:
        """Take in a piece of the answer."""
        now = self._clock()
        self._events += self.machine.body(data, now, self._chance())
        self._pass_on_refusal(now)
        self._drop_if_over()

    def end(self) -> None:
        """Take in that the answer is complete."""
        now = self._clock()
        self._events += self.machine.end(now, self._chance())
        self._pass_on_refusal(now)

    def broken(self, trouble: Trouble) -> None:
        """Take in that there will be no answer, or no more of it."""
        now = self._clock()
        self.machine.broken(trouble, now, self._chance())
        if trouble.unreachable or trouble.lasting:
            # It may have moved, and somebody else may be where it was.
            self._access.unreachable(now)

    def _pass_on_refusal(self, now: float) -> None:
        if self.machine.unauthorized:
            self.machine.unauthorized = False
            self._access.refused(now)

    def _drop_if_over(self) -> None:
        """Close the connection under a request that the machine has no use for any more."""
        request = self.machine.request
        if self._channel.busy and (request is None or request.number != self._asked):
            self._channel.abandon()
