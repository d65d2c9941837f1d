"""
The order in which differences become operations: the one place that decides it, for every data plane.

Additions and changes go up the ranks, then removals go down (16.2). After any number of operations a row that points at
another finds it: what it points at has a lower rank, thus came before it and leaves after it. Ranks are compared across
families, so that rows of a table for both families (family "") are in time for either; each family on its own sees the
same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import repeat

from kpx.reconcile.plan import Operation, Plan, Verb
from kpx.reconcile.rows import ABSENT, Key, Table, Value

_ADD, _CHANGE, _REMOVE = Verb  # as names of this module: looked up once a row
_operation = partial(tuple.__new__, Operation)
"""Makes an operation of its five fields, in a third of the time: a first sync makes millions."""

Skip = Callable[[Table, Key], bool]
"""Tells whether a row is left out of a plan."""


def order(
    actual: Mapping[Table, Mapping[Key, Value]], desired: Mapping[Table, Mapping[Key, Value]], skip: Skip | None = None
) -> Plan:
    """
    Put differing rows in order.

    The order is a function of the arguments: tables by rank, family and name, rows by key where keys can be compared and
    as they stand in `actual` where they cannot.

    Args:
        actual: for each row that differs its actual value, or `ABSENT`; rows that do not differ must not be here.
        desired: all desired rows of these tables; a row that is not here is to go.
        skip: rows to leave out, such as those in backoff.
    """
    written: list[Operation] = []
    removed: list[list[Operation]] = []
    for table in sorted((t for t in actual if actual[t]), key=lambda t: (t.rank, t.family, t.name)):
        rows, wanted = actual[table], desired.get(table, {})
        gone: list[Operation] = []
        keys = _in_order(rows)
        if skip is not None:
            keys = [key for key in keys if not skip(table, key)]
        elif list(rows.values()).count(ABSENT) == len(rows):
            # Nothing of the table is there, as at a first sync: no loop in Python.
            written += map(_operation, zip(repeat(_ADD), repeat(table), keys, repeat(None), map(wanted.__getitem__, keys)))
            continue
        for key in keys:
            old, new = rows[key], wanted.get(key, ABSENT)
            if old is ABSENT:
                written.append(Operation(_ADD, table, key, None, new))
            elif new is ABSENT:
                gone.append(Operation(_REMOVE, table, key, old, None))
            else:
                written.append(Operation(_CHANGE, table, key, old, new))
        removed.append(gone)
    for gone in reversed(removed):
        written += gone
    return Plan(tuple(written))


def _in_order(rows: Mapping[Key, Value]) -> list[Key]:
    """Return the keys sorted; keys that have no order keep the order they stand in."""
    try:
        return sorted(rows)  # type: ignore[type-var]
    except TypeError:
        return list(rows)
