"""
Laws of reconciling: plans are minimal and legal at every step, and the delta table equals two plain dictionaries.

Rows of these tests point at rows of a lower rank, and a little kernel refuses every write that would leave one pointing at
nothing.
"""

from __future__ import annotations

import errno

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kpx.reconcile.delta import DeltaTable
from kpx.reconcile.diff import diff
from kpx.reconcile.plan import Failure, Operation, Outcome, Plan, Verb
from kpx.reconcile.rows import Rows, Table

FAMILIES = ("ip", "ip6")
RANKS = 3
TABLES = {(family, rank): Table(family, f"rank{rank}", rank, shared=True) for family in FAMILIES for rank in range(RANKS)}
EXCLUSIVE = Table("ip", "exclusive", RANKS)
KEYS = ("a", "b", "c")


class Pointing:
    """A kernel in which the value of a row is the key of a row one rank below, which must exist as long as it is pointed at."""

    def __init__(self, rows: Rows) -> None:
        self.rows: Rows = {table: dict(content) for table, content in rows.items()}

    def write(self, operation: Operation) -> None:
        """Carry out one operation; AssertionError when a kernel would refuse."""
        table, key = operation.table, operation.key
        content = self.rows.setdefault(table, {})
        if operation.verb is Verb.ADD:
            assert key not in content
        else:
            assert content[key] == operation.old
        if operation.verb is Verb.REMOVE:
            del content[key]
        else:
            content[key] = operation.new
        self.check()

    def check(self) -> None:
        for table, content in self.rows.items():
            if table.rank:
                below = self.rows.get(TABLES[table.family, table.rank - 1], {})
                assert set(content.values()) <= below.keys(), f"{table.name} points at nothing"

    def nonempty(self) -> Rows:
        return {table: content for table, content in self.rows.items() if content}


@st.composite
def legal_rows(draw: st.DrawFn) -> Rows:
    """Rows of both families in which nothing points at nothing."""
    rows: Rows = {}
    for family in FAMILIES:
        below: list[str] = []
        for rank in range(RANKS):
            values = st.sampled_from(below) if rank else st.just("")
            content = draw(st.dictionaries(st.sampled_from(KEYS), values)) if below or not rank else {}
            rows[TABLES[family, rank]] = dict(content)
            below = sorted(content)
    return rows


def differing_keys(actual: Rows, desired: Rows) -> int:
    cells = [{(t, k): v for t, content in rows.items() for k, v in content.items()} for rows in (actual, desired)]
    missing = object()
    return sum(cells[0].get(cell, missing) != cells[1].get(cell, missing) for cell in {**cells[0], **cells[1]})


def nonempty(rows: Rows) -> Rows:
    return {table: content for table, content in rows.items() if content}


@given(legal_rows(), legal_rows())
def test_every_step_of_a_plan_is_legal_and_the_last_arrives(actual: Rows, desired: Rows) -> None:
    """Also for each family alone, as data planes apply them (P1)."""
    plan = diff(actual, desired)
    kernel, by_family = Pointing(actual), Pointing(actual)

    for operation in plan.operations:
        kernel.write(operation)
    for family in reversed(FAMILIES):
        for operation in plan.of_family(family).operations:
            by_family.write(operation)

    assert nonempty(desired) == kernel.nonempty() == by_family.nonempty()


@given(legal_rows(), legal_rows())
def test_a_plan_has_one_operation_for_each_differing_row(actual: Rows, desired: Rows) -> None:
    plan = diff(actual, desired)

    assert differing_keys(actual, desired) == len(plan.operations)
    assert len({(o.table, o.key) for o in plan.operations}) == len(plan.operations)


@given(legal_rows())
def test_equal_rows_give_an_empty_plan(rows: Rows) -> None:
    assert diff(rows, {table: dict(content) for table, content in rows.items()}) == Plan()


@given(legal_rows(), legal_rows())
def test_the_delta_table_plans_what_the_stateless_difference_plans(actual: Rows, desired: Rows) -> None:
    delta = DeltaTable()
    delta.replace({}, desired)
    delta.observe(actual)

    assert diff(actual, desired) == delta.plan()
    assert delta.pending() == differing_keys(actual, desired)


OWNERS = ("s1", "s2", "s3")
SHARED = TABLES["ip", 1]
SHARED_VALUES = ("x", "y")


