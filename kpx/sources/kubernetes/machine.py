"""
List and watch of one kind, without I/O: answers, broken connections and the time go in, requests and events come out.

There is at most one request at a time, in `request`. It is made by `begin` when `wake_at` has come, and it is over when it is no
longer there; whoever carries it out then drops what is still coming. Four things are asked for:

    WATCHLIST  a watch that begins with everything there is (KEP-3157), where the server can do that
    LIST       everything there is, page by page, where it cannot
    WATCH      what happens after a resourceVersion
    CHECK      one object, for its resourceVersion: whether the server still knows of what we know of

A resourceVersion is the server's, and the server may forget it (410) or be restored to an earlier state. Then a full account is
taken anew and compared with what is held, so that nothing is ever lost but by the server's word. A watch from a resourceVersion
that is yet to come is answered with silence, which is why a server that went away is checked before it is believed again.

Source: k8s.io/client-go tools/cache/reflector.go for the requests; KEP-3157 WatchList; KEP-956 bookmarks.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from kpx.cluster.events import Event
from kpx.sources.kubernetes.answers import Line, NotUnderstood, Page, Refusal, read_line, read_page, read_status
from kpx.sources.kubernetes.body import Body
from kpx.sources.kubernetes.holdings import Holdings
from kpx.sources.kubernetes.kinds import Kind
from kpx.sources.kubernetes.pauses import pause_s
from kpx.sources.kubernetes.troubles import Trouble, trouble_of

PAGE: Final = 500
"""Objects asked for at a time, as client-go does."""

WATCH_S: Final = 300.0
"""Shortest time a watch is asked to last, seconds; at random it is up to twice that, so that not all end at once."""

SILENCE_S: Final = 60.0
"""How long an answer that is under way may pause, seconds: what a server takes for one request at most (--request-timeout)."""

INITIAL_SILENCE_S: Final = 10.0
"""How long a WatchList may pause before the bookmark that ends it, seconds; a server that has never heard of it sends none."""

BOOKMARK_SILENCE_S: Final = 200.0
"""How long a watch that has brought a bookmark may be silent, seconds; there is one about every minute."""

OVERTIME_S: Final = 30.0
"""How long after its time a watch may go on, seconds."""

SETTLED_S: Final = 1.0
"""A watch that has been open so long is well, though nothing may have happened yet, seconds."""

LONG_WAIT_S: Final = 600.0
"""How often a server is asked whether it now has what can be done without, seconds."""

LONGEST_LINE: Final = 16 << 20
"""Longest event of a watch, bytes; etcd holds no object over 1.5 MiB."""

LONGEST_PAGE: Final = 512 << 20
"""Longest answer to a list request, bytes; a server that does not page sends everything at once."""

LONGEST_COMPLAINT: Final = 1 << 16
"""Bytes of a refusal that are read."""


class Phase(enum.Enum):
    """What is asked for."""

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


class ListWatch:
    """
    The machine of one kind.

    Attributes:
        holdings: what is in force.
        request: what is under way, None between two requests.
        complete: everything has been said at least once, or never will be (`Kind.dispensable`).
        trouble: why it is not well now, None when it is.
        unauthorized: credentials were refused and not renewed since; whoever renews them sets it back.
        heard_at: when the server last said anything, be it that there is no news, monotonic seconds; None when it never did.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.holdings = Holdings(kind)
        self.request: Request | None = None
        self.complete = False
        self.trouble: Trouble | None = None
        self.unauthorized = False
        self.heard_at: float | None = None
        self._version = ""
        self._token = ""
        self._in_doubt = False
        self._watchlist = True
        self._phase = Phase.LIST
        self._numbered = 0
        self._lasts_s = 0
        self._failures = 0
        self._due_at = float("-inf")
        self._status = 0
        self._retry_after = ""
        self._body = Body()
        self._silent_at = 0.0
        self._silence_s = SILENCE_S
        self._settled_at: float | None = None

    @property
    def resource_version(self) -> str:
        """Return after which version a watch would begin, "" when a full account is needed first."""
        return self._version

    def wake_at(self) -> float | None:
        """Return when `begin` (without a request) or `tick` (with one) has something to do, monotonic seconds."""
        if self.request is None:
            return self._due_at
        return self._silent_at if self._settled_at is None else min(self._silent_at, self._settled_at)

    def begin(self, now: float, chance: float) -> Request | None:
        """
        Make the next request if it is time for it.

        Args:
            chance: a random number, 0 <= chance < 1; so in all other places.
        """
        if self.request is not None or now < self._due_at:
            return None
        phase = self._phase = self._next_phase()
        self._lasts_s = int(WATCH_S * (1 + chance))
        self._numbered += 1
        self.request = Request(self.kind.target(**self._query(phase)), self._numbered)
        self._status, self._retry_after = 0, ""
        self._body.clear()
        self._settled_at = None
        self._silence_s = SILENCE_S
        self._silent_at = now + SILENCE_S
        if phase is Phase.WATCHLIST or (phase is Phase.LIST and not self._token):
            self.holdings.begin_account()
        return self.request

    def head(self, status: int, retry_after: str, now: float) -> None:
        """Take in the status of the answer, and its header Retry-After."""
        self._status, self._retry_after = status, retry_after
        if status == 200 and self._phase is Phase.WATCH:
            self._settled_at = now + SETTLED_S
            self._silence_s = self._lasts_s + OVERTIME_S
        elif status == 200 and self._phase is Phase.WATCHLIST:
            self._silence_s = INITIAL_SILENCE_S
        self._heard(now)

    def body(self, data: bytes, now: float, chance: float) -> list[Event]:
        """Take in a piece of the answer, however it was cut."""
        if self.request is None:
            return []
        self._heard(now)
        self._body.add(data, LONGEST_COMPLAINT if self._status != 200 else None)
        if self._status != 200:
            return []
        if self._phase in (Phase.WATCH, Phase.WATCHLIST):
            return self._lines(now, chance)
        if len(self._body) > LONGEST_PAGE:
            trouble = Trouble(f"sends a list of {self.kind.resource} of over {LONGEST_PAGE >> 20} MiB", lasting=True)
            self._fail(trouble, now, chance)
        return []

    def end(self, now: float, chance: float) -> list[Event]:
        """Take in that the answer is complete."""
        if self.request is None:
            return []
        body = self._body.take()
        if self._status != 200:
            return self._refused(read_status(body, self._status, self._retry_after), now, chance)
        if self._phase is Phase.LIST:
            return self._page(body, now, chance)
        if self._phase is Phase.CHECK:
            self._checked(body, now, chance)
        elif self._phase is Phase.WATCHLIST:
            self._fail(Trouble(f"ends a watch of {self.kind.resource} before all of them were sent; trying again"), now, chance)
        elif self._failures or (self._settled_at is not None and now < self._settled_at):
            # A watch that ends as soon as it began would otherwise begin again as soon as it ended.
            self._fail(self.trouble, now, chance)
        else:
            self._again(now)
        return []

    def broken(self, trouble: Trouble, now: float, chance: float) -> None:
        """Take in that the connection broke, or could not be made; what was said until then counts."""
        if self.request is None:
            return
        # The server may be another one, or the same with an older memory, when it is there again.
        self._in_doubt = True
        # A connection that breaks is an event of every day; that there is no other one is worth a word.
        worth_a_word = self._failures > 0 or trouble.unreachable or trouble.lasting
        self._fail(trouble if worth_a_word else self.trouble, now, chance)

    def tick(self, now: float, chance: float) -> None:
        """Take in that time has passed; a request about which nothing is heard for too long is over."""
        if self.request is None:
            return
        if self._settled_at is not None and now >= self._settled_at:
            self._settle()
        if now < self._silent_at:
            return
        if self._phase is Phase.WATCHLIST and self._status == 200:
            self._without_watchlist(now)
        else:
            trouble = Trouble(f"says nothing about {self.kind.resource} for {self._silence_s:.0f} s; trying again")
            self.broken(trouble, now, chance)

    def hurry(self, now: float) -> None:
        """Let the next request be due now, since there is a reason to believe that it will fare better than the last one."""
        if self.request is None:
            self._due_at = min(self._due_at, now)

    def _next_phase(self) -> Phase:
        if not self._version:
            # A server may fail at a WatchList in a way that looks like any other failure; so every other two tries are a LIST.
            return Phase.WATCHLIST if self._watchlist and not self._token and self._failures % 4 < 2 else Phase.LIST
        if self._token:
            return Phase.LIST
        return Phase.CHECK if self._in_doubt else Phase.WATCH

    def _query(self, phase: Phase) -> dict[str, str]:
        if phase is Phase.CHECK:
            return {"limit": "1"}
        if phase is Phase.LIST:
            return {"limit": str(PAGE)} | ({"continue": self._token} if self._token else {})
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(self._lasts_s)}
        if phase is Phase.WATCHLIST:
            return query | {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        return query | {"resourceVersion": self._version}

    def _heard(self, now: float) -> None:
        self.heard_at = now
        self._silent_at = now + self._silence_s

    def _settle(self) -> None:
        """Take note that all is well."""
        self._settled_at = None
        self._failures = 0
        self.trouble = None

    def _again(self, now: float) -> None:
        """End the request; the next one is due at once."""
        self.request = None
        self._due_at = now

    def _fail(self, trouble: Trouble | None, now: float, chance: float, asked_s: float = 0.0) -> None:
        """End the request; the next one is due after a pause."""
        self.request = None
        self.trouble = trouble
        self._failures += 1
        self._due_at = now + pause_s(self._failures, chance, asked_s)

    def _start_over(self) -> None:
        """Let the next request be for a full account; what is held stays until that is complete."""
        self._version, self._token, self._in_doubt = "", "", False

    def _not_understood(self, error: NotUnderstood, now: float, chance: float) -> None:
        """Believe nothing of an answer that is not what the API says; somebody else may have answered."""
        self._start_over()
        self._fail(Trouble(f"is not understood: {error}"), now, chance)

    def _page(self, body: bytes, now: float, chance: float) -> list[Event]:
        """Take in a page of a list."""
        try:
            page: Page = read_page(body, self.kind.name)
        except NotUnderstood as error:
            self._not_understood(error, now, chance)
            return []
        events = self.holdings.take(page.objects)
        self._token, self._in_doubt = page.next_token, False
        if not page.next_token:
            self._version = page.resource_version
            events += self.holdings.complete_account()
            self.complete = True
        self.trouble = None
        self._again(now)
        return events

    def _checked(self, body: bytes, now: float, chance: float) -> None:
        """Compare the server's version with ours; one that is behind has been restored to an earlier state."""
        try:
            version = read_page(body, self.kind.name).resource_version
        except NotUnderstood as error:
            self._not_understood(error, now, chance)
            return
        if _is_before(version, self._version):
            self._start_over()
        self._in_doubt = False
        self._again(now)

    def _lines(self, now: float, chance: float) -> list[Event]:
        """Take in the complete lines of a stream, up to the one that ends it."""
        request, events = self.request, []
        for line in self._body.lines():
            if self.request is request:
                events += self._line(line, now, chance)
        if self.request is request and len(self._body) > LONGEST_LINE:
            trouble = Trouble(f"sends an event about {self.kind.resource} of over {LONGEST_LINE >> 20} MiB", lasting=True)
            self._start_over()
            self._fail(trouble, now, chance)
        return events

    def _line(self, text: bytes, now: float, chance: float) -> list[Event]:
        """Take in one event of a stream."""
        try:
            line = read_line(text, self.kind.name)
        except NotUnderstood as error:
            self._not_understood(error, now, chance)
            return []
        if isinstance(line, Refusal):
            return self._refused_in_stream(line, now, chance)
        watching = self._phase is Phase.WATCH
        if watching and _is_before(line.resource_version, self._version):
            self._start_over()
            self._again(now)
            return []
        events = self._fold(line, now)
        if watching:
            self._version = line.resource_version
            if line.name is None:
                self._silence_s = min(self._silence_s, BOOKMARK_SILENCE_S)
                self._heard(now)
            self._settle()
        elif line.ends_initial:
            events += self._initial_end(line, now)
        return events

    def _fold(self, line: Line, now: float) -> list[Event]:
        """Take in what a line says about an object; a bookmark says nothing but how far we are."""
        if line.name is None:
            if self._phase is Phase.WATCHLIST and not line.ends_initial:
                self._without_watchlist(now)
            return []
        return self.holdings.take_away(line.name) if line.type == "DELETED" else self.holdings.take(line.objects)

    def _initial_end(self, line: Line, now: float) -> list[Event]:
        """Go over from the initial events of a WatchList to what happens afterwards, in the same stream."""
        self._phase = Phase.WATCH
        self._version, self._in_doubt = line.resource_version, False
        self.complete = True
        self._settle()
        self._silence_s = self._lasts_s + OVERTIME_S
        self._heard(now)
        return self.holdings.complete_account()

    def _refused_in_stream(self, refusal: Refusal, now: float, chance: float) -> list[Event]:
        """Take in an ERROR event: like a refusal, but that a stream which broke once cannot be gone on with."""
        if refusal.code not in (401, 403, 410, 429):
            self._start_over()
        return self._refused(refusal, now, chance)

    def _refused(self, refusal: Refusal, now: float, chance: float) -> list[Event]:
        """Take in that the server says no."""
        phase = self._phase
        if refusal.code == 410 or refusal.version_too_large or (phase is Phase.CHECK and 400 <= refusal.code < 500):
            self._expired(now, chance)
        elif phase is Phase.WATCHLIST and refusal.code in (400, 405, 406, 422, 500, 501):
            # Seen: 422 without the feature gate, 500 within the stream when etcd is too old for it.
            self._without_watchlist(now)
        else:
            # A bad continue token, or a resourceVersion that makes no sense to this server.
            if refusal.code < 500 and refusal.code not in (401, 403, 429):
                self._start_over()
            self.unauthorized |= refusal.code == 401
            verb = "list" if phase in (Phase.LIST, Phase.CHECK) else "watch"
            self._fail(trouble_of(refusal, self.kind, verb), now, chance, refusal.retry_after_s)
            if refusal.code in (403, 404) and self.kind.dispensable:
                # What was known of it stays in force; it is asked for again now and then.
                self.complete = True
                self._due_at = now + LONG_WAIT_S * (1 + chance) / 2
        return []

    def _without_watchlist(self, now: float) -> None:
        """Take a full account by a list; the server cannot do it by a watch, or does not say when it has."""
        self._watchlist = False
        self._again(now)

    def _expired(self, now: float, chance: float) -> None:
        """Take a full account: at once the first time, after a pause when the server forgets faster than we can read."""
        self._start_over()
        if self._failures:
            self._fail(self.trouble, now, chance)
        else:
            self._failures = 1
            self._again(now)


def _is_before(version: str, other: str) -> bool:
    """Tell whether a version is earlier than another one; numbers since Kubernetes began, and comparable by KEP-5504."""
    return version.isascii() and other.isascii() and version.isdigit() and other.isdigit() and int(version) < int(other)
