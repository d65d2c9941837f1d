"""
Two data planes as one, known by the seam alone: the first has every frontend and carries those it can, the second the others.

Their rows live side by side. Tables of the second have its name in front of theirs and lower ranks than all of the first. So a
plan begins with what the second is to add, goes on with all of the first, and ends with what the second is to remove; and when a
frontend passes from one to the other, the one that takes it over is in place before the other lets go of it.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from typing import Final, Protocol, TypeVar

from kpx.dataplanes.base import AffinityEntry, Dataplane, Draining, KernelFrontend, Listed, Observed, Refusal
from kpx.dataplanes.carrying import others
from kpx.dataplanes.way import Hook
from kpx.model.addresses import Address
from kpx.model.facts import NodeFacts
from kpx.model.node import ServiceCIDR
from kpx.policy.desired import Frontend, ServiceProgram
from kpx.reconcile.plan import Failure, Operation, Outcome, Plan
from kpx.reconcile.rows import Key, Rows, Table, Value

BELOW: Final = 100
"""How far the ranks of the second are below those of the first."""

NODE_PORT: Final = Address(b"")

T = TypeVar("T")


class First(Dataplane, Protocol):
    """What is asked of the first beyond the seam."""

    def present(self) -> bool:
        """Tell whether anything of it is in the kernel."""

    def contested(self, facts: NodeFacts) -> list[str]:
        """Return what others have where its own belongs, a sentence each."""


class Second(Dataplane, Protocol):
    """What is asked of the second beyond the seam."""

    def probe(self, facts: NodeFacts) -> list[str]:
        """Tell what the kernel lacks, changing nothing."""

    def render_courtesies(self, program: ServiceProgram, facts: NodeFacts) -> Rows:
        """Return the rows about no frontend that a Service has wherever its frontends are."""


class Composed:
    """See `kpx.dataplanes.base.Dataplane`; `name` is that of the first."""

    def __init__(self, first: First, second: Second) -> None:
        self.name = first.name
        periods = [every for every in (first.audit_every_s, second.audit_every_s) if every is not None]
        self.audit_every_s = min(periods, default=None)
        self._first = first
        self._second = second
        self._prefix = f"{second.name}/"
        self._either: select.epoll | None = None

    def parts(self, rows: Mapping[Table, T]) -> tuple[dict[Table, T], dict[Table, T]]:
        """Take apart what is kept by table: the share of the first, and that of the second under its own names. Pure."""
        mine: dict[Table, T] = {}
        theirs: dict[Table, T] = {}
        for table, content in rows.items():
            if self._is_of_second(table):
                theirs[_lowered(self._prefix, table)] = content
            else:
                mine[table] = content
        return mine, theirs

    def _joined(self, first: Rows, second: Rows) -> Rows:
        return first | {_lifted(self._prefix, table): content for table, content in second.items()}

    def _is_of_second(self, table: Table) -> bool:
        return table.name.startswith(self._prefix)

    def _whose(self, table: Table) -> tuple[Dataplane, Table]:
        """Return whose table it is, and as the owner knows it."""
        if self._is_of_second(table):
            return self._second, _lowered(self._prefix, table)
        return self._first, table

    def render_service(self, program: ServiceProgram, facts: NodeFacts) -> Rows:
        """Return the rows of one Service: all of it for the first, what the first does not carry for the second. Pure."""
        rows = self._first.render_service(program, facts)
        added = self._second.render_courtesies(program, facts)
        rest = others(program)
        if rest is not None:
            for table, content in self._second.render_service(rest, facts).items():
                added.setdefault(table, {}).update(content)
        return self._joined(rows, added) if added else rows

    def render_node(self, facts: NodeFacts, cidrs: Iterable[ServiceCIDR]) -> Rows:
        """Return the rows of the node; addresses that nobody owns are for the first alone to refuse. Pure."""
        return self._joined(self._first.render_node(facts, cidrs), self._second.render_node(facts, ()))

    def frontends_of(self, rows: Rows) -> list[KernelFrontend]:
        """Read rows back as frontends, each as who carries it says. Pure."""
        mine, theirs = self.parts(rows)
        found = {each.frontend: each for each in self._second.frontends_of(theirs)}
        for each in self._first.frontends_of(mine):
            carried = found.get(each.frontend)
            # Only the first knows all ClusterIPs.
            found[each.frontend] = carried._replace(kind=each.kind) if carried and each.outside.action == "pass" else each
        return sorted(found.values(), key=lambda each: each.frontend)

    def refusal_of(self, rows: Rows, destination: Address, host: Collection[Address]) -> Refusal | None:
        """Tell whether rows refuse an address that no frontend catches. Pure."""
        mine, theirs = self.parts(rows)
        refusal = self._first.refusal_of(mine, destination, host)
        return refusal or self._second.refusal_of(theirs, destination, host)

    def hooks(self, rows: Rows, facts: NodeFacts, host: Collection[Address]) -> Iterable[Hook]:
        """Return what rows of both do to packets. Pure."""
        mine, theirs = self.parts(rows)
        return [*self._first.hooks(mine, facts, host), *self._second.hooks(theirs, facts, host)]

    def row_command(self, table: Table, key: Key, value: Value) -> str:
        """Return the command a person would type to add the row. Pure."""
        plane, table = self._whose(table)
        return plane.row_command(table, key, value)

    def row_frontend(self, table: Table, key: Key) -> Frontend | None:
        """Return the frontend a row belongs to, as its data plane names it. Pure."""
        plane, table = self._whose(table)
        return plane.row_frontend(table, key)

    def prepare(self, facts: NodeFacts) -> list[str]:
        """Make the constant parts exist and be right."""
        return [*self._first.prepare(facts), *self._second.prepare(facts)]

    def expect(self, facts: NodeFacts) -> None:
        """Let `observe` compare the constant parts with what they must be on this node."""
        self._first.expect(facts)
        self._second.expect(facts)

    def present(self) -> bool:
        """Tell whether anything of the first is in the kernel; the second may also be there for itself."""
        return self._first.present()

    def probe(self, facts: NodeFacts) -> list[str]:
        """Tell what the kernel lacks for the second, changing nothing."""
        return self._second.probe(facts)

    def contested(self, facts: NodeFacts) -> list[str]:
        """Return what others have where the first puts its own."""
        return self._first.contested(facts)

    def observe(self) -> Observed:
        """Read back what both own."""
        mine, theirs = self._first.observe(), self._second.observe()
        rows = self._joined(mine.rows, theirs.rows)
        return Observed(rows, mine.differences + theirs.differences, mine.present or theirs.present)

    def apply(self, plan: Plan) -> Outcome:
        """
        Carry the plan out: the second's part up to where the first's begins, all of the first's, the rest of the second's.

        Where one of them fails with a frontend, the other leaves it as it is: a frontend changes hands whole, or stays.
        """
        before, mine, behind = self._cut(plan)
        done = self._apply_second(before)
        if mine:
            able, held_back = self._without(mine, done.failures)
            done = _sum(done, self._first.apply(Plan(tuple(able))), held_back)
        if behind:
            able, held_back = self._without(behind, done.failures)
            done = _sum(done, self._apply_second(able), held_back)
        return done

    def _cut(self, plan: Plan) -> tuple[list[Operation], list[Operation], list[Operation]]:
        """Return the second's operations before the first of the first's, the first's, and the second's behind that."""
        before: list[Operation] = []
        mine: list[Operation] = []
        behind: list[Operation] = []
        for table, run in groupby(plan.operations, attrgetter("table")):
            part = mine if not self._is_of_second(table) else behind if mine else before
            part += run
        return before, mine, behind

    def _apply_second(self, operations: Iterable[Operation]) -> Outcome:
        """Let the second carry out operations; even none makes what its `prepare` found missing."""
        lowered = tuple(o._replace(table=_lowered(self._prefix, o.table)) for o in operations)
        outcome = self._second.apply(Plan(lowered))
        return outcome._replace(failures=tuple(self._lift(failure) for failure in outcome.failures))

    def _lift(self, failure: Failure) -> Failure:
        operation = failure.operation
        return failure._replace(operation=operation._replace(table=_lifted(self._prefix, operation.table)))

    def _without(self, operations: Sequence[Operation], failures: Iterable[Failure]) -> tuple[list[Operation], list[Failure]]:
        """Return the operations that still can go, and those held back because another row of their frontend failed."""
        refused = self._reasons(failures)
        if not refused:
            return list(operations), []
        # A node port is one frontend to nftables, and one on each address to IPVS.
        as_node_port = {frontend._replace(address=NODE_PORT): reason for frontend, reason in refused.items()}
        rest: list[Operation] = []
        held_back: list[Failure] = []
        for operation in operations:
            frontend = self.row_frontend(operation.table, operation.key)
            reason = None
            if frontend is not None:
                whole = frontend._replace(address=NODE_PORT)
                reason = refused.get(frontend) or refused.get(whole) or as_node_port.get(frontend)
            if reason is None:
                rest.append(operation)
            else:
                held_back.append(Failure(operation, 0, f"held back, since another row of its frontend failed: {reason}"))
        return rest, held_back

    def _reasons(self, failures: Iterable[Failure]) -> dict[Frontend, str]:
        """Return the frontends with rows that failed, and why."""
        found = ((self.row_frontend(f.operation.table, f.operation.key), f.reason) for f in failures)
        return {frontend: reason for frontend, reason in found if frontend is not None}

    def forget_affinity(self, gone: Callable[[AffinityEntry], bool]) -> int:
        """Delete the affinity entries for which `gone` holds."""
        return self._first.forget_affinity(gone) + self._second.forget_affinity(gone)

    def affinity(self) -> list[AffinityEntry]:
        """Return the live affinity entries, sorted."""
        return sorted([*self._first.affinity(), *self._second.affinity()])

    def missing_schedulers(self, names: Collection[str]) -> frozenset[str]:
        """Return those of the schedulers that this kernel does not have."""
        return self._first.missing_schedulers(names) | self._second.missing_schedulers(names)

    def draining(self) -> list[Draining]:
        """Return the endpoints that drain, sorted."""
        return sorted([*self._first.draining(), *self._second.draining()])

    def draining_count(self) -> int:
        """Return how many endpoints are known to drain."""
        return self._first.draining_count() + self._second.draining_count()

    def deadline(self) -> float | None:
        """Return when one of them wants to be tended."""
        deadlines = (self._first.deadline(), self._second.deadline())
        return min((at for at in deadlines if at is not None), default=None)

    def tend(self, listed: Listed) -> int:
        """Do what is due."""
        return self._first.tend(listed) + self._second.tend(listed)

    def audit(self, counts: Mapping[Table, int], sample: Rows) -> list[str]:
        """Look whether others touched what the kernel tells nobody of."""
        counted, rows = self.parts(counts), self.parts(sample)
        return [*self._first.audit(counted[0], rows[0]), *self._second.audit(counted[1], rows[1])]

    def retire(self, facts: NodeFacts) -> float | None:
        """Hand over: the first, then the second."""
        again = self._first.retire(facts)
        return again if again is not None else self._second.retire(facts)

    def cleanup(self) -> list[str]:
        """Remove everything of both: the first brings packets to nobody any more before the second goes."""
        return [*self._first.cleanup(), *self._second.cleanup()]

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when somebody may have touched what is one's or the other's."""
        if self._either is None:
            self._either = select.epoll()
            for plane in (self._first, self._second):
                self._either.register(plane.fileno(), select.EPOLLIN)
        return self._either.fileno()

    def touched(self) -> Collection[str]:
        """Drain the notifications of both."""
        return [*self._first.touched(), *self._second.touched()]

    def close(self) -> None:
        """Close sockets; forwarding stays as it is."""
        if self._either is not None:
            self._either.close()
        self._first.close()
        self._second.close()


@lru_cache
def _lifted(prefix: str, table: Table) -> Table:
    return table._replace(name=prefix + table.name, rank=table.rank - BELOW)


@lru_cache
def _lowered(prefix: str, table: Table) -> Table:
    return table._replace(name=table.name.removeprefix(prefix), rank=table.rank + BELOW)


def _sum(done: Outcome, more: Outcome, held_back: Iterable[Failure]) -> Outcome:
    failures = (*done.failures, *more.failures, *held_back)
    datagrams, written_bytes = done.datagrams + more.datagrams, done.written_bytes + more.written_bytes
    return Outcome(failures, datagrams, written_bytes, done.doubtful or more.doubtful)
