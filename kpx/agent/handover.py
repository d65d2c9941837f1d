"""
From one data plane to another on a live host: the new one is in place first, then the old one retires.

What the old one translated goes on: it takes no new flows from one moment to the next, and is removed when it has no more to do.
Nothing is handed over before the first sync of the new one.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from kpx import log
from kpx.dataplanes.base import Dataplane
from kpx.dataplanes.registry import may_be_present
from kpx.errors import CapabilityError, KernelError
from kpx.model.facts import NodeFacts

logger = logging.getLogger(__name__)

RETRY_S: Final = 10.0
"""How long after a failure it is tried again, seconds."""


Others = Mapping[str, Callable[[], Dataplane]]
"""Data planes that may have been here before, by name, and how to open them."""


class Handover:
    """
    The retirement of every data plane but one.

    Args:
        mine: name of the data plane that stays, for the log.
        others: those that may have to go; what cannot be opened is not here.
    """

    def __init__(self, mine: str, others: Others) -> None:
        self._mine = mine
        self._others = others
        self._retiring: dict[str, Dataplane] = {}
        self._due: dict[str, float] = {}

    def begin(self) -> None:
        """Find out which others are in place; idempotent."""
        for name, open_other in self._others.items():
            if name in self._retiring or not may_be_present(name):
                continue
            with contextlib.suppress(CapabilityError):
                other = open_other()
                if not other.observe().present:
                    other.close()
                    continue
                self._retiring[name] = other
                self._due[name] = time.monotonic()
                log.event(logger, logging.INFO, "another data plane hands over", dataplane=name, to=self._mine)

    @property
    def is_done(self) -> bool:
        """Tell whether nothing of another data plane is left."""
        return not self._retiring

    def deadline(self) -> float | None:
        """Return when `step` has something to do, monotonic seconds."""
        return min(self._due.values(), default=None)

    def step(self, facts: NodeFacts) -> None:
        """Let those that are due do their next thing; an error is logged and tried again."""
        now = time.monotonic()
        for name, due in list(self._due.items()):
            if due <= now:
                self._step_one(name, facts)

    def _step_one(self, name: str, facts: NodeFacts) -> None:
        try:
            again = self._retiring[name].retire(facts)
        except (KernelError, CapabilityError) as error:
            log.event(
                logger, logging.WARNING, "another data plane could not be removed, trying again", dataplane=name, error=error
            )
            self._due[name] = time.monotonic() + RETRY_S
            return
        if again is not None:
            self._due[name] = time.monotonic() + again
            return
        self._retiring.pop(name).close()
        del self._due[name]
        log.event(logger, logging.INFO, "nothing of the other data plane is left", dataplane=name)

    def close(self) -> None:
        """Close what is open; what has not retired stays in place."""
        for other in self._retiring.values():
            other.close()
        self._retiring.clear()
        self._due.clear()
