"""
Which of the schedulers that are asked for this kernel lacks: asked once each, when first heard of.

Schedulers are kernel modules; only the kernel can tell whether it has one or can load it. The answer is a fact about the node, so
that policy can fall back and say so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from kpx.cluster.events import Event, Upsert
from kpx.model.facts import NodeFacts
from kpx.model.service import Service


class Schedulers:
    """
    What was asked for, and what of that is missing.

    Args:
        ask: returns those of the names that the kernel does not have (`Dataplane.missing_schedulers`).
    """

    def __init__(self, ask: Callable[[Collection[str]], frozenset[str]]) -> None:
        self._ask = ask
        self._wanted: set[str] = set()
        self._known: set[str] = set()
        self._missing: frozenset[str] = frozenset()

    def hear(self, events: Iterable[Event]) -> None:
        """Take note of what Services ask for."""
        for event in events:
            if isinstance(event, Upsert) and isinstance(event.object, Service) and event.object.scheduler is not None:
                self._wanted.add(event.object.scheduler)

    def ask_again(self) -> None:
        """Ask anew for those that were missing: somebody may have loaded them."""
        self._known -= self._missing

    def missing(self, facts: NodeFacts) -> frozenset[str]:
        """
        Return what is missing, asking the kernel for what is new.

        Raises:
            KernelError: it does not answer.
        """
        fresh = (self._wanted | {facts.scheduler}) - self._known
        if fresh:
            self._missing = self._missing - fresh | self._ask(fresh)
            self._known |= fresh
        return self._missing
