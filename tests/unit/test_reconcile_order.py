"""The order of a plan, and the stateless difference of two sets of rows."""

from __future__ import annotations

from kpx.reconcile.diff import diff
from kpx.reconcile.order import order
from kpx.reconcile.plan import Operation, Plan, Verb
from kpx.reconcile.rows import ABSENT, Rows, Table

CHAINS = Table("ip", "chains", 0, shared=True)
ENDPOINTS = Table("ip", "endpoints", 1)
FRONTENDS = Table("ip", "frontends", 3)
CHAINS_6 = Table("ip6", "chains", 0, shared=True)
FRONTENDS_6 = Table("ip6", "frontends", 3)
ROUTES = Table("", "routes", 2)


def brief(plan: Plan) -> list[str]:
    return [f"{o.verb.value}{o.table.family}/{o.table.name}/{o.key}" for o in plan.operations]


def test_additions_and_changes_go_up_the_ranks_then_removals_go_down() -> None:
    actual: Rows = {FRONTENDS: {"a": "pick-1", "gone": "pick-1"}, CHAINS: {"pick-1": ""}, ENDPOINTS: {"gone": "x"}}
    desired: Rows = {FRONTENDS: {"a": "pick-2", "new": "pick-2"}, CHAINS: {"pick-2": ""}, ENDPOINTS: {"new": "x"}}

    plan = diff(actual, desired)

    assert brief(plan) == [
        "+ip/chains/pick-2",
        "+ip/endpoints/new",
        "~ip/frontends/a",
        "+ip/frontends/new",
        "-ip/frontends/gone",
        "-ip/endpoints/gone",
        "-ip/chains/pick-1",
    ]


def test_each_family_is_in_order_and_a_table_of_both_is_in_time_for_either() -> None:
    desired: Rows = {FRONTENDS_6: {"f": ""}, ROUTES: {"r": ""}, FRONTENDS: {"f": ""}, CHAINS_6: {"c": ""}, CHAINS: {"c": ""}}

    up, down = diff({}, desired), diff(desired, {})

    assert brief(up) == ["+ip/chains/c", "+ip6/chains/c", "+/routes/r", "+ip/frontends/f", "+ip6/frontends/f"]
    assert brief(down) == ["-ip6/frontends/f", "-ip/frontends/f", "-/routes/r", "-ip6/chains/c", "-ip/chains/c"]
    assert brief(up.of_family("ip6")) == ["+ip6/chains/c", "+ip6/frontends/f"]


def test_rows_of_a_table_are_sorted_whatever_order_they_came_in() -> None:
    keys = [b"c", b"a", b"b"]

    plans = {diff({}, {ENDPOINTS: dict.fromkeys(turned, b"")}) for turned in (keys, keys[::-1], sorted(keys))}

    assert len(plans) == 1
    assert [o.key for o in plans.pop().operations] == sorted(keys)


def test_keys_that_cannot_be_compared_stay_in_the_order_they_came_in() -> None:
    keys = ["b", 1, ("c",), "a"]

    plan = order({ENDPOINTS: dict.fromkeys(keys, ABSENT)}, {ENDPOINTS: dict.fromkeys(keys, "")})

    assert [o.key for o in plan.operations] == keys


def test_operations_say_what_was_and_what_will_be() -> None:
    plan = diff({ENDPOINTS: {"a": 1, "b": 2, "same": 0}}, {ENDPOINTS: {"b": 3, "c": 4, "same": 0}})

    assert plan.operations == (
        Operation(Verb.CHANGE, ENDPOINTS, "b", 2, 3),
        Operation(Verb.ADD, ENDPOINTS, "c", None, 4),
        Operation(Verb.REMOVE, ENDPOINTS, "a", 1, None),
    )
    assert plan.counts() == {Verb.ADD: 1, Verb.CHANGE: 1, Verb.REMOVE: 1}


def test_equal_rows_give_an_empty_plan_even_with_tables_that_are_empty() -> None:
    assert diff({ENDPOINTS: {"a": 1}, CHAINS: {}}, {FRONTENDS: {}, ENDPOINTS: {"a": 1}}) == Plan()
    assert not diff({}, {})


def test_skipped_rows_are_not_in_the_plan() -> None:
    actual: Rows = {ENDPOINTS: {"a": 1}, FRONTENDS: {"a": 1}}

    plan = order(actual, {}, skip=lambda table, key: table == FRONTENDS)

    assert brief(plan) == ["-ip/endpoints/a"]
