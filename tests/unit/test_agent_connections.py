"""What is forgotten after a write, and what is left alone."""

from __future__ import annotations

import errno
import logging

import msgspec
import pytest
from agent_builders import SYNCED, Clock, MemoryFlows, eps, front, gone, started, svc
from policy_builders import FACTS, addresses

from kpx.agent.engine import Engine
from kpx.cluster.events import Upsert
from kpx.dataplanes.base import AffinityEntry
from kpx.errors import KernelError
from kpx.kernel.wire.conntrack import Flow
from kpx.model.addresses import Address, parse_address
from kpx.policy.desired import Backend
from tests.lab.memory_dataplane import MemoryDataplane

VIP = "10.96.0.1"


def entry(client: str, backend: str, vip: str = VIP) -> AffinityEntry:
    return AffinityEntry(parse_address(client), front(vip), Backend(parse_address(backend), 8080), 100.0, 10800.0)


def flow(backend: str, vip: str = VIP, port: int = 80, number: int = 1, reply_port: int = 8080) -> Flow:
    client, destination, server = addresses("10.244.1.7", vip, backend)
    return Flow(4, 17, client, destination, 4000 + number, port, server, reply_port, client, 4000 + number, 0, number)


@pytest.fixture
def dataplane() -> MemoryDataplane:
    return MemoryDataplane()


class TestAffinity:
    """Entries of endpoints that left are void at once (A4)."""

    def engine(self, dataplane: MemoryDataplane) -> Engine:
        both = eps("shop/a", "10.244.2.1", "10.244.2.2")
        other = (svc("shop/b", "10.96.0.2", affinity=60), eps("shop/b", "10.244.2.2"))
        return started(dataplane, svc("shop/a", VIP, affinity=60), both, *other, SYNCED)

    def test_clients_of_an_endpoint_that_left_are_freed_and_others_are_kept(self, dataplane: MemoryDataplane) -> None:
        engine = self.engine(dataplane)
        kept = [entry("1.1.1.1", "10.244.2.1"), entry("1.1.1.1", "10.244.2.2", "10.96.0.2")]
        dataplane.entries = [*kept, entry("1.1.1.2", "10.244.2.2")]
        engine.fold([eps("shop/a", "10.244.2.1", "10.244.2.3")])

        assert engine.round().affinity == 1
        assert dataplane.entries == kept

    def test_more_endpoints_cost_no_look_at_the_entries(self, dataplane: MemoryDataplane) -> None:
        engine = self.engine(dataplane)
        dataplane.affinity_reads = 0
        engine.fold([eps("shop/a", "10.244.2.1", "10.244.2.2", "10.244.2.3")])
        engine.round()

        assert dataplane.affinity_reads == 0

    def test_switching_it_off_forgets_everything_of_the_service(self, dataplane: MemoryDataplane) -> None:
        """A5."""
        engine = self.engine(dataplane)
        kept = entry("1.1.1.1", "10.244.2.2", "10.96.0.2")
        dataplane.entries = [entry("1.1.1.1", "10.244.2.1"), kept]
        engine.fold([svc("shop/a", VIP)])

        assert engine.round().affinity == 1
        assert dataplane.entries == [kept]

    def test_deleted_service_leaves_no_entry(self, dataplane: MemoryDataplane) -> None:
        engine = self.engine(dataplane)
        dataplane.entries = [entry("1.1.1.1", "10.244.2.1")]
        engine.fold([gone("shop/a")])
        engine.round()

        assert dataplane.entries == []

    def test_another_timeout_keeps_the_entries(self, dataplane: MemoryDataplane) -> None:
        """A6."""
        engine = self.engine(dataplane)
        dataplane.entries = [entry("1.1.1.1", "10.244.2.1")]
        engine.fold([svc("shop/a", VIP, affinity=120)])
        engine.round()

        assert len(dataplane.entries) == 1

    def test_restart_keeps_entries_that_fit_and_no_others(self, dataplane: MemoryDataplane) -> None:
        """A9, and endpoints that left while nobody watched."""
        fits = entry("1.1.1.1", "10.244.2.1")
        dataplane.entries = [fits, entry("1.1.1.2", "10.244.2.9"), entry("1.1.1.3", "10.244.2.1", "10.96.9.9")]
        self.engine(dataplane)

        assert dataplane.entries == [fits]


