"""How long the answer to one request may be silent, how long it may last, and when it has turned out well. Pure."""

from __future__ import annotations

from typing import Final

SILENCE_S: Final = 60.0
"""How long an answer that is under way may pause, seconds: what a server takes for one request at most (--request-timeout)."""

INITIAL_SILENCE_S: Final = 10.0
"""How long a WatchList may pause before the bookmark that ends it, seconds; a server that has never heard of it sends none."""

BOOKMARK_SILENCE_S: Final = 200.0
"""How long a watch that has brought a bookmark may be silent, seconds; there is one about every minute."""

OVERTIME_S: Final = 30.0
"""How long after its time a watch may go on, seconds."""

EARLY_S: Final = 5.0
"""How long before its time a watch may end and still have ended in time, seconds; the server began to count before us."""

SETTLED_S: Final = 1.0
"""A watch that has been open so long is well, though nothing may have happened yet, seconds."""


class Vigil:
    """
    The times of one request after the other.

    Attributes:
        heard_at: when anything was heard, of this request or a former one, monotonic seconds; None when nothing ever was.
        silence_s: how long the answer may be silent now.
    """

    def __init__(self) -> None:
        self.heard_at: float | None = None
        self.silence_s = SILENCE_S
        self._silent_at = 0.0
        self._settles_at: float | None = None
        self._ends_at: float | None = None
        self._lasts_s = 0.0
        self._told = False

    def begin(self, now: float, lasts_s: float) -> None:
        """Take note that a request is sent; a watch is asked to last so long."""
        self._lasts_s = lasts_s
        self._settles_at = self._ends_at = None
        self._told = False
        self.silence_s = SILENCE_S
        self._silent_at = now + SILENCE_S

    def hear(self, now: float) -> None:
        """Take note of a sign of life."""
        self.heard_at = now
        self._silent_at = now + self.silence_s

    def watchlist_opened(self, now: float) -> None:
        """Take note that a WatchList begins to be answered."""
        self._ends_at = now + self._lasts_s
        self.silence_s = INITIAL_SILENCE_S
        self.hear(now)

    def watch_opened(self, now: float) -> None:
        """Take note that what comes now is what happens; nothing may happen for the whole time of a watch."""
        if self._ends_at is None:
            self._ends_at = now + self._lasts_s
        self._settles_at = now + SETTLED_S
        self.silence_s = self._lasts_s + OVERTIME_S
        self.hear(now)

    def bookmark(self, now: float) -> None:
        """Take note of a bookmark: there will be another one before long."""
        self.silence_s = min(self.silence_s, BOOKMARK_SILENCE_S)
        self.hear(now)

    def wake_at(self) -> float:
        """Return when `settle` or `is_silent` has news, unless something is heard before, monotonic seconds."""
        return self._silent_at if self._settles_at is None else min(self._silent_at, self._settles_at)

    def is_silent(self, now: float) -> bool:
        """Tell whether nothing was heard for too long."""
        return now >= self._silent_at

    def settle(self, now: float) -> bool:
        """Tell whether a watch has been open for long enough to be well; once."""
        if self._settles_at is None or now < self._settles_at:
            return False
        self._settles_at = None
        return True

    def is_unsettled(self) -> bool:
        """Tell whether a watch is open, and not for long."""
        return self._settles_at is not None

    def tell(self) -> None:
        """Take note that a watch has told something."""
        self._told = True

    def is_untimely(self, now: float) -> bool:
        """Tell whether a watch that ends now ends before its time, or without having told anything at all."""
        return not self._told or (self._ends_at is not None and now < self._ends_at - EARLY_S)
