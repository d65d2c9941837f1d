"""Where a plan is cut: chains before what leads to them, and what goes after what led to it (16.2)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpx.dataplanes.nftables.apply import _steps
from kpx.dataplanes.nftables.schema import CHAINS, ROWS
from kpx.model.addresses import Family
from kpx.reconcile.plan import Operation, Verb

CHAIN, ENDPOINTS, FRONTENDS = CHAINS[Family.IPV4], ROWS[Family.IPV4, "endpoints"], ROWS[Family.IPV4, "frontends"]
GROWS = [
    Operation(Verb.ADD, CHAIN, "pick-2", None, ("one of 2 endpoints",)),
    Operation(Verb.ADD, ENDPOINTS, b"1", None, b"b"),
    Operation(Verb.CHANGE, FRONTENDS, b"f", "goto pick-1", "goto pick-2"),
    Operation(Verb.REMOVE, CHAIN, "pick-1", ("one of 1 endpoints",), None),
]
SHRINKS = [
    Operation(Verb.ADD, CHAIN, "pick-1", None, ("one of 1 endpoints",)),
    Operation(Verb.CHANGE, FRONTENDS, b"f", "goto pick-2", "goto pick-1"),
    Operation(Verb.REMOVE, ENDPOINTS, b"1", b"b", None),
    Operation(Verb.REMOVE, CHAIN, "pick-2", ("one of 2 endpoints",), None),
]


@pytest.mark.parametrize(
    ("operations", "steps"),
    [
        (GROWS, [(0, 1), (1, 3), (3, 4)]),
        (SHRINKS, [(0, 1), (1, 2), (2, 4)]),
        (GROWS[1:3], [(0, 2)]),
        (GROWS[:1], [(0, 1)]),
        (SHRINKS[2:], [(0, 2)]),
        ([], [(0, 0)]),
    ],
)
def test_chains_come_first_and_what_goes_goes_last(operations: list[Operation], steps: list[tuple[int, int]]) -> None:
    assert list(_steps(operations, 100, create=False)) == steps


def test_a_table_that_is_being_made_is_there_at_once() -> None:
    assert list(_steps(GROWS[:3], 100, create=True)) == [(0, 3)]


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(1, 4))
def test_every_operation_is_in_one_step_and_none_is_too_large(chains: int, others: int, leaving: int, largest: int) -> None:
    operations = [GROWS[0]] * chains + [GROWS[1]] * others + [GROWS[3]] * leaving
    steps = list(_steps(operations, largest, create=False))

    assert steps[0][0] == 0
    assert steps[-1][1] == len(operations)
    assert all(one[1] == other[0] for one, other in pairwise(steps))
    assert all(end - start <= largest for start, end in steps)
    assert all(len({(o.verb, o.table) for o in operations[start:end]}) <= 1 for start, end in steps)
