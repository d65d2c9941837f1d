"""
The delta table: desired rows, and where the kernel is known to differ from them.

At 10,000 Services of 10 endpoints there are some 220,000 rows, and one endpoint moves about 20 of them. So a row that is as
desired is stored once and costs nothing when something else changes: beside the desired rows there is only, for the keys
that differ, what the kernel has instead. These *divergences* are the work still to do; a plan is drawn from them alone.

Owners are counted, not named. The content is a function of what owners want now and of what is known of the kernel, never of
the order in which it was told. So within a round a row may pass from one Service to another in any order of `replace` calls;
only when a plan is drawn must all owners of a row agree on its value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import attrgetter

from kpx.reconcile.diff import differing
from kpx.reconcile.order import Skip, order
from kpx.reconcile.plan import Operation, Outcome, Plan, Verb
from kpx.reconcile.rows import ABSENT, Key, Rows, Table, Value

_REMOVE = Verb.REMOVE
_NO_ROWS: Mapping[Key, Value] = {}
_table_of = attrgetter("table")


class DeltaTable:
    """
    Desired and actual rows in one structure.

    A new one desires nothing and knows of no row in the kernel. `replace`, `plan` and `confirm` cost what changes costs,
    whatever the size of the tables; `observe`, `desired_rows` and `actual_rows` go through everything.
    """

    def __init__(self) -> None:
        self._regions: dict[Table, _Region] = {}

    def replace(self, old: Rows, new: Rows) -> None:
        """
        Let one owner want `new` instead of `old`.

        Args:
            old: exactly what the owner wanted so far; {} for an owner that comes.
            new: what it wants now; {} for an owner that goes.

        Raises:
            ValueError: a row of `old` was not wanted by anybody, so the caller's idea of `old` is wrong.
        """
        for table, rows in new.items():
            before = old.get(table) if old else None
            if not before:
                self._region(table).add(rows)
            elif before != rows:
                self._region(table).replace(before, rows)
        for table, before in old.items():
            if table not in new:
                self._region(table).replace(before, _NO_ROWS)

    def observe(self, actual: Rows) -> None:
        """
        Take a full dump of the kernel for what is actual; whatever was known before is forgotten.

        It is cheaper after the desired rows have been told than before, but the result is the same.
        """
        for table in dict.fromkeys([*self._regions, *actual]):
            self._region(table).observe(actual.get(table, _NO_ROWS))

    def plan(self, skip: Skip | None = None) -> Plan:
        """
        Return what to write so that the kernel is as desired, in the order of `kpx.reconcile.order`.

        Args:
            skip: rows to leave out, such as those in backoff; they stay divergent.

        Raises:
            ValueError: two owners want different values of one row, or two want the same row of a table that is not
                shared. Policy never asks for that; the message names the row.
        """
        for table, region in self._regions.items():
            region.check(table)
        diverged = {table: rows for table, region in self._regions.items() if (rows := region.diverged)}
        return order(diverged, {table: self._regions[table].desired for table in diverged}, skip)

    def confirm(self, plan: Plan, outcome: Outcome) -> None:
        """
        Take note that `plan` was carried out, all but the failures of `outcome`; rows that failed stay as they were known.

        What is desired may have changed since the plan was drawn.
        """
        failed = {(failure.operation.table, failure.operation.key) for failure in outcome.failures}
        carried_out: Iterable[Operation] = plan.operations
        if failed:
            carried_out = [o for o in plan.operations if (o.table, o.key) not in failed]
        for table, operations in groupby(carried_out, _table_of):
            self._region(table).learn(operations)

    def diverges(self, table: Table, key: Key) -> bool:
        """Tell whether a row is not as desired."""
        region = self._regions.get(table)
        return region is not None and key in region.diverged

    def pending(self) -> int:
        """Return how many rows are not as desired."""
        return sum(len(region.diverged) for region in self._regions.values())

    @property
    def is_clean(self) -> bool:
        """Tell whether every row is as desired, so that a plan would be empty."""
        return not any(region.diverged for region in self._regions.values())

    def desired_rows(self) -> Rows:
        """Return a copy of all desired rows; tables without rows are left out."""
        return {table: dict(region.desired) for table, region in self._regions.items() if region.desired}

    def actual_rows(self) -> Rows:
        """Return all rows the kernel is known to hold; tables without rows are left out."""
        every = ((table, dict(region.actual())) for table, region in self._regions.items())
        return {table: rows for table, rows in every if rows}

    def _region(self, table: Table) -> _Region:
        region = self._regions.get(table)
        if region is None:
            region = self._regions[table] = _Region()
        return region


class _Region:
    """
    One table's share.

    Attributes:
        desired: every row somebody wants; of a disputed row one of the wanted values.
        owners: for keys with more than one owner, how many.
        disputes: for keys whose owners disagree, how many want each value. Empty outside of rounds.
    """

    __slots__ = ("_diverged", "desired", "disputes", "owners")

    def __init__(self) -> None:
        self.desired: dict[Key, Value] = {}
        # None as long as the kernel is known to have no row at all: then it follows from `desired`.
        self._diverged: dict[Key, Value] | None = None
        self.owners: dict[Key, int] = {}
        self.disputes: dict[Key, dict[Value, int]] = {}

    @property
    def diverged(self) -> dict[Key, Value]:
        """For keys where the kernel differs, its value or `ABSENT`."""
        if self._diverged is None:
            self._diverged = dict.fromkeys(self.desired, ABSENT)
        return self._diverged

    def observe(self, actual: Mapping[Key, Value]) -> None:
        self._diverged = differing(actual, self.desired) if actual else None

    def add(self, new: Mapping[Key, Value]) -> None:
        if self.desired.keys().isdisjoint(new) and (self._diverged is None or self._diverged.keys().isdisjoint(new)):
            # All rows are new, as at start: let the dictionaries copy them without a loop in Python.
            self.desired.update(new)
            if self._diverged is not None:
                self._diverged.update(dict.fromkeys(new, ABSENT))
            return
        for key, value in new.items():
            self.claim(key, value)

    def replace(self, old: Mapping[Key, Value], new: Mapping[Key, Value]) -> None:
        for key, value in new.items():
            before = old.get(key, ABSENT)
            if before is ABSENT:
                self.claim(key, value)
            elif before != value:
                if key in self.owners:
                    self.claim(key, value)
                    self.release(key, before)
                else:
                    self.assign(key, value)
        for key, before in old.items():
            if key not in new:
                self.release(key, before)

    def claim(self, key: Key, value: Value) -> None:
        """Count one more owner that wants `value`."""
        if key not in self.desired:
            self.assign(key, value)
            return
        count = self.owners.get(key, 1)
        held = self.desired[key]
        if key in self.disputes or held != value:
            votes = self.disputes.setdefault(key, {held: count})
            votes[value] = votes.get(value, 0) + 1
        self.owners[key] = count + 1

    def release(self, key: Key, value: Value) -> None:
        """Count one owner less that wants `value`; the last one takes the row along."""
        votes = self.disputes.get(key)
        if value not in votes if votes is not None else self.desired.get(key, ABSENT) != value:
            raise ValueError(f"row {key!r} with value {value!r} is given up, but nobody wanted it")
        if votes is not None:
            votes[value] -= 1
            if not votes[value]:
                del votes[value]
            if len(votes) == 1:
                del self.disputes[key]
                self.assign(key, next(iter(votes)))
        count = self.owners.get(key, 1) - 1
        if count > 1:
            self.owners[key] = count
        elif count == 1:
            del self.owners[key]
        else:
            self.assign(key, ABSENT)

    def assign(self, key: Key, value: Value) -> None:
        """Desire a value, or `ABSENT`; what is actual stays what it is."""
        diverged = self._diverged
        if diverged is not None:
            actual = diverged.get(key, self.desired.get(key, ABSENT))
            if actual == value:
                diverged.pop(key, None)
            else:
                diverged[key] = actual
        if value is ABSENT:
            del self.desired[key]
        else:
            self.desired[key] = value

    def learn(self, operations: Iterable[Operation]) -> None:
        """Know that operations of this table were carried out; what is desired stays what it is."""
        desired, diverged = self.desired, self.diverged
        for verb, _, key, _, new in operations:
            # None may also be the value of a row that was added, so the absence of a row is read from the verb.
            value = ABSENT if verb is _REMOVE else new
            if desired.get(key, ABSENT) == value:
                diverged.pop(key, None)
            else:
                diverged[key] = value
        if not diverged:
            self._diverged = {}  # a dictionary keeps the room of what it held

    def actual(self) -> Iterator[tuple[Key, Value]]:
        for key, value in self.desired.items():
            known = self.diverged.get(key, value)
            if known is not ABSENT:
                yield key, known
        for key, value in self.diverged.items():
            if key not in self.desired:
                yield key, value

    def check(self, table: Table) -> None:
        """Raise ValueError when owners do not agree."""
        for key, votes in self.disputes.items():
            raise ValueError(f"table {table.family} {table.name}: row {key!r} is wanted with different values: {list(votes)!r}")
        if self.owners and not table.shared:
            raise ValueError(f"table {table.family} {table.name} is not shared: row {next(iter(self.owners))!r} has two owners")
