"""
When to try again what failed: exponential backoff, key by key.

One row the kernel refuses must neither be tried in a busy loop nor hold up the others. This is bookkeeping alone: the time is
an argument, and so is jitter, since pure code rolls no dice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")


class Backoff(Generic[K]):
    """
    What failed, how often in a row, and when it is due again.

    After the n-th failure in a row a key waits `first_s * 2 ** (n - 1)` seconds, but no more than `limit_s`.

    Args:
        first_s: wait after the first failure, seconds, above 0.
        limit_s: longest wait, seconds, at least `first_s`.

    Raises:
        ValueError: the bounds are not 0 < first_s <= limit_s.
    """

    def __init__(self, first_s: float = 1.0, limit_s: float = 60.0) -> None:
        self.bound(first_s, limit_s)
        self._failures: dict[K, int] = {}
        self._due: dict[K, float] = {}

    def bound(self, first_s: float, limit_s: float) -> None:
        """Let these be the bounds from the next failure on; raises as the class does."""
        if not 0 < first_s <= limit_s:
            raise ValueError(f"backoff needs 0 < first_s <= limit_s, not {first_s} and {limit_s}")
        self._first_s = first_s
        self._limit_s = limit_s

    def failed(self, key: K, now: float, jitter: float = 0.0) -> float:
        """
        Count a failure and return when the key is due again.

        Args:
            key: what failed.
            now: monotonic seconds.
            jitter: 0 to 1; the part of the wait that is added to it, so that keys that fail together part. The limit
                holds for the sum.
        """
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        wait = self._first_s
        for _ in range(failures - 1):
            if wait >= self._limit_s:
                break
            wait *= 2
        due = self._due[key] = now + min(wait * (1 + jitter), self._limit_s)
        return due

    def succeeded(self, key: K) -> None:
        """Forget the key's failures; nothing happens when there are none."""
        self._failures.pop(key, None)
        self._due.pop(key, None)

    def retain(self, wanted: Callable[[K], bool]) -> None:
        """Forget the keys that are not wanted any more: nobody will try them, so they can never succeed."""
        for key in [key for key in self._due if not wanted(key)]:
            self.succeeded(key)

    def due(self, key: K, now: float) -> bool:
        """Tell whether the key may be tried now; a key that has not failed always may."""
        due = self._due.get(key)
        return due is None or due <= now

    def next_due(self) -> float | None:
        """Return the earliest time, monotonic seconds, at which a key that failed may be tried; None if nothing failed."""
        return min(self._due.values(), default=None)

    def failures(self, key: K) -> int:
        """Return how often in a row the key failed."""
        return self._failures.get(key, 0)

    def __len__(self) -> int:
        return len(self._due)
