"""The engine: what it writes, what it leaves alone, and what it does when the kernel refuses."""

from __future__ import annotations

import errno
import logging

import msgspec
import pytest
from agent_builders import REFUSED_ERRNO, SYNCED, Clock, backends_of, cluster, eps, front, gone, started, svc
from policy_builders import FACTS, addresses, named

from kpx.agent.engine import SPELLED_ROWS, Engine
from kpx.cluster.events import Delete, Upsert
from kpx.errors import KernelError
from kpx.model.addresses import Family, parse_prefix
from kpx.model.endpointslice import EndpointSlice
from kpx.model.names import ObjectName
from kpx.model.node import Node, ServiceCIDR
from tests.lab.memory_dataplane import CIDRS, ENDPOINTS, FRONTENDS, HAIRPINS, NODE_PORTS, MemoryDataplane


@pytest.fixture
def dataplane() -> MemoryDataplane:
    return MemoryDataplane()


def test_nothing_is_touched_before_everything_has_been_heard(dataplane: MemoryDataplane) -> None:
    """S9: what the kernel holds from before stays until the source has spoken."""
    started(dataplane, *cluster("shop/a"))
    held = {table: dict(rows) for table, rows in dataplane.kernel.items()}
    restarted = started(dataplane, svc("shop/b", "10.96.0.9"))

    assert not restarted.round()
    assert dataplane.kernel == held

    restarted.fold([SYNCED])
    assert restarted.round().removed
    assert backends_of(dataplane, "10.96.0.1") == []


def test_compiling_early_does_nothing_and_forgets_nothing(dataplane: MemoryDataplane) -> None:
    engine = Engine(dataplane, FACTS)
    engine.fold([svc("shop/a", "10.96.0.1")])
    assert engine.compile() == {}
    engine.fold([SYNCED])

    assert list(engine.compile()) == [named("shop/a")]


def test_node_without_any_row_gets_its_constant_part(dataplane: MemoryDataplane) -> None:
    engine = Engine(dataplane, msgspec.structs.replace(FACTS, node_port_addresses=frozenset()))
    engine.fold([SYNCED])
    engine.round("start")

    assert dataplane.skeleton == set(Family)


def test_first_round_makes_the_kernel_equal(dataplane: MemoryDataplane) -> None:
    engine = started(dataplane, *cluster("shop/a", "shop/b"))

    assert backends_of(dataplane, "10.96.0.1") == ["10.244.2.1:8080", "10.244.2.2:8080"]
    assert backends_of(dataplane, "10.96.0.2") == ["10.244.2.1:8080", "10.244.2.2:8080"]
    assert not engine.difference()


def test_restart_with_nothing_changed_writes_nothing(dataplane: MemoryDataplane) -> None:
    events = cluster("shop/a", "shop/b")
    started(dataplane, *events)
    plans = len(dataplane.plans)
    started(dataplane, *events)

    assert len(dataplane.plans) == plans


def test_restart_writes_only_differences(dataplane: MemoryDataplane) -> None:
    started(dataplane, *cluster("shop/a", "shop/b"))
    started(dataplane, *cluster("shop/a", "shop/b"), eps("shop/b", "10.244.2.1"))
    plan = dataplane.plans[-1]

    assert {operation.table for operation in plan.operations} == {ENDPOINTS[Family.IPV4], FRONTENDS[Family.IPV4]}
    assert backends_of(dataplane, "10.96.0.2") == ["10.244.2.1:8080"]


def test_one_change_renders_one_service_and_reads_nothing(dataplane: MemoryDataplane) -> None:
    engine = started(dataplane, *cluster("shop/a", "shop/b", "shop/c"))
    dataplane.renders = dataplane.observed = 0
    engine.fold([eps("shop/b", "10.244.2.1", "10.244.2.3")])
    done = engine.round()

    assert (done.services, done.changed, dataplane.renders, dataplane.observed) == (1, 1, 2, 0)


def test_event_that_changes_nothing_makes_a_quiet_round(dataplane: MemoryDataplane) -> None:
    engine = started(dataplane, *cluster("shop/a"))
    engine.fold([eps("shop/a", "10.244.2.1", "10.244.2.2")])

    assert not engine.round()


def test_deleted_service_takes_its_rows_along_but_not_shared_ones(dataplane: MemoryDataplane) -> None:
    engine = started(dataplane, *cluster("shop/a", "shop/b"))
    local = Upsert(msgspec.structs.replace(_local_slice(eps("shop/a", "10.244.1.1"))))
    engine.fold([local, Upsert(_local_slice(eps("shop/b", "10.244.1.1")))])
    engine.round()
    engine.fold([gone("shop/a")])
    engine.round()

    assert backends_of(dataplane, "10.96.0.1") == []
    assert list(dataplane.kernel[HAIRPINS[Family.IPV4]]) == list(addresses("10.244.1.1"))
    assert named("shop/a") not in engine.programs


