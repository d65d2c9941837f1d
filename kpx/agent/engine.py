"""
The middle of the agent: events go in, the kernel comes out equal to them, and each round says what it did.

The engine decides nothing about policy and knows no kernel encoding. It keeps the promises between them: nothing is written
before everything has been heard (S9); one refused row stops nobody else (16.11); flows and affinity are forgotten after the
rows are in place; and when a write went wrong as a whole, the kernel is read again rather than remembered.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

import msgspec

from kpx import log
from kpx.agent.collisions import collisions
from kpx.agent.compiler import Changes, Compiler, joined
from kpx.agent.connections import Connections, Flows
from kpx.agent.localities import Localities
from kpx.agent.owners import Owners
from kpx.agent.rounds import Difference, Round, Tally, tally
from kpx.agent.sampling import Sampling
from kpx.agent.schedulers import Schedulers
from kpx.agent.status import Findings, Refusals
from kpx.checking.checks import Checking
from kpx.cluster.events import Event
from kpx.cluster.view import ClusterView
from kpx.dataplanes.base import Dataplane
from kpx.model.addresses import Address, Family
from kpx.model.facts import NodeFacts
from kpx.model.names import ObjectName
from kpx.model.node import Node
from kpx.policy.admission import same_but_for_admission
from kpx.policy.desired import Frontend, ServiceProgram
from kpx.reconcile.delta import DeltaTable
from kpx.reconcile.plan import Operation, Outcome, Plan, Verb
from kpx.reconcile.rows import Rows, Table

logger = logging.getLogger(__name__)

SPELLED_ROWS: Final = 10
"""How many differing rows are spelled out when somebody touched our tables; the rest is counted."""

SURPRISES: Final = frozenset((errno.ENOENT, errno.EEXIST, errno.ESRCH))
"""Refusals that mean the kernel is not as remembered."""

SETTLE_RETRY_S: Final = 1.0
"""How long after a failure to forget flows or affinity it is tried again, seconds."""

_FAMILY_TABLES: Final = {Family.IPV4: "ip", Family.IPV6: "ip6"}


class Engine:
    """
    One node's Services, from events to kernel rows; used from one thread.

    Args:
        dataplane: where rows go.
        facts: this node, until `set_facts`.
        flows: UDP flows to flush; None leaves them alone.
        retry_limit_s: longest wait before a refused row is tried again, seconds.
        clock: monotonic seconds.

    Attributes:
        row_counts: rows the kernel holds, by table.
        findings: what is wrong with the input, as of now.
        refusals: what the kernel refused, as of now.
        localities: what Services with a Local policy have here, as of the last `compile` or round.
        checking: is told which endpoints to check, unless it is None.
    """

    def __init__(
        self,
        dataplane: Dataplane,
        facts: NodeFacts,
        flows: Flows | None = None,
        retry_limit_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.row_counts: dict[Table, int] = {}
        self.findings = Findings()
        self.localities = Localities()
        self.checking: Checking | None = None
        self.refusals = Refusals(self._owner_of, self._spelled, retry_limit_s)
        self._compiler = Compiler(dataplane, facts)
        self._connections = Connections(dataplane, flows, clock)
        self._schedulers = Schedulers(dataplane.missing_schedulers)
        self._sampling = Sampling(self._compiler, dataplane)
        self._owners = Owners(self._compiler)
        self._dataplane = dataplane
        self._clock = clock
        self._settle_at: float | None = None
        self._adrift = True
        self._reason_adrift = "start"
        self._doubtful = False

    @property
    def view(self) -> ClusterView:
        """What has been heard."""
        return self._compiler.view

    @property
    def programs(self) -> dict[ObjectName, ServiceProgram]:
        """The program of every Service, as of the last `compile` or round."""
        return self._compiler.programs

    @property
    def facts(self) -> NodeFacts:
        """What is known of this node."""
        return self._compiler.facts

    @property
    def delta(self) -> DeltaTable:
        """Desired rows, and where the kernel is known to differ."""
        return self._compiler.delta

    @property
    def own_node(self) -> Node | None:
        """The Node object of this node, None when nobody told of one."""
        return self.view.nodes.get(self.facts.name)

    def fold(self, events: Iterable[Event]) -> None:
        """Take note of events; nothing is computed or written yet."""
        events = tuple(events)
        self._schedulers.hear(events)
        self._compiler.fold(events)

    def reread(self, events: Iterable[Event]) -> None:
        """Forget everything heard and hear this instead; the kernel is read again with the next round, too."""
        events = tuple(events)
        self._schedulers.hear(events)
        self._schedulers.ask_again()
        self._compiler.reread(events)
        self._drift("reload")

    def set_facts(self, facts: NodeFacts) -> None:
        """Let this be the node from the next round on; all is compiled and read again when more differs than what is admitted."""
        facts = msgspec.structs.replace(facts, missing_schedulers=self._compiler.facts.missing_schedulers)
        if not same_but_for_admission(self._compiler.facts, facts):
            self._drift("facts")
        self._compiler.facts = facts

    def set_host(self, addresses: frozenset[Address]) -> None:
        """Let these be all addresses of the host; they decide which flows were to a node port of this node (U5)."""
        if addresses == self._owners.host:
            return
        self._owners.host = addresses
        for name, program in self.programs.items():
            self._note(name, program)

    def compile(self) -> Changes:
        """
        Bring programs and desired rows up to date; return the Services that changed. Writes nothing.

        Raises:
            KernelError: it could not be asked for a scheduler that is new.
        """
        missing = self._schedulers.missing(self.facts) if self.view.synced else self.facts.missing_schedulers
        if missing != self.facts.missing_schedulers:
            self._compiler.facts = msgspec.structs.replace(self.facts, missing_schedulers=missing)
        changes = self._compiler.compile()
        for name, change in changes.items():
            self._note(name, change.after)
        self._connections.owe(changes)
        return changes

    def _note(self, name: ObjectName, program: ServiceProgram | None) -> None:
        """Take note of what is wrong with a Service, None when it is gone."""
        found = () if program is None else (*program.findings, *collisions(program, self._owners.host))
        self.findings.replace(name, found)
        self.localities.note(name, program)
        if self.checking is not None:
            self.checking.follow(name, program)

    def plan(self) -> Plan:
        """Return what has to be written and is not waiting for another try, as of the last `compile`."""
        return self.refusals.due(self.delta.plan(), self._clock())

    def difference(self) -> Difference:
        """Compile, read the kernel and compare; writes nothing at all."""
        self.compile()
        self._dataplane.expect(self.facts)
        observed = self._dataplane.observe()
        self._learn(observed.rows)
        return Difference(self.delta.plan(), observed.differences, observed)

    def round(self, reason: str = "change", read_at: float | None = None) -> Round:
        """
        Make the kernel equal to what has been heard; the first time, or when in doubt, by reading it first.

        Before everything has been heard this does nothing (S9).

        Args:
            reason: for the log, unless there is a stronger one.
            read_at: when the input that caused it was read, monotonic seconds.

        Raises:
            KernelError, CapabilityError: the kernel refused as a whole; the next round reads it again.
        """
        started = self._clock()
        if not self.view.synced:
            return Round(reason)
        if self._adrift:
            return self._round_from_kernel(self._reason_adrift, started, read_at)
        changes = self.compile()
        return self._write(reason, changes, self.plan(), started, read_at)

    def resync(self, differences: Collection[str] = ()) -> Round:
        """Read the kernel, log what others made different, and mend it; `differences` is what they were seen to do."""
        self._drift("drift")
        for sentence in differences:
            log.event(logger, logging.WARNING, "somebody touched the tables of kpx", what=sentence)
        return self.round()

    @property
    def first_sync_done(self) -> bool:
        """Tell whether the kernel has been made equal to the cluster at least once."""
        return not (self._adrift and self._reason_adrift == "start")

    @property
    def adrift(self) -> bool:
        """Tell whether the next round will read the kernel."""
        return self._adrift

    def deadline(self) -> float | None:
        """Return when a round is due though nothing happens, monotonic seconds, or None."""
        times = (self.refusals.next_due(), self._settle_at)
        return min((time for time in times if time is not None), default=None)

    def tend(self) -> int:
        """
        Let the data plane delete endpoints that have drained; return how many.

        Raises:
            KernelError: it cannot be done; it stays due.
        """
        return self._dataplane.tend(self._owners.is_listed)

    def touched(self) -> Collection[str]:
        """Return what others did to our objects and the kernel told of; see `kpx.dataplanes.base.Dataplane`."""
        return self._dataplane.touched()

    def tend_deadline(self) -> float | None:
        """Return when `tend` has something to do, monotonic seconds."""
        return self._dataplane.deadline()

    def audit(self) -> list[str]:
        """
        Look whether others touched what is ours and nobody told; return a sentence for each difference, [] while rows wait.

        Each time other Services are looked at row by row, so that all have been after some time.

        Raises:
            KernelError: the kernel cannot be read.
        """
        if self._adrift or not self.delta.is_clean:
            return []
        return self._dataplane.audit(self.row_counts, self._sampling.next())

    def _drift(self, reason: str) -> None:
        """Read the kernel in the next round; the first reason is kept until then, "start" above all."""
        if not self._adrift:
            self._adrift, self._reason_adrift = True, reason

    def _round_from_kernel(self, reason: str, started: float, read_at: float | None) -> Round:
        changes = self.compile()
        mended = tuple(self._dataplane.prepare(self.facts))
        rows = self._dataplane.observe().rows
        if reason == "start" and self.checking is not None and self.checking.any:
            self.checking.adopt(self.programs, self._dataplane.frontends_of(rows))
            self._compiler.fold(self.checking.take())
            changes = joined(changes, self.compile())
        self._learn(rows)
        # A kernel that was flushed may take a row it refused before.
        plan = self.delta.plan()
        if reason == "drift":
            self._log_drift(mended, plan)
        if plan or mended:
            self._connections.owe_all_flows(self._frontends_leaving(plan))
        done = self._write(reason, changes, plan, started, read_at)._replace(mended=mended)
        self._adrift, self._reason_adrift = self._doubtful, "error"
        return done

    def _frontends_leaving(self, plan: Plan) -> frozenset[Frontend]:
        """Return the frontends of removed rows: their Services may have gone while nobody watched (U5)."""
        removed = (operation for operation in plan.operations if operation.verb is Verb.REMOVE)
        frontends = (self._dataplane.row_frontend(operation.table, operation.key) for operation in removed)
        return frozenset(frontend for frontend in frontends if frontend is not None)

    def _learn(self, rows: Rows) -> None:
        self.delta.observe(rows)
        self.row_counts = {table: len(content) for table, content in rows.items()}

    def _write(self, reason: str, changes: Changes, plan: Plan, started: float, read_at: float | None) -> Round:
        outcome = self._apply(plan) if plan or self._adrift else Outcome()
        self._doubtful = outcome.doubtful
        if outcome.doubtful:
            self._drift("error")
        elif any(failure.errno in SURPRISES for failure in outcome.failures):
            self._drift("drift")  # after a round from the kernel this is forgotten again: then it is no surprise
        rows = self._count_rows(plan, outcome)
        self.refusals.record(outcome, plan, self.delta.diverges, self._clock())
        ended = self._clock()
        forgotten = self._connections.settle(self.programs, self.facts, self._owners.host)
        self._settle_at = ended + SETTLE_RETRY_S if self._connections.owing else None
        return Round(
            reason,
            len(changes),
            *rows,
            refused=len(outcome.failures),
            datagrams=outcome.datagrams,
            written_bytes=outcome.written_bytes,
            took_s=ended - started,
            lag_s=None if read_at is None else ended - read_at,
            flows=forgotten.flows,
            affinity=forgotten.affinity,
            sweeps=forgotten.sweeps,
            failed_families=self._failed_families(),
            plan=plan,
        )

    def _apply(self, plan: Plan) -> Outcome:
        """Carry a plan out; an empty one still makes what `prepare` found missing."""
        if logger.isEnabledFor(logging.DEBUG):
            for operation in plan.operations:
                log.event(logger, logging.DEBUG, "write", row=self._spelled(operation))
        doubtful = True
        try:
            outcome = self._dataplane.apply(plan)
            doubtful = False
        finally:
            if doubtful:
                self._drift("error")
        self.delta.confirm(plan, outcome)
        return outcome

    def _count_rows(self, plan: Plan, outcome: Outcome) -> Tally:
        """Keep `row_counts` right; return what was written in all."""
        total = Tally()
        refused = tally(failure.operation for failure in outcome.failures)
        for table, asked in tally(plan.operations).items():
            written = asked.minus(refused.get(table, Tally()))
            self.row_counts[table] = self.row_counts.get(table, 0) + written.added - written.removed
            total = total.plus(written)
        return total

    def _failed_families(self) -> frozenset[Family]:
        """Return the families of which the kernel took less than it refused; a few bad rows are no failure of the node."""
        if not self.refusals:
            return frozenset()
        held = {
            family: sum(count for table, count in self.row_counts.items() if table.family == name)
            for family, name in _FAMILY_TABLES.items()
        }
        return frozenset(family for family, name in _FAMILY_TABLES.items() if self.refusals.count(name) > held[family])

    def _owner_of(self, operation: Operation) -> ObjectName | None:
        frontend = self._dataplane.row_frontend(operation.table, operation.key)
        return self._owners.of(frontend) if frontend else None

    def _spelled(self, operation: Operation) -> str:
        value = operation.old if operation.verb is Verb.REMOVE else operation.new
        return f"{operation.verb.value} {self._dataplane.row_command(operation.table, operation.key, value)}"

    def _log_drift(self, mended: tuple[str, ...], plan: Plan) -> None:
        """Say what others made different: the rows as commands, up to a number, and how many there are."""
        for sentence in mended:
            log.event(logger, logging.WARNING, "mended", what=sentence)
        for operation in plan.operations[:SPELLED_ROWS]:
            log.event(logger, logging.WARNING, "row differs", row=self._spelled(operation))
        if len(plan.operations) > SPELLED_ROWS:
            log.event(logger, logging.WARNING, "more rows differ", rows=len(plan.operations) - SPELLED_ROWS)
