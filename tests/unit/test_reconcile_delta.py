"""The delta table, promise by promise; that it equals two plain dictionaries is in tests/properties/test_delta_table.py."""

from __future__ import annotations

import errno
import itertools

import pytest

from kpx.reconcile.delta import DeltaTable
from kpx.reconcile.plan import Failure, Operation, Outcome, Plan, Verb
from kpx.reconcile.rows import Rows, Table

ENDPOINTS = Table("ip", "endpoints", 1)
FRONTENDS = Table("ip", "frontends", 3)
HAIRPIN = Table("ip", "hairpin", 2, shared=True)
DONE = Outcome()


def brief(plan: Plan) -> list[str]:
    return [f"{o.verb.value}{o.table.name} {o.key!r} {o.old!r} {o.new!r}" for o in plan.operations]


def settled(*owners: Rows) -> DeltaTable:
    delta = DeltaTable()
    for rows in owners:
        delta.replace({}, rows)
    delta.confirm(delta.plan(), DONE)
    assert delta.is_clean
    return delta


def test_new_table_is_clean_and_plans_nothing() -> None:
    delta = DeltaTable()

    assert delta.is_clean
    assert delta.pending() == 0
    assert delta.plan() == Plan()
    assert delta.desired_rows() == delta.actual_rows() == {}


def test_rows_wanted_are_added_once_confirmed_and_never_again() -> None:
    delta = DeltaTable()
    delta.replace({}, {ENDPOINTS: {b"a": b"1"}, FRONTENDS: {b"f": b"pick-1"}})
    plan = delta.plan()

    assert brief(plan) == ["+endpoints b'a' None b'1'", "+frontends b'f' None b'pick-1'"]
    assert delta.pending() == 2
    assert delta.actual_rows() == {}

    delta.confirm(plan, DONE)

    assert delta.is_clean
    assert delta.plan() == Plan()
    assert delta.actual_rows() == delta.desired_rows() == {ENDPOINTS: {b"a": b"1"}, FRONTENDS: {b"f": b"pick-1"}}


def test_change_writes_only_what_differs() -> None:
    old = {ENDPOINTS: {b"a": b"1", b"b": b"2", b"c": b"3"}, FRONTENDS: {b"f": b"pick-3"}}
    new = {ENDPOINTS: {b"a": b"1", b"b": b"3"}, FRONTENDS: {b"f": b"pick-2"}}
    delta = settled(old)

    delta.replace(old, new)

    assert brief(delta.plan()) == [
        "~endpoints b'b' b'2' b'3'",
        "~frontends b'f' b'pick-3' b'pick-2'",
        "-endpoints b'c' b'3' None",
    ]


def test_change_taken_back_before_it_was_written_is_no_change() -> None:
    old, new = {ENDPOINTS: {b"a": b"1", b"b": b"1"}}, {ENDPOINTS: {b"b": b"2", b"c": b"1"}}
    delta = settled(old)

    delta.replace(old, new)
    delta.replace(new, old)

    assert delta.is_clean


def test_none_is_a_value_like_any_other() -> None:
    """The members of a set may have no value; they are added, confirmed and removed all the same."""
    rows: Rows = {HAIRPIN: {b"a": None}}
    delta = settled(rows)
    assert delta.actual_rows() == rows

    delta.replace(rows, {})
    plan = delta.plan()
    delta.confirm(plan, DONE)

    assert [o.verb for o in plan.operations] == [Verb.REMOVE]
    assert delta.is_clean
    assert delta.actual_rows() == {}


def test_failed_rows_stay_divergent_and_the_others_do_not() -> None:
    delta = DeltaTable()
    delta.replace({}, {ENDPOINTS: {b"a": b"1", b"b": b"2"}})
    plan = delta.plan()

    delta.confirm(plan, Outcome((Failure(plan.operations[0], errno.EEXIST, "File exists"),)))

    assert delta.diverges(ENDPOINTS, b"a")
    assert not delta.diverges(ENDPOINTS, b"b")
    assert brief(delta.plan()) == ["+endpoints b'a' None b'1'"]


def test_rows_in_backoff_are_left_out_and_stay_pending() -> None:
    delta = DeltaTable()
    delta.replace({}, {ENDPOINTS: {b"a": b"1", b"b": b"2"}})

    plan = delta.plan(skip=lambda table, key: (table, key) == (ENDPOINTS, b"a"))

    assert brief(plan) == ["+endpoints b'b' None b'2'"]
    assert delta.pending() == 2


def test_confirming_an_old_plan_tells_what_is_actual_not_what_is_desired() -> None:
    delta = DeltaTable()
    delta.replace({}, {ENDPOINTS: {b"a": b"1"}})
    plan = delta.plan()
    delta.replace({ENDPOINTS: {b"a": b"1"}}, {ENDPOINTS: {b"a": b"2"}})

    delta.confirm(plan, DONE)

    assert delta.actual_rows() == {ENDPOINTS: {b"a": b"1"}}
    assert brief(delta.plan()) == ["~endpoints b'a' b'1' b'2'"]


