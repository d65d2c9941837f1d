"""
The nftables data plane over a dictionary: real rendering, no netlink, no root.

It refuses what the kernel refuses: adding a row that is there, changing or removing one that is not, a verdict to a chain that
does not exist, removing a chain that a verdict still names.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from kpx.dataplanes.base import AffinityEntry, Observed
from kpx.dataplanes.nftables.plane import NftablesDataplane
from kpx.model.facts import NodeFacts
from kpx.reconcile.plan import Failure, Operation, Outcome, Plan, Verb
from kpx.reconcile.rows import Key, Rows


class DictionaryKernel(NftablesDataplane):
    """
    A kernel for scenarios.

    Attributes:
        rows: what it holds.
    """

    def __init__(self) -> None:
        super().__init__(netlink=None)
        self.rows: Rows = {}

    def prepare(self, facts: NodeFacts) -> list[str]:
        """Chains are rows, so there is nothing else to prepare."""
        return []

    def observe(self) -> Observed:
        """Return a copy of the rows."""
        return Observed({table: dict(content) for table, content in self.rows.items() if content}, (), bool(self.rows))

    def apply(self, plan: Plan) -> Outcome:
        """Carry operations out one by one."""
        failures = tuple(failure for operation in plan.operations if (failure := self._carry_out(operation)))
        return Outcome(failures, datagrams=1, written_bytes=len(plan.operations))

    def forget_affinity(self, gone: Callable[[AffinityEntry], bool]) -> int:
        """No packet ever made an entry."""
        return 0

    def _carry_out(self, operation: Operation) -> Failure | None:
        rows = self.rows.setdefault(operation.table, {})
        there = operation.key in rows
        if operation.verb is Verb.ADD and there:
            return Failure(operation, errno.EEXIST, "it is there already")
        if operation.verb is not Verb.ADD and not there:
            return Failure(operation, errno.ENOENT, "it is not there")
        if operation.verb is Verb.REMOVE:
            if operation.table.name == "chains" and self._is_named(operation.table.family, operation.key):
                return Failure(operation, errno.EBUSY, "a verdict names it")
            del rows[operation.key]
            return None
        if missing := self._missing_chain(operation):
            return Failure(operation, errno.ENOENT, f"there is no chain {missing}")
        rows[operation.key] = operation.new
        return None

    def _missing_chain(self, operation: Operation) -> str | None:
        if operation.table.name == "chains" or not isinstance(operation.new, str) or " " not in operation.new:
            return None
        target = operation.new.split(" ", 1)[1]
        chains = next((rows for table, rows in self.rows.items() if table[:2] == (operation.table.family, "chains")), {})
        return None if target in chains else target

    def _is_named(self, family: str, chain: Key) -> bool:
        verdicts = (f"goto {chain}", f"jump {chain}")
        return any(
            value in verdicts
            for table, rows in self.rows.items()
            if table.family == family and table.name != "chains"
            for value in rows.values()
        )
