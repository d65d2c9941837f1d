"""
A plan: what to write so that actual rows become desired rows. Data, not action: it prints, compares and is counted.

Order: within a family, additions and changes by rising rank, then removals by falling rank, so a row never points at
something that is not there yet or no longer there (16.2). Families are independent of each other.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from kpx.reconcile.rows import Key, Table, Value


class Verb(enum.Enum):
    """What an operation does to a row."""

    ADD = "+"
    CHANGE = "~"
    REMOVE = "-"


class Operation(NamedTuple):
    """One row written: `old` is None for an addition, `new` is None for a removal."""

    verb: Verb
    table: Table
    key: Key
    old: Value | None
    new: Value | None


class Plan(NamedTuple):
    """Operations in the order they must take effect."""

    operations: tuple[Operation, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.operations)

    def counts(self) -> dict[Verb, int]:
        """Return how many rows are added, changed and removed."""
        result = dict.fromkeys(Verb, 0)
        for operation in self.operations:
            result[operation.verb] += 1
        return result

    def of_family(self, family: str) -> Plan:
        """Return the operations of one family, in order."""
        return Plan(tuple(o for o in self.operations if o.table.family == family))


class Failure(NamedTuple):
    """An operation the kernel refused, and its reason in words."""

    operation: Operation
    errno: int
    reason: str


class Outcome(NamedTuple):
    """
    What became of a plan.

    Args:
        failures: operations that did not take effect, but see `doubtful`; every other operation of the plan did.
        datagrams, written_bytes: what was sent, for the log line and for counting writes.
        doubtful: an answer is missing, so that some of the failures may have taken effect; only the kernel knows which.
    """

    failures: tuple[Failure, ...] = ()
    datagrams: int = 0
    written_bytes: int = 0
    doubtful: bool = False
