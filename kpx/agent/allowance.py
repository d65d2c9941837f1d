"""How many of something may happen now: a bucket of tokens that fills up again by itself. Pure: time is an argument."""

from __future__ import annotations


class Allowance:
    """
    At most `most` at once, and one more every `every_s` seconds after that.

    Args:
        now: monotonic seconds; the bucket is full then.
    """

    def __init__(self, most: int, every_s: float, now: float) -> None:
        self._most = most
        self._every_s = every_s
        self._full_at = now
        """When the bucket is full again if nothing more is taken."""

    def next_at(self, now: float) -> float:
        """Return when one may be taken: `now`, or later."""
        return max(now, self._full_at - (self._most - 1) * self._every_s)

    def take(self, now: float) -> None:
        """Take one; it is the caller's affair to ask `next_at` before."""
        self._full_at = max(self._full_at, now) + self._every_s

    def is_full(self, now: float) -> bool:
        """Tell whether nothing was taken for so long that this is as good as new."""
        return self._full_at <= now
