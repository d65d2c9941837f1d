"""A source heard without an agent: everything it says is folded, and a test waits for what it expects."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from kpx.cluster.events import Event
from kpx.cluster.view import ClusterView
from kpx.model.findings import Finding
from kpx.sources.base import Source
from tests.lab.netns import PATIENCE

LONG_S = 15.0 * PATIENCE
LOOK_S = 0.1
"""How often a condition is looked at that nothing the source says brings about, seconds."""


class Listener:
    """
    Polls a source as the agent does: when its descriptor is readable or its deadline has come, and not otherwise.

    Attributes:
        view: what was heard. events: in order. findings: in force. polls: how often it was asked.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.view = ClusterView()
        self.events: list[Event] = []
        self.findings: tuple[Finding, ...] = ()
        self.polls = 0
        self._started = False

    def until(self, reached: Callable[[], bool], longest_s: float = LONG_S) -> None:
        """Listen until a condition holds; AssertionError, with what is wrong, when it does not come to that."""
        give_up_at = time.monotonic() + longest_s
        while not reached():
            assert time.monotonic() < give_up_at, f"not reached; findings: {[str(finding) for finding in self.findings]}"
            self._poll(give_up_at)

    def for_seconds(self, seconds: float) -> None:
        """Listen for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._poll(end)

    def synced(self) -> bool:
        return self.view.synced

    def services(self) -> list[str]:
        """Return the names of the Services, without those of the cluster itself."""
        return sorted(name.name for name in self.view.services if name.namespace != "default")

    def complaint(self, words: str) -> bool:
        """Tell whether a finding has these words in it."""
        return any(words in str(finding) for finding in self.findings)

    def _poll(self, latest: float) -> None:
        if self._started:
            due = self.source.deadline()
            wake_at = latest if due is None else min(latest, due)
            wait_s = min(max(0.0, wake_at - time.monotonic()), LOOK_S)
            readable, _, _ = select.select([self.source], [], [], wait_s)
            if not readable and (due is None or time.monotonic() < due):
                return
        news = self.source.poll() if self._started else self.source.start()
        self._started = True
        self.polls += 1
        self.events += news.events
        self.findings = news.findings
        for event in news.events:
            self.view.fold(event)
