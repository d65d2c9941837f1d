"""
What nobody asks for and must be done from time to time: finish what drains, look for what others touched, let another data
plane go.

Each has its own clock; a failure delays the next try and disturbs no round.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import Final

from kpx import log
from kpx.agent.engine import Engine
from kpx.agent.handover import Handover
from kpx.errors import KernelError

logger = logging.getLogger(__name__)

RETRY_S: Final = 10.0
"""How long after a failure the kernel is looked after again, seconds."""


class Tending:
    """
    The clock of these.

    Args:
        audit_every_s: None for no audits.
        touched: told what others were found to have touched.
    """

    def __init__(
        self, engine: Engine, handover: Handover, audit_every_s: float | None, touched: Callable[[Collection[str]], None]
    ) -> None:
        self._engine = engine
        self._handover = handover
        self._audit_every_s = audit_every_s
        self._touched = touched
        self._audit_at: float | None = None
        self._not_before = 0.0

    def begin(self) -> None:
        """Start the clocks, after the first sync."""
        self._handover.begin()
        if self._audit_every_s is not None:
            self._audit_at = time.monotonic() + self._audit_every_s

    def audit_every(self, seconds: float | None) -> None:
        """Let this be the time between audits, None for none; once begun, the next one is that far from now."""
        self._audit_every_s = seconds
        if self._audit_at is not None:
            self._audit_at = None if seconds is None else time.monotonic() + seconds

    def deadline(self) -> float | None:
        """Return when `act` has something to do, monotonic seconds."""
        times = (self._drain_at(), self._audit_at, self._handover.deadline())
        return min((at for at in times if at is not None), default=None)

    def _drain_at(self) -> float | None:
        due = self._engine.tend_deadline()
        return None if due is None else max(due, self._not_before)

    def act(self, now: float) -> None:
        """Do what is due."""
        drain_at = self._drain_at()
        try:
            if drain_at is not None and drain_at <= now:
                if drained := self._engine.tend():
                    log.event(logger, logging.INFO, "drained", endpoints=drained)
                self._touched(self._engine.touched())
            if self._audit_at is not None and self._audit_at <= now:
                self._audit_at = now + (self._audit_every_s or 0.0)
                self._touched(self._engine.audit())
        except KernelError as error:
            self._not_before = now + RETRY_S
            log.event(logger, logging.WARNING, "the kernel could not be looked after, trying again", error=error)
        if self._handover.deadline() is not None:
            self._handover.step(self._engine.facts)