class Reconciling(RuleBasedStateMachine):
    """
    Owners come, change and go; the kernel is dumped, drifts, and refuses some writes.

    The model is one dictionary of what each owner wants and one of what the kernel holds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.delta = DeltaTable()
        self.wanted: dict[str, Rows] = {owner: {} for owner in OWNERS}
        self.kernel: dict[tuple[Table, object], object] = {}

    @initialize(rows=st.dictionaries(st.sampled_from(KEYS), st.sampled_from("xyz")))
    def start(self, rows: dict[str, str]) -> None:
        """There may be something in the kernel from before."""
        self.kernel = {(EXCLUSIVE, key): value for key, value in rows.items()}
        self.delta.observe(self.dump())

    def dump(self) -> Rows:
        rows: Rows = {}
        for (table, key), value in self.kernel.items():
            rows.setdefault(table, {})[key] = value
        return rows

    def desired(self) -> dict[tuple[Table, object], object]:
        return {(table, key): v for rows in self.wanted.values() for table, content in rows.items() for key, v in content.items()}

    @rule(
        order=st.permutations(OWNERS),
        owned=st.dictionaries(st.sampled_from(KEYS), st.tuples(st.sampled_from(OWNERS), st.sampled_from("xyz"))),
        shared=st.dictionaries(st.sampled_from(OWNERS), st.frozensets(st.sampled_from(KEYS))),
        values=st.fixed_dictionaries({key: st.sampled_from(SHARED_VALUES) for key in KEYS}),
        present=st.frozensets(st.sampled_from(OWNERS)),
    )
    def change(
        self,
        order: list[str],
        owned: dict[str, tuple[str, str]],
        shared: dict[str, frozenset[str]],
        values: dict[str, str],
        present: frozenset[str],
    ) -> None:
        """Exclusive rows are dealt out anew among owners, shared rows change value for all; told in any order."""
        for owner in order:
            rows: Rows = {}
            if owner in present:
                rows[EXCLUSIVE] = {key: value for key, (its, value) in owned.items() if its == owner}
                rows[SHARED] = {key: values[key] for key in shared.get(owner, ())}
            self.delta.replace(self.wanted[owner], rows)
            self.wanted[owner] = rows

    @rule(failing=st.frozensets(st.tuples(st.sampled_from([EXCLUSIVE, SHARED]), st.sampled_from(KEYS))))
    def write(self, failing: frozenset[tuple[Table, str]]) -> None:
        plan = self.delta.plan(skip=None)
        failures = []
        for operation in plan.operations:
            cell = (operation.table, operation.key)
            if cell in failing:
                failures.append(Failure(operation, errno.EBUSY, "Device or resource busy"))
            elif operation.verb is Verb.REMOVE:
                assert self.kernel.pop(cell) == operation.old
            else:
                assert self.kernel.get(cell) == operation.old
                self.kernel[cell] = operation.new
        self.delta.confirm(plan, Outcome(tuple(failures)))

    @rule(
        drift=st.dictionaries(
            st.tuples(st.sampled_from([EXCLUSIVE, SHARED]), st.sampled_from(KEYS)), st.sampled_from(["x", "foreign", None])
        )
    )
    def drift_and_dump(self, drift: dict[tuple[Table, object], str | None]) -> None:
        """Somebody else wrote and deleted rows; then the kernel is read back."""
        for cell, value in drift.items():
            if value is None:
                self.kernel.pop(cell, None)
            else:
                self.kernel[cell] = value
        self.delta.observe(self.dump())

    @invariant()
    def equals_two_dictionaries(self) -> None:
        desired = self.desired()
        differing = {cell for cell in {**desired, **self.kernel} if desired.get(cell) != self.kernel.get(cell)}

        assert self.dump() == self.delta.actual_rows()
        assert desired == {(t, k): v for t, content in self.delta.desired_rows().items() for k, v in content.items()}
        assert differing == {(o.table, o.key) for o in self.delta.plan().operations}
        assert len(differing) == self.delta.pending()
        assert self.delta.is_clean == (not differing)
        assert all(self.delta.diverges(*cell) for cell in differing)

    @invariant()
    def plan_does_not_depend_on_history(self) -> None:
        fresh = DeltaTable()
        for rows in reversed(self.wanted.values()):
            fresh.replace({}, rows)
        fresh.observe(self.dump())

        assert fresh.plan() == self.delta.plan()

    def teardown(self) -> None:
        """Every scenario ends with nothing."""
        for owner in OWNERS:
            self.delta.replace(self.wanted[owner], {})
        self.wanted = {owner: {} for owner in OWNERS}
        self.write(frozenset())
        assert self.kernel == {}
        assert self.delta.is_clean
        assert self.delta.desired_rows() == self.delta.actual_rows() == {}


TestReconciling = Reconciling.TestCase
TestReconciling.settings = settings(max_examples=60, stateful_step_count=20)


@given(st.lists(st.tuples(st.sampled_from(OWNERS), st.frozensets(st.sampled_from(KEYS)))))
def test_shared_rows_are_wanted_while_anybody_wants_them(steps: list[tuple[str, frozenset[str]]]) -> None:
    delta = DeltaTable()
    rows: dict[str, Rows] = {owner: {} for owner in OWNERS}
    for owner, keys in steps:
        new: Rows = {SHARED: dict.fromkeys(keys, "")}
        delta.replace(rows[owner], new)
        rows[owner] = new

        union = {key for each in rows.values() for key in each.get(SHARED, {})}
        assert delta.desired_rows().get(SHARED, {}).keys() == union
