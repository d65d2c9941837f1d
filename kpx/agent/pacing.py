"""
When to act. Pure: time is an argument, in monotonic seconds.

`Pacing` acts at once when idle and lets requests gather when busy (B1). `RepairPace` mends what others break: the first time at
once, and with growing pauses when somebody breaks it again and again, but never later than the bound it is given.
"""

from __future__ import annotations


class Pacing:
    """
    Spaces the rounds: at least `min_period_s` from the end of one to the start of the next.

    Args:
        min_period_s: seconds; 0 acts on every request at once.
    """

    def __init__(self, min_period_s: float = 0.0) -> None:
        self._min_period_s = min_period_s
        self._requested = False
        self._free_at = float("-inf")

    def space(self, min_period_s: float) -> None:
        """Let this be the pause between rounds, seconds, from the next one on."""
        self._min_period_s = min_period_s

    def request(self) -> None:
        """Ask for a round; asking again before it happened is one request."""
        self._requested = True

    def deadline(self) -> float | None:
        """Return when the next round is due, possibly in the past, None when nobody asked for one."""
        return self._free_at if self._requested else None

    def due(self, now: float) -> bool:
        """Tell whether a round is due."""
        return self._requested and now >= self._free_at

    def began(self) -> None:
        """Take note that a round began: it serves all requests so far."""
        self._requested = False

    def ended(self, now: float) -> None:
        """Take note that a round ended, well or not."""
        self._free_at = now + self._min_period_s


class RepairPace:
    """
    Spaces repairs.

    Args:
        first_s: pause after the first repair, seconds; it doubles with each further one.
        limit_s: longest pause, seconds.
        quiet_s: after so long without a repair, seconds, the next one is a first one again.
    """

    def __init__(self, first_s: float = 0.05, limit_s: float = 0.8, quiet_s: float = 10.0) -> None:
        self._first_s = first_s
        self._limit_s = limit_s
        self._quiet_s = quiet_s
        self._pause_s = 0.0
        self._repaired_at = float("-inf")
        self._wanted = False

    def notice(self) -> None:
        """Ask for a repair."""
        self._wanted = True

    def deadline(self) -> float | None:
        """Return when the next repair is due, possibly in the past, None when none is wanted."""
        return self._repaired_at + self._pause_s if self._wanted else None

    def due(self, now: float) -> bool:
        """Tell whether a repair is due."""
        return self._wanted and now >= self._repaired_at + self._pause_s

    def repaired(self, now: float) -> None:
        """Take note of a repair; it serves all notices so far."""
        fighting = now - self._repaired_at < self._quiet_s
        self._pause_s = min(self._pause_s * 2, self._limit_s) if fighting else self._first_s
        self._repaired_at = now
        self._wanted = False
