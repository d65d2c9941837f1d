"""
List and watch of one kind, without I/O: answers, broken connections and the time go in, requests and events come out.

There is at most one request at a time, in `request`. It is made by `begin` when `wake_at` has come, and it is over when it is no
longer there; whoever carries it out then drops what is still coming. What is asked for follows from `position`; when, from
`tries`; how long an answer is waited for, from `vigil`. A full account is compared with what is held, so that nothing is ever
lost but by the server's word.

Source: k8s.io/client-go tools/cache/reflector.go for the requests; KEP-3157 WatchList; KEP-956 bookmarks.
"""

from __future__ import annotations

from typing import Final

from kpx.cluster.events import Event
from kpx.sources.kubernetes.answers import Line, NotUnderstood, Page, Refusal, read_line, read_page, read_status
from kpx.sources.kubernetes.body import LONGEST_COMPLAINT, LONGEST_LINE, LONGEST_PAGE, Body
from kpx.sources.kubernetes.holdings import Holdings
from kpx.sources.kubernetes.kinds import Kind
from kpx.sources.kubernetes.position import WATCH_S, Phase, Position, Request, is_before
from kpx.sources.kubernetes.remedies import Remedy, remedy_of
from kpx.sources.kubernetes.tries import Tries
from kpx.sources.kubernetes.troubles import Trouble, forgetful, silent, too_long, trouble_of, unfinished
from kpx.sources.kubernetes.vigil import Vigil

LONG_WAIT_S: Final = 600.0
"""How often a server is asked whether it now has what can be done without, seconds."""