def _local_slice(event: Upsert) -> EndpointSlice:
    """Return the slice with its endpoints on this node, where they may reach themselves (M16)."""
    assert isinstance(event.object, EndpointSlice)
    endpoints = tuple(msgspec.structs.replace(one, node_name="n1") for one in event.object.endpoints)
    return msgspec.structs.replace(event.object, endpoints=endpoints)


def test_loser_of_a_claim_takes_over_when_the_winner_leaves(dataplane: MemoryDataplane) -> None:
    """V11, and the change of one Service compiles another."""
    old, young = svc("shop/old", "10.96.0.1", created="2020"), svc("shop/young", "10.96.0.1", created="2024")
    engine = started(dataplane, young, eps("shop/young", "10.244.2.9"), old, eps("shop/old", "10.244.2.1"), SYNCED)
    assert backends_of(dataplane, "10.96.0.1") == ["10.244.2.1:8080"]
    assert len(engine.findings.every()) == 1

    engine.fold([gone("shop/old")])
    engine.round()

    assert backends_of(dataplane, "10.96.0.1") == ["10.244.2.9:8080"]
    assert engine.findings.every() == []


def test_incremental_rounds_end_where_a_fresh_engine_does(dataplane: MemoryDataplane) -> None:
    engine = started(dataplane, *cluster("shop/a", "shop/b"))
    for events in (
        [eps("shop/a", "10.244.2.7")],
        [svc("shop/c", "10.96.0.7", affinity=60), gone("shop/b")],
        [eps("shop/c", "10.244.2.1"), svc("shop/a", "10.96.0.1", node_port=30080)],
        [Delete(EndpointSlice, ObjectName("shop", "a-1"))],
    ):
        engine.fold(events)
        engine.round()
    fresh = MemoryDataplane()
    services = [Upsert(service) for service in engine.view.services.values()]
    started(fresh, *services, *(Upsert(one) for name in engine.view.services for one in engine.view.slices_of(name)), SYNCED)

    assert {t: r for t, r in dataplane.kernel.items() if r} == {t: r for t, r in fresh.kernel.items() if r}


def test_new_facts_compile_and_prepare_everything_again(dataplane: MemoryDataplane) -> None:
    engine = started(dataplane, *cluster("shop/a", "shop/b"))
    engine.set_facts(msgspec.structs.replace(FACTS, masquerade_all=True, node_port_addresses=frozenset(addresses("192.0.2.9"))))
    done = engine.round()

    assert (done.reason, done.services, done.changed) == ("facts", 2, 2)
    assert list(dataplane.kernel[NODE_PORTS[Family.IPV4]]) == list(addresses("192.0.2.9"))
    assert not engine.difference()


def test_equal_facts_are_no_change(dataplane: MemoryDataplane) -> None:
    engine = started(dataplane, *cluster("shop/a"))
    engine.set_facts(msgspec.structs.replace(FACTS))

    assert not engine.round()
    assert dataplane.observed == 1


def test_service_cidr_shared_by_two_objects_stays_until_both_are_gone(dataplane: MemoryDataplane) -> None:
    """S8."""
    cidrs = [ServiceCIDR(ObjectName("", name), (parse_prefix("10.96.0.0/16"),)) for name in ("a", "b")]
    engine = started(dataplane, *map(Upsert, cidrs), SYNCED)
    rows = dataplane.kernel[CIDRS[Family.IPV4]]
    assert list(rows) == [parse_prefix("10.96.0.0/16")]
    for cidr, left in zip(cidrs, (1, 0), strict=True):
        engine.fold([Delete(ServiceCIDR, cidr.name)])
        engine.round()
        assert len(rows) == left


def test_own_node_is_the_one_of_this_name(dataplane: MemoryDataplane) -> None:
    mine, other = Node(ObjectName("", "n1"), zone="a"), Node(ObjectName("", "n2"))
    engine = started(dataplane, Upsert(other), Upsert(mine), SYNCED)

    assert engine.own_node == mine


