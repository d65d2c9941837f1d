"""
Events on the objects concerned: what is wrong with a Service or with this node, told where its owner looks (contract section 20).

What is logged when it begins is announced when it begins: findings about objects, frontends that belong to another Service (V11)
among them, rows the kernel refuses (16.11), listeners that cannot be opened. Nobody is flooded: what happens again within a while
is counted and told as one series, an object gets a few events at once and then one in a while, and so does the cluster. What is
over before its turn came is not told. Forwarding never depends on any of this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Final
from typing import Protocol as Interface

from kpx.agent.allowance import Allowance
from kpx.agent.occasions import announcement_of, here, object_of
from kpx.agent.status import Findings
from kpx.model.announcement import About, Announcement, Occurrences, note_of
from kpx.model.findings import Finding, Severity
from kpx.model.names import ObjectName

AGAIN_S: Final = 600.0
"""For how long what happens again is only counted, seconds."""

FORGET_S: Final = 3600.0
"""For how long an event is remembered, seconds; API servers keep one as long, unless told otherwise (--event-ttl)."""

OBJECT_BURST: Final = 10
OBJECT_EVERY_S: Final = 300.0
"""Events on one object: so many at once, then one in this time, as client-go's spam filter has it."""

BURST: Final = 20
EVERY_S: Final = 2.0
"""Events in all: so many at once, then one in this time."""

LONGEST_QUEUE: Final = 500
"""Announcements waiting for their turn at most; further ones are left to the log."""

OWNER: Final = "events"
"""Under which the findings of this module are."""


class Announcer(Interface):
    """
    Where events go; used from the thread of the loop, and never waits.

    Attributes:
        trouble: why events cannot be posted, "" while they can.
    """

    trouble: str

    def announce(self, what: Announcement, occurrences: Occurrences) -> None:
        """Take an event to be posted; a series when it happened more than once."""

    def deadline(self) -> float | None:
        """Return when `act` has something to do, monotonic seconds, or None."""

    def act(self, now: float) -> None:
        """Do what is due."""


class _Story:
    """One announcement: what became of it so far; times are monotonic seconds."""

    def __init__(self, wall: float) -> None:
        self.occurrences = Occurrences(0, wall, wall)
        self.told = 0
        self.told_at: float | None = None

    def again(self, wall: float) -> None:
        times, first_at, _ = self.occurrences
        self.occurrences = Occurrences(times + 1, first_at, wall)

    @property
    def due_at(self) -> float | None:
        """When it is to be told, leaving aside how much may be told; None when nothing is new."""
        if self.occurrences.times == self.told:
            return None
        return float("-inf") if self.told_at is None else self.told_at + AGAIN_S


class Announcing:
    """
    What is to be announced, and when; implements `kpx.agent.status.Witness`.

    Args:
        announcer: None where nobody reads events: then nothing is kept either.
        node_name: of this node.
        findings: where it is said that events cannot be posted.
        clock: monotonic seconds. wall: seconds since the epoch.
    """

    def __init__(
        self,
        announcer: Announcer | None,
        node_name: str,
        findings: Findings,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._announcer = announcer
        self._node = About("Node", ObjectName("", node_name))
        self._findings = findings
        self._clock = clock
        self._wall = wall
        self._stories: dict[Announcement, _Story] = {}
        self._allowance = Allowance(BURST, EVERY_S, clock())
        self._of_objects: dict[About, Allowance] = {}
        self._wake_at: float | None = None

    def begun(self, owner: Hashable, finding: Finding) -> None:
        """Announce what is wrong from now on, if it is about an object."""
        if (what := announcement_of(owner, finding, self._node)) is not None:
            self._note(what)

    def ended(self, owner: Hashable, finding: Finding) -> None:
        """Leave unsaid what is over before it was its turn."""
        what = announcement_of(owner, finding, self._node)
        story = None if what is None else self._stories.get(what)
        if what is not None and story is not None and story.told_at is None:
            del self._stories[what]

    def refused(self, service: ObjectName | None, reason: str, command: str) -> None:
        """Announce that the kernel refuses rows: on the Service they are of, on the node if several share them (16.11)."""
        about = self._node if service is None else About("Service", service)
        self._note(
            Announcement(about, "KernelRefused", note_of(f"{here(self._node)} refuses rows ({reason}), one is: {command}"))
        )

    def cannot_listen(self, reason: str, finding: Finding) -> None:
        """Announce a listener that failed, with kube-proxy's reason: on the Service it is of, else on the node (H6, 15.1)."""
        about = object_of(finding.where) or self._node
        self._note(Announcement(about, reason, note_of(f"{here(self._node)}: {finding}"), action="Listen"))

    def on_node(self, reason: str, note: str, action: str = "Program", warning: bool = True) -> None:
        """Announce something about this node."""
        self._note(Announcement(self._node, reason, note_of(note), action, warning))

    def deadline(self) -> float | None:
        """Return when `act` has something to do, monotonic seconds, or None."""
        theirs = None if self._announcer is None else self._announcer.deadline()
        return min((at for at in (self._wake_at, theirs) if at is not None), default=None)

    def act(self, now: float) -> None:
        """Tell what may be told now, in the order it happened."""
        if self._announcer is None:
            return
        if self._wake_at is not None and now >= self._wake_at:
            self._wake_at = self._tell(self._announcer, now)
        self._announcer.act(now)
        trouble = self._announcer.trouble
        message = f"cannot be posted: {trouble}; what they would say is in the log"
        self._findings.replace(OWNER, (Finding("events", "", message, Severity.WARNING),) if trouble else ())

    def _note(self, what: Announcement) -> None:
        if self._announcer is None:
            return
        story = self._stories.get(what)
        if story is None:
            if len(self._stories) >= LONGEST_QUEUE and not self._make_room():
                return
            story = self._stories[what] = _Story(self._wall())
        story.again(self._wall())
        due = story.due_at
        if due is not None and (self._wake_at is None or due < self._wake_at):
            self._wake_at = due

    def _tell(self, announcer: Announcer, now: float) -> float | None:
        """Tell what is due as far as it may be told; return when there is more to do."""
        later: list[float] = []
        for what, story in self._stories.items():
            due = story.due_at
            if due is None:
                continue
            allowance = self._of_objects.get(what.about)
            if allowance is None:
                allowance = self._of_objects[what.about] = Allowance(OBJECT_BURST, OBJECT_EVERY_S, now)
            at = max(due, allowance.next_at(now), self._allowance.next_at(now))
            if at > now:
                later.append(at)
                continue
            allowance.take(now)
            self._allowance.take(now)
            story.told, story.told_at = story.occurrences.times, now
            announcer.announce(what, story.occurrences)
        self._forget(now)
        return min(later, default=None)

    def _forget(self, now: float) -> None:
        """Drop what is old news."""
        old = [what for what, story in self._stories.items() if story.told_at is not None and story.told_at + FORGET_S <= now]
        for what in old:
            del self._stories[what]
        for about in [about for about, allowance in self._of_objects.items() if allowance.is_full(now)]:
            del self._of_objects[about]

    def _make_room(self) -> bool:
        """Drop the oldest story that is told to its end; tell whether there was one."""
        for what, story in self._stories.items():
            if story.due_at is None:
                del self._stories[what]
                return True
        return False
