"""
How far we are in what the server has to tell about one kind, and so what is to be asked next. Pure.

A resourceVersion is the server's, and the server may forget it (410) or be restored to an earlier state. A watch from a version
that is yet to come is answered with silence, which is why a server that went away, or may have, is checked before it is believed
again.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

PAGE: Final = 500
"""Objects asked for at a time, as client-go does."""

WATCH_S: Final = 300.0
"""Shortest time a watch is asked to last, seconds; at random it is up to twice that, so that not all end at once."""

LONG_OUTAGE_S: Final = 30.0
"""
After so long in doubt everything is asked for anew, seconds: in less no etcd is restored, and grown beyond what we know of, too.
A watch would seldom fare better, for a server that was started anew knows nothing of what was before.
"""

UNABLE: Final = 4
"""After so many 5xx in a row to the same question, a full account is asked for in its place."""


class Phase(enum.Enum):
    """
    What is asked for.

    WATCHLIST is a watch that begins with everything there is, LIST is everything page by page, WATCH is what happens after a
    resourceVersion, and CHECK is one object, for the sake of the resourceVersion around it.
    """

    WATCHLIST = "watchlist"
    LIST = "list"
    WATCH = "watch"
    CHECK = "check"


class Request(NamedTuple):
    """
    A GET.

    Args:
        target: path and query.
        number: counts the requests of a machine, so that each is another one.
    """

    target: str
    number: int


class Position:
    """
    How far we are.

    Attributes:
        version: after which a watch begins; "" when a full account is needed first.
        token: where the list that is under way goes on, "" when none is.
        watchlist: the server may be able to begin a watch with everything there is.
    """

    def __init__(self) -> None:
        self.version = ""
        self.token = ""
        self.watchlist = True
        self._doubtful_since: float | None = None
        self._unable = 0

    def start_over(self) -> None:
        """Be nowhere: a full account is needed."""
        self.version, self.token, self._doubtful_since = "", "", None
        self._unable = 0

    def settle(self) -> None:
        """Take note that the server does answer."""
        self._unable = 0

    def doubt(self, now: float) -> None:
        """Take note that the server may be another one, or the same with an older memory, when it is there again."""
        if self._doubtful_since is None:
            self._doubtful_since = now

    def unable(self, phase: Phase) -> None:
        """Take note that the server was unable to answer a question; it may be able to answer another one."""
        self._unable += phase is not Phase.CHECK
        if self._unable >= UNABLE:
            self.start_over()

    def turn_page(self, token: str, version: str) -> None:
        """Take note of a page of a list; one without a token is the last."""
        self.token, self._doubtful_since = token, None
        if not token:
            self.version = version

    def arrive(self, version: str) -> None:
        """Take note that everything was told up to a version."""
        self.version, self._doubtful_since = version, None

    def check(self, version: str) -> None:
        """Compare what the server has with what we know of; one that is behind was restored to an earlier state."""
        if is_before(version, self.version):
            self.start_over()
        self._doubtful_since = None

    def next_phase(self, now: float, failures: int) -> Phase:
        """Return what to ask for next, after so many failures in a row."""
        if self._doubtful_since is not None and now - self._doubtful_since >= LONG_OUTAGE_S:
            self.start_over()
        if not self.version:
            # A server may fail at a WatchList in a way that looks like any other failure; so every other two tries are a LIST.
            return Phase.WATCHLIST if self.watchlist and not self.token and failures % 4 < 2 else Phase.LIST
        return Phase.WATCH if self._doubtful_since is None else Phase.CHECK

    def query(self, phase: Phase, lasts_s: int) -> dict[str, str]:
        """Return the query to ask with, beside the selectors; a watch is to last so many seconds."""
        if phase is Phase.CHECK:
            return {"limit": "1"}
        if phase is Phase.LIST:
            return {"limit": str(PAGE)} | ({"continue": self.token} if self.token else {})
        watch = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(lasts_s)}
        if phase is Phase.WATCHLIST:
            return watch | {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        return watch | {"resourceVersion": self.version}


def is_before(version: str, other: str) -> bool:
    """
    Tell whether a resourceVersion is earlier than another one; not when one of them is no number.

    They have been numbers since Kubernetes began, of any length, and may be compared (KEP-5504).
    """
    if not all(text.isascii() and text.isdigit() for text in (version, other)):
        return False
    one, two = version.lstrip("0"), other.lstrip("0")
    return (len(one), one) < (len(two), two)
