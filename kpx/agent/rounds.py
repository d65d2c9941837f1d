"""A round: what one pass from events to kernel did, as a value; and the one line it leaves in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from kpx import log
from kpx.agent.connections import Sweep
from kpx.dataplanes.base import Observed
from kpx.model.addresses import Family
from kpx.reconcile.plan import Operation, Plan, Verb
from kpx.reconcile.rows import Table

logger = logging.getLogger(__name__)


class Round(NamedTuple):
    """
    What one pass did; false when it found nothing to do.

    Args:
        reason: why it was made: "start", "change", "retry", "drift", "facts", "reload".
        services: how many Services changed.
        added, changed, removed: rows written, the refused ones not among them.
        refused: rows of this round the kernel refused.
        datagrams, written_bytes: what was sent.
        took_s: from waking to the last acknowledgement. lag_s: from reading the input, None when no input caused it.
        flows, affinity: entries forgotten (section 11, A4). sweeps: the looks at flows that were made for it.
        mended: sentences about the constant part of the data plane.
        failed_families: families of which nothing could be written.
        plan: what was to be written, the refused rows among it.
    """

    reason: str
    services: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0
    refused: int = 0
    datagrams: int = 0
    written_bytes: int = 0
    took_s: float = 0.0
    lag_s: float | None = None
    flows: int = 0
    affinity: int = 0
    sweeps: tuple[Sweep, ...] = ()
    mended: tuple[str, ...] = ()
    failed_families: frozenset[Family] = frozenset()
    plan: Plan = Plan()

    def __bool__(self) -> bool:
        return bool(self.services or self.rows or self.refused or self.flows or self.affinity or self.mended)

    @property
    def rows(self) -> int:
        """How many rows were written."""
        return self.added + self.changed + self.removed


class Difference(NamedTuple):
    """
    Desired against kernel, nothing written: what `kpx diff` shows.

    Args:
        plan: what would be written.
        skeleton: sentences about what is not a row.
        observed: what the kernel holds.
    """

    plan: Plan
    skeleton: tuple[str, ...]
    observed: Observed

    def __bool__(self) -> bool:
        return bool(self.plan or self.skeleton or not self.observed.present)


class Tally(NamedTuple):
    """Rows by what happened to them."""

    added: int = 0
    changed: int = 0
    removed: int = 0

    def plus(self, other: Tally) -> Tally:
        """Return both together."""
        return Tally(self.added + other.added, self.changed + other.changed, self.removed + other.removed)

    def minus(self, other: Tally) -> Tally:
        """Return what is left without the other."""
        return Tally(self.added - other.added, self.changed - other.changed, self.removed - other.removed)


def tally(operations: Iterable[Operation]) -> dict[Table, Tally]:
    """Count operations by table and verb; a quarter of a million take some 30 ms."""
    result: dict[Table, Tally] = {}
    for table, group in groupby(operations, key=attrgetter("table")):
        verbs = [operation.verb for operation in group]
        counted = Tally(verbs.count(Verb.ADD), verbs.count(Verb.CHANGE), verbs.count(Verb.REMOVE))
        result[table] = result.get(table, Tally()).plus(counted)
    return result


def log_round(done: Round) -> None:
    """Write the canonical line of a round that did something; how a quiet one went is nobody's business."""
    if not done:
        return
    log.event(
        logger,
        logging.INFO,
        "round",
        reason=done.reason,
        services=done.services,
        added=done.added,
        changed=done.changed,
        removed=done.removed,
        refused=done.refused,
        datagrams=done.datagrams,
        bytes=done.written_bytes,
        took_ms=round(done.took_s * 1000, 3),
        **({} if done.lag_s is None else {"lag_ms": round(done.lag_s * 1000, 3)}),
        **({"flows": done.flows} if done.flows else {}),
        **({"affinity": done.affinity} if done.affinity else {}),
    )