class TestRefusedRows:
    """A row the kernel refuses is the business of its Service alone (16.11)."""

    def test_other_services_go_on(self, dataplane: MemoryDataplane, caplog: pytest.LogCaptureFixture) -> None:
        dataplane.refused[("frontends", front("10.96.0.1"))] = REFUSED_ERRNO
        with caplog.at_level(logging.ERROR, "kpx"):
            engine = started(dataplane, *cluster("shop/a", "shop/b"))

        assert backends_of(dataplane, "10.96.0.2") == ["10.244.2.1:8080", "10.244.2.2:8080"]
        assert [refused.service for refused in engine.refusals.every()] == [named("shop/a")]
        (record,) = caplog.records
        fields = record.kpx_fields  # type: ignore[attr-defined]
        assert str(fields["service"]) == "shop/a"
        assert fields["reason"] == "No space left on device"
        assert fields["row"].startswith("+ add row ip frontends 10.96.0.1:80/TCP :")

    def test_row_is_tried_again_when_its_time_has_come_and_not_before(self, dataplane: MemoryDataplane) -> None:
        clock = Clock()
        dataplane.refused[("frontends", front("10.96.0.1"))] = REFUSED_ERRNO
        engine = started(dataplane, *cluster("shop/a"), clock=clock)
        dataplane.refused.clear()
        assert not engine.round("retry")
        due = engine.deadline()
        assert due == clock.now + 1.0
        clock.now = due
        done = engine.round("retry")

        assert (done.added, done.refused, len(engine.refusals), engine.deadline()) == (1, 0, 0, None)
        assert not engine.difference()

    def test_pauses_grow_up_to_the_limit(self, dataplane: MemoryDataplane) -> None:
        clock = Clock()
        dataplane.refused[("frontends", front("10.96.0.1"))] = REFUSED_ERRNO
        engine = started(dataplane, *cluster("shop/a"), clock=clock)
        pauses = []
        for _ in range(7):
            due = engine.deadline()
            assert due is not None
            pauses.append(due - clock.now)
            clock.now = due
            assert engine.round("retry").refused == 1

        assert pauses == [1, 2, 4, 8, 16, 30, 30]

    def test_another_value_is_tried_at_once(self, dataplane: MemoryDataplane) -> None:
        dataplane.refused[("frontends", front("10.96.0.1"))] = REFUSED_ERRNO
        engine = started(dataplane, *cluster("shop/a"))
        dataplane.refused.clear()
        engine.fold([eps("shop/a", "10.244.2.1")])

        assert not engine.round().refused
        assert len(engine.refusals) == 0

    def test_the_same_failure_is_logged_once_and_its_end_once(
        self, dataplane: MemoryDataplane, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "kpx.agent.status")
        clock = Clock()
        dataplane.refused[("frontends", front("10.96.0.1"))] = REFUSED_ERRNO
        engine = started(dataplane, *cluster("shop/a"), clock=clock)
        for _ in range(3):
            clock.now += 60
            engine.round("retry")
        dataplane.refused.clear()
        clock.now += 60
        engine.round("retry")

        assert [r.message for r in caplog.records] == ["the kernel refuses rows", "the kernel no longer refuses rows"]

    def test_service_that_leaves_takes_its_refusal_along(self, dataplane: MemoryDataplane) -> None:
        dataplane.refused[("frontends", front("10.96.0.1"))] = REFUSED_ERRNO
        engine = started(dataplane, *cluster("shop/a"))
        engine.fold([gone("shop/a")])
        engine.round()

        assert (len(engine.refusals), engine.deadline()) == (0, None)

    def test_kernel_that_is_not_as_remembered_is_read_again(self, dataplane: MemoryDataplane) -> None:
        engine = started(dataplane, *cluster("shop/a"))
        dataplane.refused[("frontends", front("10.96.0.1"))] = errno.ENOENT
        engine.fold([eps("shop/a", "10.244.2.1")])
        engine.round()
        assert engine.adrift
        dataplane.refused.clear()

        assert engine.round().reason == "drift"
        assert not engine.adrift
        assert not engine.difference()

    def test_row_counts_follow_what_was_taken(self, dataplane: MemoryDataplane) -> None:
        dataplane.refused[("frontends", front("10.96.0.1"))] = REFUSED_ERRNO
        engine = started(dataplane, *cluster("shop/a", "shop/b"))
        engine.fold([gone("shop/b")])
        engine.round()

        assert {t: n for t, n in engine.row_counts.items() if n} == {t: len(r) for t, r in dataplane.kernel.items() if r}

    def test_family_fails_when_nothing_of_it_is_taken(self, dataplane: MemoryDataplane) -> None:
        keys = [("endpoints", (front("10.96.0.1"), slot)) for slot in (0, 1)]
        for key in (*keys, ("frontends", front("10.96.0.1")), ("nodeport-addresses", addresses("192.0.2.1")[0])):
            dataplane.refused[key] = REFUSED_ERRNO
        engine = Engine(dataplane, FACTS)
        engine.fold(cluster("shop/a"))

        assert engine.round("start").failed_families == {Family.IPV4}


