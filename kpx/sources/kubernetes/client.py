"""
Requests others want to send over the source's connection, credentials and epoll: events, today.

They go one after the other over one connection of their own, so that they never hold up a watch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple
from typing import Protocol as Interface

from kpx.sources.kubernetes.channel import Channel
from kpx.sources.kubernetes.finder import AccessSource
from kpx.sources.kubernetes.pauses import pause_s
from kpx.sources.kubernetes.poller import Poller
from kpx.sources.kubernetes.troubles import Trouble

OnAnswer = Callable[[int, bytes], None]
"""Told the HTTP status and the body; status 0 when there was no answer, and then the body is the reason in words, UTF-8."""

LONGEST_QUEUE: Final = 256
"""Requests waiting at most; a further one is answered with status 0 at once."""

LONGEST_ANSWER: Final = 1 << 20
"""Bytes of an answer that are kept."""

ANSWER_S: Final = 30.0
"""How long one answer may take, seconds."""


class Client(Interface):
    """One-shot requests; `KubernetesSource.client` is one. Everything happens in the thread that polls the source."""

    def send(self, method: str, path: str, body: bytes, on_answer: OnAnswer, content_type: str = "application/json") -> None:
        """
        Send a request when it is its turn; never waits.

        Args:
            method: "POST", "PATCH", "GET" ...
            path: with its query, from the root of the API: "/apis/events.k8s.io/v1/namespaces/shop/events".
            body: as it is to be sent, b"" for none.
            on_answer: called once, from within the source's `poll`; from within `send` when the queue is full. Not called after
                the source was closed.
        """


class _Waiting(NamedTuple):
    method: str
    path: str
    body: bytes
    content_type: str
    on_answer: OnAnswer


class QueueClient:
    """
    The client of a source; implements `Client`, and `kpx.sources.kubernetes.channel.Listener` for its own channel.

    A request whose connection breaks is answered with status 0 and not repeated: only who sent it knows whether that is safe.
    """

    def __init__(
        self,
        poller: Poller,
        access: AccessSource,
        chance: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._access = access
        self._channel = Channel(poller, clock)
        self._chance = chance
        self._clock = clock
        self._queue: deque[_Waiting] = deque()
        self._sent: _Waiting | None = None
        self._status = 0
        self._answer = bytearray()
        self._failures = 0
        self._has_access = True
        self._not_before = float("-inf")
        self._give_up_at: float | None = None

    def send(self, method: str, path: str, body: bytes, on_answer: OnAnswer, content_type: str = "application/json") -> None:
        """Send a request when it is its turn; see `Client`."""
        if len(self._queue) >= LONGEST_QUEUE:
            on_answer(0, b"too many requests are waiting")
            return
        self._queue.append(_Waiting(method, path, body, content_type, on_answer))

    def advance(self, now: float) -> None:
        """Send the next request if it is time, give up on one that takes too long, and read on where there is more."""
        self._channel.tick()
        if self._give_up_at is not None and now >= self._give_up_at:
            self._channel.abandon()
            self.broken(Trouble(f"does not answer within {ANSWER_S:.0f} s"))
        if self._sent is None and self._queue and now >= self._not_before:
            access = self._access.current(now)
            self._has_access = access is not None
            if access is not None:
                waiting = self._sent = self._queue.popleft()
                self._status = 0
                self._answer.clear()
                self._give_up_at = now + ANSWER_S
                self._channel.ask(access, waiting.method, waiting.path, self, waiting.body, waiting.content_type)

    def wake_at(self) -> float | None:
        """Return when `advance` has something to do, monotonic seconds; without credentials it is called when there are some."""
        times = [self._channel.wake_at(), self._give_up_at]
        if self._sent is None and self._queue and self._has_access:
            times.append(self._not_before)
        return min((at for at in times if at is not None), default=None)

    def close(self) -> None:
        """Forget everything that waits; idempotent."""
        self._queue.clear()
        self._sent = None
        self._channel.abandon()

    def head(self, status: int, retry_after: str) -> None:
        """Take in the status of the answer."""
        self._status = status

    def body(self, data: bytes) -> None:
        """Take in a piece of the answer."""
        self._answer += data
        del self._answer[LONGEST_ANSWER:]

    def end(self) -> None:
        """Pass the answer on."""
        if self._status == 401:
            self._access.refused(self._clock())
        self._failures = 0
        self._done(self._status, bytes(self._answer))

    def broken(self, trouble: Trouble) -> None:
        """Pass on that there is none, and let the next request wait."""
        self._failures += 1
        self._not_before = self._clock() + pause_s(self._failures, self._chance())
        self._done(0, f"the API server {trouble.message}".encode())

    def _done(self, status: int, answer: bytes) -> None:
        self._give_up_at = None
        sent, self._sent = self._sent, None
        if sent is not None:
            sent.on_answer(status, answer)
