"""Plans cut into batches: what is alike goes together, and nothing overtakes what it needs."""

from __future__ import annotations

from kpx.dataplanes.ipvs.apply import batches
from kpx.dataplanes.ipvs.schema import TABLES
from kpx.kernel.wire.ipvs import ServerSettings
from kpx.model.addresses import Family
from kpx.reconcile.diff import diff
from kpx.reconcile.plan import Plan
from kpx.reconcile.rows import Rows

RR, WRR = ServerSettings("rr", 0, 0), ServerSettings("wrr", 0, 0)
KEYS = [b"\x0a\x60\x00" + bytes((number,)) + b"\x06\x00\x50" for number in range(9)]


def rows(settings: dict[bytes, ServerSettings], family: Family = Family.IPV4) -> Rows:
    """Recorded virtual servers."""
    return {TABLES[family, "servers"]: dict.fromkeys(settings, b""), TABLES[family, "virtual-servers"]: dict(settings)}


def brief(plan: Plan) -> dict[str, list[str]]:
    return {
        family: [f"{verb.value}{table.name} x{len(operations)}" for verb, table, operations in those]
        for family, those in batches(plan).items()
    }


def test_a_first_sync_is_a_batch_a_table_in_the_order_of_ranks() -> None:
    wanted = rows(dict.fromkeys(KEYS, RR)) | rows(dict.fromkeys(KEYS[:2], RR), Family.IPV6)

    assert brief(diff({}, wanted)) == {
        "ip": ["+servers x9", "+virtual-servers x9"],
        "ip6": ["+servers x2", "+virtual-servers x2"],
    }


def test_additions_and_changes_that_take_turns_are_one_batch_each() -> None:
    before = dict.fromkeys(KEYS[::2], RR)

    assert brief(diff(rows(before), rows(dict.fromkeys(KEYS, WRR)))) == {
        "ip": ["+servers x4", "+virtual-servers x4", "~virtual-servers x5"]
    }


def test_what_goes_comes_after_what_is_written_and_is_its_own_batch() -> None:
    plan = diff(rows(dict.fromkeys(KEYS[:3], RR)), rows(dict.fromkeys(KEYS[1:7], WRR)))

    assert brief(plan) == {
        "ip": ["+servers x4", "+virtual-servers x4", "~virtual-servers x2", "-virtual-servers x1", "-servers x1"]
    }
    assert {o for batch in batches(plan)["ip"] for o in batch.operations} == set(plan.operations)


def test_a_plan_in_another_order_keeps_it() -> None:
    servers, virtual = diff({}, rows({KEYS[0]: RR})).operations
    record = servers._replace(key=KEYS[1])

    assert brief(Plan((servers, virtual, record))) == {"ip": ["+servers x1", "+virtual-servers x1", "+servers x1"]}


def test_an_empty_plan_has_no_batches() -> None:
    assert batches(Plan()) == {}