class ListWatch:
    """
    The machine of one kind.

    Attributes:
        holdings: what is in force.
        request: what is under way, None between two requests.
        complete: everything has been said at least once, or never will be (`Kind.dispensable`).
        unauthorized: credentials were refused and not renewed since; whoever renews them sets it back.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.holdings = Holdings(kind)
        self.request: Request | None = None
        self.complete = False
        self.unauthorized = False
        self._position = Position()
        self._tries = Tries()
        self._vigil = Vigil()
        self._phase = Phase.LIST
        self._numbered = 0
        self._status = 0
        self._retry_after = ""
        self._body = Body()

    @property
    def trouble(self) -> Trouble | None:
        """Return why it is not well now, None when it is."""
        return self._tries.trouble

    @property
    def heard_at(self) -> float | None:
        """Return when the server last said anything, be it that there is no news, monotonic seconds; None when it never did."""
        return self._vigil.heard_at

    @property
    def resource_version(self) -> str:
        """Return after which version a watch would begin, "" when a full account is needed first."""
        return self._position.version

    def wake_at(self) -> float:
        """Return when `begin` (without a request) or `tick` (with one) has something to do, monotonic seconds."""
        return self._tries.due_at if self.request is None else self._vigil.wake_at()

    def begin(self, now: float, chance: float) -> Request | None:
        """
        Make the next request if it is time for it.

        Args:
            chance: a random number, 0 <= chance < 1; so in all other places.
        """
        if self.request is not None or now < self._tries.due_at:
            return None
        phase = self._phase = self._position.next_phase(now, self._tries.failures)
        lasts_s = int(WATCH_S * (1 + chance))
        self._numbered += 1
        target = self.kind.target(**self._position.query(phase, lasts_s))
        self.request = Request(target, self._numbered)
        self._status, self._retry_after = 0, ""
        self._vigil.begin(now, lasts_s)
        if phase is Phase.WATCHLIST or (phase is Phase.LIST and not self._position.token):
            self.holdings.begin_account()
        return self.request

    def head(self, status: int, retry_after: str, now: float) -> None:
        """Take in the status of the answer, and its header Retry-After."""
        self._status, self._retry_after = status, retry_after
        self._vigil.hear(now)
        if status == 200 and self._phase is Phase.WATCH:
            self._vigil.watch_opened(now)
        elif status == 200 and self._phase is Phase.WATCHLIST:
            self._vigil.watchlist_opened(now)

    def body(self, data: bytes, now: float, chance: float) -> list[Event]:
        """Take in a piece of the answer, however it was cut."""
        if self.request is None:
            return []
        self._settle(now)
        self._vigil.hear(now)
        self._body.add(data, LONGEST_COMPLAINT if self._status != 200 else None)
        if self._status != 200:
            return []
        if self._phase in (Phase.WATCH, Phase.WATCHLIST):
            return self._lines(now, chance)
        if len(self._body) > LONGEST_PAGE:
            self._fail(too_long("a list of", self.kind, LONGEST_PAGE), now, chance)
        return []

    def end(self, now: float, chance: float) -> list[Event]:
        """Take in that the answer is complete."""
        if self.request is None:
            return []
        self._settle(now)
        body = self._body.take()
        if self._status != 200:
            self._refused(read_status(body, self._status, self._retry_after), now, chance)
        elif self._phase is Phase.LIST:
            return self._page(body, now, chance)
        elif self._phase is Phase.CHECK:
            self._checked(body, now, chance)
        elif self._phase is Phase.WATCHLIST:
            self._fail(unfinished(self.kind), now, chance)
        else:
            self._watch_ended(now, chance)
        return []

    def broken(self, trouble: Trouble, now: float, chance: float) -> None:
        """Take in that the connection broke, or could not be made; what was said until then counts."""
        if self.request is None:
            return
        self._settle(now)
        self._position.doubt(now)
        # A connection that breaks is an event of every day; that there is no other one is worth a word.
        worth_a_word = self._tries.failures > 0 or trouble.unreachable or trouble.lasting
        self._fail(trouble if worth_a_word else self.trouble, now, chance)

    def tick(self, now: float, chance: float) -> None:
        """Take in that time has passed; a request about which nothing is heard for too long is over."""
        if self.request is None:
            return
        self._settle(now)
        if not self._vigil.is_silent(now):
            return
        if self._phase is Phase.WATCHLIST and self._status == 200:
            self._without_watchlist(now)
        else:
            self.broken(silent(self.kind, self._vigil.silence_s), now, chance)

    def hurry(self, now: float) -> None:
        """Let the next request be due now, since there is a reason to believe that it will fare better than the last one."""
        if self.request is None:
            self._tries.hurry(now)

    def _settle(self, now: float) -> None:
        """Begin to count failures anew when a watch has been well for long enough."""
        if self._vigil.settle(now):
            self._tries.succeed()
            self._position.settle()

    def _again(self, now: float) -> None:
        """End the request; the next one is due at once."""
        self._over()
        self._tries.go_on(now)

    def _fail(self, trouble: Trouble | None, now: float, chance: float, asked_s: float = 0.0) -> None:
        """End the request; the next one is due after a pause."""
        self._over()
        self._tries.fail(trouble, now, chance, asked_s)

    def _over(self) -> None:
        self.request = None
        self._body.clear()

    def _not_understood(self, error: NotUnderstood, now: float, chance: float) -> None:
        """Believe nothing of an answer that is not what the API says; somebody else may have answered."""
        self._position.start_over()
        self._fail(Trouble(f"is not understood: {error}"), now, chance)

    def _page(self, body: bytes, now: float, chance: float) -> list[Event]:
        """Take in a page of a list."""
        page = self._read(body, now, chance)
        if page is None:
            return []
        events = self.holdings.take(page.objects)
        self._position.turn_page(page.next_token, page.resource_version)
        if not page.next_token:
            events += self._complete()
        self._again(now)
        return events

    def _checked(self, body: bytes, now: float, chance: float) -> None:
        """Compare the server's version with ours; one that is behind has been restored to an earlier state."""
        page = self._read(body, now, chance)
        if page is not None:
            self._position.check(page.resource_version)
            self._again(now)

    def _read(self, body: bytes, now: float, chance: float) -> Page | None:
        """Return a page; None, and the request has failed, when it is none."""
        try:
            page = read_page(body, self.kind.name)
            if page.next_token and page.next_token == self._position.token:
                raise NotUnderstood(f"a list of {self.kind.name}s goes on with the page it came from")
        except NotUnderstood as error:
            self._not_understood(error, now, chance)
            return None
        return page

    def _watch_ended(self, now: float, chance: float) -> None:
        """Go on with the next watch; the server may be going down, or have waited for a version that will not come."""
        if self._vigil.is_untimely(now):
            self._position.doubt(now)
        if self._tries.failures or self._vigil.is_unsettled():
            # A watch that ends as soon as it began would otherwise begin again as soon as it ended.
            self._fail(self.trouble, now, chance)
        else:
            self._again(now)

    def _lines(self, now: float, chance: float) -> list[Event]:
        """Take in the complete lines of a stream, up to the one that ends it."""
        request, events = self.request, []
        for line in self._body.lines():
            if self.request is request:
                events += self._line(line, now, chance)
        if self.request is request and len(self._body) > LONGEST_LINE:
            self._position.start_over()
            self._fail(too_long("an event about", self.kind, LONGEST_LINE), now, chance)
        return events

    def _line(self, text: bytes, now: float, chance: float) -> list[Event]:
        """Take in one event of a stream."""
        try:
            line = read_line(text, self.kind.name)
        except NotUnderstood as error:
            self._not_understood(error, now, chance)
            return []
        if isinstance(line, Refusal):
            self._refused(line, now, chance, in_stream=True)
            return []
        return self._watched(line, now, chance) if self._phase is Phase.WATCH else self._initial(line, now)

    def _watched(self, line: Line, now: float, chance: float) -> list[Event]:
        """Take in what happened; a bookmark says nothing but how far we are."""
        if is_before(line.resource_version, self._position.version):
            self._expired(now, chance)
            return []
        self._position.version = line.resource_version
        self._vigil.tell()
        if line.name is None:
            self._vigil.bookmark(now)
        return self.holdings.fold(line)

    def _initial(self, line: Line, now: float) -> list[Event]:
        """Take in what there is, up to the bookmark from where on the same stream brings what happens."""
        if line.name is not None:
            return self.holdings.fold(line)
        if not line.ends_initial:
            self._without_watchlist(now)
            return []
        self._phase = Phase.WATCH
        self._position.arrive(line.resource_version)
        self._vigil.watch_opened(now)
        self._vigil.tell()
        return self._complete()

    def _complete(self) -> list[Event]:
        """Complete a full account; after the first it takes a watch that lasts to end a trouble, which else would come and go."""
        if not self.complete:
            self._tries.trouble = None
        self.complete = True
        return self.holdings.complete_account()

    def _refused(self, refusal: Refusal, now: float, chance: float, in_stream: bool = False) -> None:
        """Take in that the server says no."""
        phase, code = self._phase, refusal.code
        remedy = remedy_of(refusal, phase, in_stream)
        if remedy is Remedy.ANEW:
            self._expired(now, chance)
            return
        if remedy is Remedy.LIST:
            self._without_watchlist(now)
            return
        if remedy is Remedy.CHECK:
            self._position.doubt(now)
            self._position.unable(phase)
        elif remedy is Remedy.BEGIN:
            self._position.start_over()
        self.unauthorized |= code == 401
        verb = "list" if phase in (Phase.LIST, Phase.CHECK) else "watch"
        self._fail(trouble_of(refusal, self.kind, verb), now, chance, refusal.retry_after_s)
        if code in (403, 404) and self.kind.dispensable:
            # What was known of it stays in force; it is asked for again now and then.
            self.complete = True
            self._tries.due_at = now + LONG_WAIT_S * (1 + chance) / 2

    def _without_watchlist(self, now: float) -> None:
        """Take a full account by a list; the server cannot do it by a watch, or does not say when it has."""
        self._position.watchlist = False
        self._again(now)

    def _expired(self, now: float, chance: float) -> None:
        """Take a full account: at once the first time, after a pause when the server forgets faster than we can read."""
        self._position.start_over()
        self._over()
        self._tries.fail_once(forgetful(self.kind), now, chance)