def test_observed_rows_are_adopted_repaired_or_removed() -> None:
    """Restart: equal rows are not written; drift: changed rows are put right, foreign ones go, missing ones come."""
    wanted: Rows = {ENDPOINTS: {b"a": b"1", b"b": b"2", b"c": b"3"}}
    found: Rows = {ENDPOINTS: {b"a": b"1", b"b": b"x", b"z": b"9"}, FRONTENDS: {b"f": b"old"}}
    for observe_first in (True, False):
        delta = DeltaTable()
        if observe_first:
            delta.observe(found)
        delta.replace({}, wanted)
        if not observe_first:
            delta.observe(found)

        assert brief(delta.plan()) == [
            "~endpoints b'b' b'x' b'2'",
            "+endpoints b'c' None b'3'",
            "-frontends b'f' b'old' None",
            "-endpoints b'z' b'9' None",
        ]
        assert delta.actual_rows() == found


def test_a_new_observation_forgets_what_was_known() -> None:
    delta = settled({ENDPOINTS: {b"a": b"1"}})

    delta.observe({})
    assert brief(delta.plan()) == ["+endpoints b'a' None b'1'"]

    delta.observe({ENDPOINTS: {b"a": b"1"}})
    assert delta.is_clean


def test_shared_row_stays_until_its_last_owner_goes() -> None:
    rows: Rows = {HAIRPIN: {b"pod": b""}}
    delta = settled(rows, rows, rows)

    delta.replace(rows, {})
    delta.replace(rows, {})
    assert delta.is_clean
    assert delta.desired_rows() == rows

    delta.replace(rows, {})
    assert brief(delta.plan()) == ["-hairpin b'pod' b'' None"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_row_passes_from_owner_to_owner_in_any_order(order: tuple[int, ...]) -> None:
    """Three Services swap a frontend in one round; only the end of the round counts."""
    old: list[Rows] = [{FRONTENDS: {b"vip1": b"a"}}, {FRONTENDS: {b"vip2": b"b"}}, {FRONTENDS: {b"vip3": b"c"}}]
    new: list[Rows] = [{FRONTENDS: {b"vip2": b"a"}}, {FRONTENDS: {b"vip3": b"b"}}, {FRONTENDS: {b"vip1": b"c"}}]
    delta = settled(*old)

    for owner in order:
        delta.replace(old[owner], new[owner])

    assert delta.desired_rows() == {FRONTENDS: {b"vip2": b"a", b"vip3": b"b", b"vip1": b"c"}}
    assert delta.pending() == 3
    assert len(delta.plan().operations) == 3
    for owner in reversed(order):
        delta.replace(new[owner], {})
    assert delta.desired_rows() == {}


def test_owners_of_a_shared_row_may_change_its_value_one_after_the_other() -> None:
    """As when the facts of the node change and every Service is rendered anew."""
    old, new = {HAIRPIN: {b"pod": b"1"}}, {HAIRPIN: {b"pod": b"2"}}
    delta = settled(old, old)

    delta.replace(old, new)
    with pytest.raises(ValueError, match=r"hairpin.*pod.*different values"):
        delta.plan()
    delta.replace(old, new)

    assert brief(delta.plan()) == ["~hairpin b'pod' b'1' b'2'"]


def test_two_owners_of_a_row_that_is_not_shared_are_refused() -> None:
    rows: Rows = {FRONTENDS: {b"vip": b"pick-1"}}
    delta = settled(rows)

    delta.replace({}, rows)
    with pytest.raises(ValueError, match=r"frontends is not shared.*vip"):
        delta.plan()

    delta.replace(rows, {})
    assert delta.plan() == Plan()


@pytest.mark.parametrize("old", [{b"never": b"1"}, {b"a": b"2"}])
def test_giving_up_a_row_nobody_wanted_is_an_error(old: dict[bytes, bytes]) -> None:
    delta = settled({ENDPOINTS: {b"a": b"1"}})

    with pytest.raises(ValueError, match="nobody wanted it"):
        delta.replace({ENDPOINTS: dict(old)}, {})


class CountedKey(bytes):
    """A key that counts how often a dictionary looked at it."""

    touched = 0

    def __hash__(self) -> int:
        CountedKey.touched += 1
        return bytes.__hash__(self)

    def __eq__(self, other: object) -> bool:
        return bytes.__eq__(self, other) is True


@pytest.mark.parametrize("services", [10, 3000])
def test_the_cost_of_a_change_does_not_depend_on_the_size_of_the_table(services: int) -> None:
    def rows(number: int) -> Rows:
        return {ENDPOINTS: {CountedKey(b"%d.%d" % (number, slot)): b"x" for slot in range(4)}}

    delta = settled(*map(rows, range(services)))
    old, new = rows(5), rows(5)
    new[ENDPOINTS][CountedKey(b"5.4")] = b"y"
    CountedKey.touched = 0

    delta.replace(old, new)
    plan = delta.plan()
    delta.confirm(plan, DONE)

    assert [o.key for o in plan.operations] == [b"5.4"]
    assert delta.is_clean
    assert CountedKey.touched < 40


def test_copies_handed_out_are_the_callers() -> None:
    delta = settled({ENDPOINTS: {b"a": b"1"}})

    delta.desired_rows()[ENDPOINTS].clear()
    delta.actual_rows()[ENDPOINTS].clear()

    assert delta.desired_rows() == delta.actual_rows() == {ENDPOINTS: {b"a": b"1"}}


def test_what_the_caller_does_to_its_rows_later_does_not_matter() -> None:
    rows: Rows = {ENDPOINTS: {b"a": b"1"}}
    delta = DeltaTable()
    delta.replace({}, rows)
    rows[ENDPOINTS][b"b"] = b"2"

    assert delta.plan().operations == (Operation(Verb.ADD, ENDPOINTS, b"a", None, b"1"),)
