"""
The rota of health checks: who is asked when, and what came of it, in sockets of one thread.

The sockets are in an epoll of their own, whose descriptor the loop waits for; each wake-up takes in whatever is ready. Every
target has its own moment within its interval and keeps it, so checks are spread however many there are, and however late some
come.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import math
import random
import resource
import select
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from kpx import log
from kpx.checking.probe import Probe
from kpx.checking.state import Streak, Target
from kpx.model.names import ObjectName
from kpx.policy.desired import Backend

logger = logging.getLogger(__name__)

User = tuple[ObjectName, Backend]
"""Who wants to know of a target: a Service, for one of its endpoints."""

TICK_S: Final = 0.01
"""Checks begin and time out at multiples of this, so that thousands a second wake the loop a hundred times a second."""

MOST_AT_ONCE: Final = 4096
"""So many checks may wait for an answer at the same time, if the process may open so many files."""

OTHER_FILES: Final = 512
"""Descriptors left to the rest of the agent."""

COMPLAINT_S: Final = 60.0
"""How often it is said that this host cannot ask, seconds."""


class Counts(NamedTuple):
    """
    How checking goes.

    Args:
        targets: how many are asked. failing: those left out. waiting: checks begun and not yet answered.
        passed, failed: checks since the start. unable: checks this host could not make.
    """

    targets: int
    failing: int
    waiting: int
    passed: int
    failed: int
    unable: int


class Checked:
    """
    A target that is asked.

    Attributes:
        streak: what is known of it. users: who wants to know. due: when it is asked next, monotonic seconds; None for never.
        probe: the check that waits for an answer.
    """

    __slots__ = ("due", "probe", "streak", "target", "users")

    def __init__(self, target: Target) -> None:
        self.target = target
        self.streak = Streak(target.check.rise, target.check.fall)
        self.users: set[User] = set()
        self.due: float | None = None
        self.probe: Probe | None = None


class Rota:
    """
    Asks targets, each once an interval for all who want to know.

    Args:
        changed: told of a target whose streak is another now.
        clock: monotonic seconds. chance: a number from 0 to below 1, where in its interval a new target is asked first.
    """

    def __init__(
        self,
        changed: Callable[[Checked], None],
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._tell = changed
        self._clock = clock
        self._chance = chance
        self._epoll = select.epoll()
        self._targets: dict[Target, Checked] = {}
        self._asked: dict[int, Checked] = {}
        self._failing: set[Checked] = set()
        self._numbers = itertools.count()
        self._starts: list[tuple[float, int, Checked]] = []
        self._ends: list[tuple[float, int, Checked, Probe]] = []
        self._limit = 0
        self._passed = self._failed = self._unable = 0
        self._complained_at = -math.inf

    def fileno(self) -> int:
        """Return the descriptor that is readable when some target answered."""
        return self._epoll.fileno()

    def close(self) -> None:
        """End all checks; idempotent."""
        for checked in list(self._asked.values()):
            self._end(checked)
        self._epoll.close()

    @property
    def counts(self) -> Counts:
        """Return how it goes; may be called from other threads."""
        return Counts(len(self._targets), len(self._failing), len(self._asked), self._passed, self._failed, self._unable)

    def join(self, target: Target, user: User, suspected: str = "") -> Checked:
        """
        Ask a target for somebody more; new ones for the first time at a random moment within their interval.

        Args:
            suspected: why a target that is new is not to be used before it passed, "" when it may be.
        """
        checked = self._targets.get(target)
        if checked is None:
            self._limit = self._limit or most_at_once()
            checked = self._targets[target] = Checked(target)
            self._schedule(checked, self._clock() + self._chance() * target.check.interval_s)
            if suspected:
                self.suspect(checked, suspected)
        checked.users.add(user)
        return checked

    def leave(self, checked: Checked, user: User) -> None:
        """Ask a target no more for somebody; what is known of it is forgotten with the last one."""
        checked.users.discard(user)
        if not checked.users:
            del self._targets[checked.target]
            checked.due = None
            self._failing.discard(checked)
            self._end(checked)

    def suspect(self, checked: Checked, why: str) -> None:
        """Take a target for one that fails until it passes once."""
        checked.streak.suspect(why)
        self._failing.add(checked)

    def deadline(self) -> float | None:
        """Return when `act` has something to do, monotonic seconds, None while nobody is asked."""
        while self._ends and self._ends[0][2].probe is not self._ends[0][3]:
            heapq.heappop(self._ends)  # it has answered
        while self._starts and self._starts[0][2].due != self._starts[0][0]:
            heapq.heappop(self._starts)  # nobody wants to know any more
        times = [self._ends[0][0]] if self._ends else []
        if self._starts and len(self._asked) < self._limit:
            times.append(self._starts[0][0])
        return math.ceil(min(times) / TICK_S) * TICK_S if times else None

    def act(self) -> None:
        """Take in the answers that came, give up on those that are late, ask whoever is due."""
        # Answers first: one that waits for us while the agent was busy with something else is not late.
        if self._asked:
            for descriptor, _ in self._epoll.poll(0):
                self._advance(descriptor)
        now = self._clock()
        while self._ends and self._ends[0][0] <= now:
            _, _, checked, probe = heapq.heappop(self._ends)
            if checked.probe is probe:
                self._settle(checked, f"no answer within {checked.target.check.timeout_s:g} s")
        while self._starts and self._starts[0][0] <= now and len(self._asked) < self._limit:
            due, _, checked = heapq.heappop(self._starts)
            if checked.due == due:
                self._ask(checked, due, now)

    def _schedule(self, checked: Checked, due: float) -> None:
        checked.due = due
        heapq.heappush(self._starts, (due, next(self._numbers), checked))

    def _ask(self, checked: Checked, due: float, now: float) -> None:
        interval = checked.target.check.interval_s
        # The same moment of a later interval: being late once must not put all targets in step.
        checked.due = due + interval * (math.floor((now - due) / interval) + 1)
        try:
            probe = self._probe(checked.target)
        except OSError as error:
            self._cannot(error, now)
            self._schedule(checked, checked.due)
            return
        checked.probe = probe
        self._asked[probe.fileno()] = checked
        heapq.heappush(self._ends, (now + checked.target.check.timeout_s, next(self._numbers), checked, probe))
        if probe.answer is not None:
            self._settle(checked, probe.answer)

    def _probe(self, target: Target) -> Probe:
        probe = Probe(target)
        try:
            self._epoll.register(probe.fileno(), probe.events)
        except OSError:
            probe.close()
            raise
        return probe

    def _advance(self, descriptor: int) -> None:
        checked = self._asked.get(descriptor)
        if checked is None or checked.probe is None:
            return
        probe = checked.probe
        waited_for = probe.events
        probe.step()
        if probe.answer is not None:
            self._settle(checked, probe.answer)
        elif probe.events != waited_for:
            self._epoll.modify(descriptor, probe.events)

    def _settle(self, checked: Checked, why: str) -> None:
        """End a check with an answer, "" for a good one."""
        self._end(checked)
        self._schedule(checked, checked.due or self._clock())
        if why:
            self._failed += 1
            is_changed = checked.streak.failed(why)
        else:
            self._passed += 1
            is_changed = checked.streak.passed()
        if is_changed:
            (self._failing.add if checked.streak.why else self._failing.discard)(checked)
            self._tell(checked)

    def _end(self, checked: Checked) -> None:
        probe, checked.probe = checked.probe, None
        if probe is not None:
            # Closing takes it out of the epoll, too (epoll(7)).
            del self._asked[probe.fileno()]
            probe.close()

    def _cannot(self, error: OSError, now: float) -> None:
        """Take note that this host could not ask, which says nothing of the target."""
        self._unable += 1
        if now - self._complained_at >= COMPLAINT_S:
            self._complained_at = now
            log.event(logger, logging.WARNING, "this host cannot check endpoints at present", why=error.strerror)


def most_at_once() -> int:
    """Return how many checks may wait at the same time, after raising the limit on open files as far as that takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_AT_ONCE + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Where that is forbidden there are fewer at once.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_AT_ONCE if soft == resource.RLIM_INFINITY else max(1, min(MOST_AT_ONCE, soft - OTHER_FILES))
