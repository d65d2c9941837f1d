"""
Two sets of rows compared from scratch: what `kpx diff` shows and what the delta table must agree with.

It keeps nothing and knows no history; `kpx.reconcile.delta` is the same computation, kept up to date.
"""

from __future__ import annotations

from collections.abc import Mapping

from kpx.reconcile.order import order
from kpx.reconcile.plan import Plan
from kpx.reconcile.rows import ABSENT, Key, Rows, Value


def diff(actual: Rows, desired: Rows) -> Plan:
    """
    Return what to write so that `actual` becomes `desired`; equal rows give an empty plan.

    A table that one side lacks has no rows there. The operations are as many as the keys whose values differ.
    """
    empty: dict[Key, Value] = {}
    tables = dict.fromkeys([*desired, *actual])
    return order({t: differing(actual.get(t, empty), desired.get(t, empty)) for t in tables}, desired)


def differing(actual: Mapping[Key, Value], desired: Mapping[Key, Value]) -> dict[Key, Value]:
    """Return the actual value, or `ABSENT`, of every key of one table whose rows differ."""
    if actual == desired:
        return {}
    look_up = actual.get
    result: dict[Key, Value] = {key: old for key, new in desired.items() if (old := look_up(key, ABSENT)) != new}
    result.update({key: old for key, old in actual.items() if key not in desired})
    return result
