"""
What is wrong right now: findings about input, and rows the kernel refused. Each is logged when it begins, changes and ends.

A refused row is tried again after a while that grows, or at once when something else is wanted in its place. It holds up
nobody: every other row of every other Service goes on (16.11).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable
from typing import Final, NamedTuple
from typing import Protocol as Interface

from kpx import log
from kpx.model.findings import Finding, Severity
from kpx.model.names import ObjectName
from kpx.reconcile.plan import Operation, Outcome, Plan
from kpx.reconcile.retry import Backoff
from kpx.reconcile.rows import Key, Table

logger = logging.getLogger(__name__)

Row = tuple[Table, Key]

NAMED_SERVICES: Final = 20
"""How many Services are named when many begin to fail in one round, as all do when a family fails as a whole."""


class Witness(Interface):
    """Who is told what begins to be wrong and what no longer is, beside the log."""

    def begun(self, owner: Hashable, finding: Finding) -> None:
        """Take note of a finding that is new."""

    def ended(self, owner: Hashable, finding: Finding) -> None:
        """Take note of a finding that is no longer in force."""

    def refused(self, service: ObjectName | None, reason: str, command: str) -> None:
        """Take note that the kernel refuses rows of a Service, of several together if None; `command` is one of them."""


class Findings:
    """
    Findings in force, by whoever has them; logs what appears and what goes.

    Attributes:
        counts: how many there are, by severity; may be read from other threads.
        witness: who else is told.
    """

    witness: Witness | None = None

    def __init__(self) -> None:
        self.counts: dict[Severity, int] = dict.fromkeys(Severity, 0)
        self._held: dict[Hashable, tuple[Finding, ...]] = {}

    def replace(self, owner: Hashable, findings: tuple[Finding, ...]) -> None:
        """Let these be the findings of an owner; equal ones are no news."""
        before = self._held.get(owner, ())
        if before == findings:
            return
        old, new = set(before), set(findings)
        for finding in findings:
            if finding not in old:
                log.event(logger, logging.ERROR if finding.severity is Severity.ERROR else logging.WARNING, str(finding))
                if self.witness:
                    self.witness.begun(owner, finding)
        for finding in before:
            if finding not in new:
                log.event(logger, logging.INFO, f"no longer: {finding}")
                if self.witness:
                    self.witness.ended(owner, finding)
        if findings:
            self._held[owner] = findings
        else:
            del self._held[owner]
        for finding in findings:
            self.counts[finding.severity] += 1
        for finding in before:
            self.counts[finding.severity] -= 1

    def every(self) -> list[Finding]:
        """Return all findings in force."""
        return [finding for findings in self._held.values() for finding in findings]


class Refused(NamedTuple):
    """A row the kernel refused; `service` is whose row it is, None when several share it."""

    operation: Operation
    errno: int
    reason: str
    service: ObjectName | None


class Refusals:
    """
    The rows the kernel refuses, and when to try them again.

    Args:
        owner_of: tells whose row it is. command_of: what a person would type for it; asked only for rows that are logged.
        limit_s: longest wait between attempts, seconds.

    Attributes:
        witness: who else is told.
    """

    witness: Witness | None = None

    def __init__(
        self,
        owner_of: Callable[[Operation], ObjectName | None],
        command_of: Callable[[Operation], str],
        limit_s: float = 30.0,
    ) -> None:
        self._owner_of = owner_of
        self._command_of = command_of
        self._backoff: Backoff[Row] = Backoff()
        self.set_limit(limit_s)
        self._rows: dict[Row, Refused] = {}

    def set_limit(self, limit_s: float) -> None:
        """Let this be the longest wait between attempts, seconds, from the next failure on."""
        self._backoff.bound(min(1.0, limit_s), limit_s)

    def due(self, plan: Plan, now: float) -> Plan:
        """Return the plan without what was refused just so and is not due again."""
        if not self._rows:
            return plan
        return Plan(tuple(operation for operation in plan.operations if not self._held(operation, now)))

    def _held(self, operation: Operation, now: float) -> bool:
        row = (operation.table, operation.key)
        refused = self._rows.get(row)
        return refused is not None and _same(refused.operation, operation) and not self._backoff.due(row, now)

    def record(self, outcome: Outcome, plan: Plan, still_wanted: Callable[[Table, Key], bool], now: float) -> None:
        """
        Take note of what became of a plan; log what began to fail and what no longer does, one line a Service.

        `still_wanted` tells whether a row still differs from what is desired; nobody will try the others again.
        """
        failed = {(failure.operation.table, failure.operation.key): failure for failure in outcome.failures}
        begun: list[Refused] = []
        for row, failure in failed.items():
            self._backoff.failed(row, now)
            known = self._rows.get(row)
            if known is None or known.errno != failure.errno or not _same(known.operation, failure.operation):
                owner = self._owner_of(failure.operation)
                self._rows[row] = Refused(failure.operation, failure.errno, failure.reason, owner)
                begun.append(self._rows[row])
        ended = []
        if self._rows:
            ended = self._ended({(o.table, o.key) for o in plan.operations} - failed.keys(), still_wanted)
        self._log_begun(begun)
        _log_ended(ended, {refused.service for refused in self._rows.values()})

    def _log_begun(self, begun: list[Refused]) -> None:
        services = _by_service(begun)
        for service, rows in list(services.items())[:NAMED_SERVICES]:
            reason, command = rows[0].reason, self._command_of(rows[0].operation)
            log.event(
                logger,
                logging.ERROR,
                "the kernel refuses rows",
                service=service or "(shared)",
                rows=len(rows),
                reason=reason,
                row=command,
            )
            if self.witness:
                self.witness.refused(service, reason, command)
        if len(services) > NAMED_SERVICES:
            log.event(logger, logging.ERROR, "the kernel refuses rows of more Services", services=len(services) - NAMED_SERVICES)

    def _ended(self, done: set[Row], still_wanted: Callable[[Table, Key], bool]) -> list[Refused]:
        over = [row for row in self._rows if row in done or not still_wanted(*row)]
        for row in over:
            self._backoff.succeeded(row)
        return [self._rows.pop(row) for row in over]

    def next_due(self) -> float | None:
        """Return when the next row is to be tried again, monotonic seconds, None when none is refused."""
        return self._backoff.next_due()

    def every(self) -> list[Refused]:
        """Return all refused rows."""
        return list(self._rows.values())

    def count(self, family: str) -> int:
        """Return how many rows of a table family are refused."""
        return sum(1 for table, _ in self._rows if table.family == family)

    def __len__(self) -> int:
        return len(self._rows)


def _same(one: Operation, other: Operation) -> bool:
    return one.verb is other.verb and one.new == other.new


def _by_service(rows: Iterable[Refused]) -> dict[ObjectName | None, list[Refused]]:
    result: dict[ObjectName | None, list[Refused]] = {}
    for refused in rows:
        result.setdefault(refused.service, []).append(refused)
    return result


def _log_ended(ended: list[Refused], failing: set[ObjectName | None]) -> None:
    for service, rows in _by_service(ended).items():
        if service not in failing:
            log.event(logger, logging.INFO, "the kernel no longer refuses rows", service=service or "(shared)", rows=len(rows))