class TestUdpFlows:
    """Flows to endpoints that are gone are flushed (section 11)."""

    def engine(self, dataplane: MemoryDataplane, flows: MemoryFlows, *more: Upsert, clock: Clock | None = None) -> Engine:
        dns = (svc("shop/dns", VIP, udp=True), eps("shop/dns", "10.244.2.1", "10.244.2.2", udp=True))
        return started(dataplane, *dns, *more, SYNCED, flows=flows, clock=clock)

    def test_only_flows_to_the_endpoint_that_left_are_flushed(self, dataplane: MemoryDataplane) -> None:
        """U3, U6."""
        flows = MemoryFlows()
        engine = self.engine(dataplane, flows)
        stays, stranger = flow("10.244.2.1", number=1), flow("9.9.9.9", vip="9.9.9.9", number=3, reply_port=80)
        flows.flows = [stays, flow("10.244.2.2", number=2), stranger]
        engine.fold([eps("shop/dns", "10.244.2.1", udp=True)])

        assert engine.round().flows == 1
        assert flows.flows == [stays, stranger]

    def test_changes_of_tcp_services_list_no_flows(self, dataplane: MemoryDataplane) -> None:
        flows = MemoryFlows()
        engine = self.engine(dataplane, flows, svc("shop/web", "10.96.0.2"), eps("shop/web", "10.244.2.1", "10.244.2.2"))
        flows.listed = 0
        engine.fold([eps("shop/web", "10.244.2.1")])
        engine.round()

        assert flows.listed == 0

    def test_more_endpoints_list_no_flows(self, dataplane: MemoryDataplane) -> None:
        flows = MemoryFlows()
        engine = self.engine(dataplane, flows)
        flows.listed = 0
        engine.fold([eps("shop/dns", "10.244.2.1", "10.244.2.2", "10.244.2.3", udp=True)])
        engine.round()

        assert flows.listed == 0

    def test_start_looks_at_all_flows_once(self, dataplane: MemoryDataplane) -> None:
        """U5: a flow from before the Service existed goes to the address itself."""
        untranslated, good = flow(VIP, number=1, reply_port=80), flow("10.244.2.1", number=2)
        flows = MemoryFlows(untranslated, good)
        self.engine(dataplane, flows)

        assert flows.flows == [good]

    def test_service_that_went_while_nobody_watched_loses_its_flows(self, dataplane: MemoryDataplane) -> None:
        self.engine(dataplane, MemoryFlows())
        flows = MemoryFlows(flow("10.244.2.1"))
        started(dataplane, SYNCED, flows=flows)

        assert flows.flows == []

    def test_flows_from_the_time_of_a_flushed_table_are_looked_at(self, dataplane: MemoryDataplane) -> None:
        flows = MemoryFlows()
        engine = self.engine(dataplane, flows)
        flows.flows = [flow(VIP, number=1, reply_port=80)]
        dataplane.flush()

        assert engine.resync().flows == 1

    @pytest.mark.parametrize(("destination", "flushed"), [("192.0.2.1", 1), ("198.51.100.1", 0)])
    def test_node_port_flows_are_those_to_this_node(self, dataplane: MemoryDataplane, destination: str, flushed: int) -> None:
        """U5: a stranger with the same port number is left alone."""
        flows = MemoryFlows()
        engine = self.engine(dataplane, flows, svc("shop/np", "10.96.0.3", udp=True, node_port=30053))
        engine.fold([eps("shop/np", "10.244.2.1", "10.244.2.2", udp=True)])
        engine.round()
        flows.flows = [flow("10.244.2.2", vip=destination, port=30053)]
        engine.fold([eps("shop/np", "10.244.2.1", udp=True)])

        assert engine.round().flows == flushed

    def test_what_could_not_be_flushed_is_owed(self, dataplane: MemoryDataplane, caplog: pytest.LogCaptureFixture) -> None:
        clock = Clock()
        flows = BusyFlows()
        engine = self.engine(dataplane, flows, clock=clock)
        flows.flows = [flow("10.244.2.2")]
        flows.busy = True
        engine.fold([eps("shop/dns", "10.244.2.1", udp=True)])
        with caplog.at_level(logging.WARNING, "kpx"):
            assert engine.round().flows == 0
        assert [record.message for record in caplog.records] == ["stale UDP flows could not be deleted"]
        assert engine.deadline() == clock.now + 1.0
        flows.busy = False

        assert engine.round("retry").flows == 1
        assert engine.deadline() is None

    def test_one_family_that_cannot_be_listed_leaves_the_other_alone(self, dataplane: MemoryDataplane) -> None:
        """P1."""
        flows = BusyFlows()
        both = Upsert(msgspec.structs.replace(svc("shop/dns", VIP, udp=True).object, cluster_ips=addresses(VIP, "fd00::10")))
        engine = started(dataplane, both, eps("shop/dns", "10.244.2.1", udp=True), SYNCED, flows=flows)
        client, destination, server = addresses("fd00:244::7", "fd00::10", "fd00:244::1")
        flows.flows = [Flow(6, 17, client, destination, 4000, 80, server, 8080, client, 4000, 0, 9)]
        flows.busy_family = 4
        engine.fold([gone("shop/dns")])
        engine.round()

        assert flows.flows == []

    def test_a_table_that_never_kept_still_is_looked_at_again(self, dataplane: MemoryDataplane) -> None:
        """U9: what was seen is forgotten at once, what may have been missed with the next tries, though not for ever."""
        clock = Clock()
        flows = RestlessFlows()
        engine = self.engine(dataplane, flows, clock=clock)
        first, second = flow("10.244.2.2", number=1), flow("10.244.2.2", number=2)
        flows.flows, flows.hidden, flows.missed = [first, second], [second], True
        engine.fold([eps("shop/dns", "10.244.2.1", udp=True)])

        assert engine.round().flows == 1
        assert engine.deadline() == clock.now + 1.0
        flows.hidden = []
        assert engine.round("retry").flows == 1
        flows.listed = 0
        while engine.deadline() is not None:
            engine.round("retry")
        assert 0 < flows.listed < 10

    def test_an_external_ip_that_is_turned_away_loses_its_flows(self, dataplane: MemoryDataplane) -> None:
        """U5: an address that is taken away by a setting is taken away."""
        flows = MemoryFlows()
        asked = svc("shop/dns", VIP, udp=True)
        asked = Upsert(msgspec.structs.replace(asked.object, external_ips=addresses("203.0.113.5")))
        engine = started(dataplane, asked, eps("shop/dns", "10.244.2.1", udp=True), SYNCED, flows=flows)
        stays, goes = flow("10.244.2.1", number=1), flow("10.244.2.1", vip="203.0.113.5", number=2)
        flows.flows = [stays, goes]
        engine.set_facts(msgspec.structs.replace(engine.facts, external_ip_ranges=()))
        engine.round()

        assert flows.flows == [stays]


class RestlessFlows(MemoryFlows):
    """A conntrack table of which some flows are not seen."""

    hidden: list[Flow]

    def __init__(self) -> None:
        super().__init__()
        self.hidden = []

    def udp(self, family: int) -> list[Flow]:
        return [one for one in super().udp(family) if one not in self.hidden]


class BusyFlows(MemoryFlows):
    """A conntrack table that cannot be listed while `busy`."""

    busy = False
    busy_family = 0

    def udp(self, family: int) -> list[Flow]:
        if self.busy or family == self.busy_family:
            raise KernelError("list tracked flows", errno.ENOBUFS)
        return super().udp(family)


def test_facts_of_these_tests_have_a_node_port_address() -> None:
    assert Address(b"\xc0\x00\x02\x01") in FACTS.node_port_addresses