class TestKernelThatFailsAsAWhole:
    """Nothing is believed of a kernel that failed in the middle: it is read again."""

    def test_it_is_read_and_made_equal_by_the_next_round(self, dataplane: MemoryDataplane) -> None:
        engine = started(dataplane, *cluster("shop/a"))
        dataplane.broken = errno.ENOBUFS
        engine.fold([eps("shop/a", "10.244.2.7")])
        with pytest.raises(KernelError):
            engine.round()
        dataplane.broken = 0
        dataplane.kernel.clear()
        done = engine.round()

        assert done.reason == "error"
        assert backends_of(dataplane, "10.96.0.1") == ["10.244.2.7:8080"]
        assert not engine.difference()

    def test_first_round_stays_a_first_one_until_it_succeeds(self, dataplane: MemoryDataplane) -> None:
        dataplane.broken = errno.ENOBUFS
        engine = Engine(dataplane, FACTS)
        engine.fold(cluster("shop/a"))
        with pytest.raises(KernelError):
            engine.round("start")
        assert not engine.first_sync_done
        dataplane.broken = 0

        assert engine.round("start").reason == "start"
        assert engine.first_sync_done


class TestDrift:
    """What somebody else changed is mended, and said (16.9)."""

    def test_flushed_table_is_filled_again(self, dataplane: MemoryDataplane) -> None:
        engine = started(dataplane, *cluster("shop/a", "shop/b"))
        dataplane.flush()
        done = engine.resync(["table deleted"])

        assert (done.reason, done.mended) == ("drift", ("IPv4 is missing", "IPv6 is missing"))
        assert not engine.difference()

    def test_differing_rows_are_spelled_up_to_a_number(
        self, dataplane: MemoryDataplane, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine = started(dataplane, *cluster(*(f"shop/s{number}" for number in range(8))))
        dataplane.kernel.clear()
        rows = sum(engine.row_counts.values())
        with caplog.at_level(logging.WARNING, "kpx"):
            engine.resync(["table flushed"])
        said = [record.message for record in caplog.records]

        assert said.count("somebody touched the tables of kpx") == 1
        assert said.count("row differs") == SPELLED_ROWS
        assert caplog.records[-1].kpx_fields == {"rows": rows - SPELLED_ROWS}  # type: ignore[attr-defined]

    def test_row_of_a_stranger_is_removed(self, dataplane: MemoryDataplane) -> None:
        engine = started(dataplane, *cluster("shop/a"))
        dataplane.kernel[FRONTENDS[Family.IPV4]][front("10.9.9.9")] = ("forward", 1, False, None)
        done = engine.resync()

        assert done.removed == 1
        assert front("10.9.9.9") not in dataplane.kernel[FRONTENDS[Family.IPV4]]

    def test_false_alarm_writes_nothing(self, dataplane: MemoryDataplane) -> None:
        engine = started(dataplane, *cluster("shop/a"))
        plans = len(dataplane.plans)

        assert not engine.resync(["chain added"])
        assert len(dataplane.plans) == plans


def test_reread_is_a_change_only_where_something_changed(dataplane: MemoryDataplane) -> None:
    engine = started(dataplane, *cluster("shop/a", "shop/b"))
    engine.reread([*cluster("shop/a"), eps("shop/a", "10.244.2.9")])
    done = engine.round()

    assert (done.reason, done.services) == ("reload", 2)
    assert backends_of(dataplane, "10.96.0.1") == ["10.244.2.9:8080"]
    assert backends_of(dataplane, "10.96.0.2") == []


def test_reread_of_the_same_is_quiet(dataplane: MemoryDataplane) -> None:
    engine = started(dataplane, *cluster("shop/a", "shop/b"))
    engine.reread(cluster("shop/a", "shop/b"))

    assert not engine.round()


def test_difference_writes_nothing(dataplane: MemoryDataplane) -> None:
    engine = Engine(dataplane, FACTS)
    engine.fold(cluster("shop/a"))
    difference = engine.difference()

    assert len(difference.plan.operations) == 4
    assert not difference.observed.present
    assert (dataplane.plans, dataplane.kernel, dataplane.skeleton) == ([], {}, set())


def test_lag_runs_from_the_reading_of_the_input(dataplane: MemoryDataplane) -> None:
    clock = Clock(100.0)
    engine = started(dataplane, *cluster("shop/a"), clock=clock)
    engine.fold([eps("shop/a", "10.244.2.1")])

    assert engine.round(read_at=99.5).lag_s == 0.5
