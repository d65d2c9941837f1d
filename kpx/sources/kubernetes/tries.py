"""When to try next, and what to say meanwhile. Pure."""

from __future__ import annotations

from kpx.sources.kubernetes.pauses import pause_s
from kpx.sources.kubernetes.troubles import Trouble


class Tries:
    """
    The tries of one machine.

    Attributes:
        due_at: when the next one is due, monotonic seconds.
        failures: in a row.
        trouble: why it is not well now, None when it is.
    """

    def __init__(self) -> None:
        self.due_at = float("-inf")
        self.failures = 0
        self.trouble: Trouble | None = None

    def go_on(self, now: float) -> None:
        """Let the next one be due at once."""
        self.due_at = now

    def fail(self, trouble: Trouble | None, now: float, chance: float, asked_s: float = 0.0) -> None:
        """Let the next one be due after a pause, longer with each failure; see `pause_s`."""
        self.trouble = trouble
        self.failures += 1
        self.due_at = now + pause_s(self.failures, chance, asked_s)

    def fail_once(self, trouble: Trouble, now: float, chance: float) -> None:
        """Let the first failure pass without a pause and without a word, and the second without a word."""
        if self.failures:
            self.fail(self.trouble if self.failures == 1 else trouble, now, chance)
        else:
            self.failures = 1
            self.due_at = now

    def succeed(self) -> None:
        """Begin to count anew."""
        self.failures = 0
        self.trouble = None

    def hurry(self, now: float) -> None:
        """Let the next one be due now at the latest."""
        self.due_at = min(self.due_at, now)
