"""The loop: every reason to wake, and what is done about it. Each step waits for one reason; none of them sleeps."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from agent_builders import REFUSED_ERRNO, MemoryFlows, backends_of, eps, front, svc
from msgspec.structs import replace
from policy_builders import FACTS, addresses

from kpx.agent.announcing import Announcing
from kpx.agent.engine import Engine
from kpx.agent.handover import Handover
from kpx.agent.health import Health
from kpx.agent.lock import AgentLock, holder
from kpx.agent.loop import Agent
from kpx.agent.metrics import Metrics
from kpx.agent.notify import Notifier
from kpx.agent.reload import LiveSettings
from kpx.agent.serving import Serving
from kpx.agent.signals import Signals
from kpx.agent.surroundings import Surroundings
from kpx.cluster.events import Event, Upsert
from kpx.errors import KernelError, SourceError
from kpx.host.addresses import AddressFeed
from kpx.host.node import NodeSettings, node_facts
from kpx.model.addresses import Family
from kpx.model.endpointslice import Endpoint, EndpointSlice
from kpx.model.findings import Finding
from kpx.model.names import ObjectName
from kpx.model.node import Node
from tests.lab.memory_announcer import MemoryAnnouncer
from tests.lab.memory_dataplane import NODE_PORTS, MemoryDataplane
from tests.lab.memory_source import MemoryHost, MemorySource

LONG_S = 10.0
SETTINGS = NodeSettings(name="n1", detector=FACTS.local_detector, families=(Family.IPV4,))
EVENTS: tuple[Event, ...] = (svc("shop/a", "10.96.0.1"), eps("shop/a", "10.244.2.1"))


def node_settings(settings: LiveSettings | None) -> NodeSettings:
    """Return what is known of the node, which of the settings are only those tests change."""
    return replace(SETTINGS, masquerade_all=settings.config.masquerade_all) if settings else SETTINGS


class World:
    """An agent and everything around it, in memory but for signals, the lock and the notify socket."""

    def __init__(
        self,
        stack: ExitStack,
        watchdog_usec: int = 0,
        sync_period_s: float = 30.0,
        needs_node: bool = False,
        source: MemorySource | None = None,
        settings: LiveSettings | None = None,
    ) -> None:
        self.source = source or MemorySource(*EVENTS)
        self.next_sources: list[MemorySource] = []
        self.dataplane, self.former = MemoryDataplane(), MemoryDataplane()
        self.host = MemoryHost(("eth0", "192.0.2.1", 24))
        self.flows = MemoryFlows()
        self.lock_name = f"\0kpx-test-{uuid.uuid4().hex}"
        self.metrics = Metrics("memory")
        self.health = Health((Family.IPV4,), sync_period_s)
        self.systemd = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.systemd.bind(f"\0{uuid.uuid4().hex}")
        self.systemd.setblocking(False)
        name = "@" + self.systemd.getsockname()[1:].decode()
        stack.callback(self.dataplane.close)
        feed = stack.enter_context(closing(AddressFeed(self.host)))
        self.engine = Engine(self.dataplane, node_facts(SETTINGS, None, feed.current), self.flows, sync_period_s)
        self.serving = stack.enter_context(closing(Serving(self.engine.findings, self.health.is_healthy)))
        self.serving.start({})
        self.announcer = MemoryAnnouncer()
        around = Surroundings(
            open_source=self._open,
            lock=stack.enter_context(AgentLock(self.lock_name)),
            dataplane=self.dataplane,
            addresses=feed,
            signals=stack.enter_context(Signals()),
            facts_of=lambda node, host, servers: node_facts(node_settings(settings), node, host, servers),
            health=self.health,
            metrics=self.metrics,
            notifier=Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": str(watchdog_usec)}),
            handover=Handover("memory", {"old": lambda: self.former}),
            serving=self.serving,
            announcing=Announcing(self.announcer, "n1", self.engine.findings),
            needs_node=needs_node,
            settings=settings,
        )
        self.agent = Agent(self.engine, around, 0.0, sync_period_s)
        stack.callback(self.agent.close)

    def _open(self) -> MemorySource:
        if self.next_sources:
            self.source = self.next_sources.pop(0)
        return self.source

    def step_until(self, reached: Callable[[], bool]) -> None:
        """Step until a condition holds; every step must have a reason of its own."""
        deadline = time.monotonic() + LONG_S
        while not reached():
            assert time.monotonic() < deadline, "not reached"
            self.agent.step(LONG_S)

    def heard(self) -> list[bytes]:
        """Return what systemd has been told since the last call."""
        result = []
        while True:
            try:
                result.append(self.systemd.recv(4096))
            except BlockingIOError:
                return result

    def sample(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)

    def backends(self) -> list[str]:
        return backends_of(self.dataplane, "10.96.0.1")


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


@pytest.fixture
def running(world: World) -> World:
    world.agent.start()
    return world


def test_ready_is_said_after_the_first_sync(world: World) -> None:
    world.dataplane.broken = errno.EPERM
    with pytest.raises(KernelError):
        world.agent.start()
    assert not any(b"READY=1" in line for line in world.heard())


def test_start_makes_the_kernel_equal_and_says_so(running: World) -> None:
    assert running.backends() == ["10.244.2.1:8080"]
    assert running.heard() == [b"STATUS=1 Services, 3 rows in the kernel", b"READY=1"]
    assert running.health.healthz().status == 200


def test_source_that_cannot_be_read_at_start_is_fatal(world: World) -> None:
    world.source.failure = SourceError("no such directory")
    with pytest.raises(SourceError, match="no such directory"):
        world.agent.start()

    assert world.dataplane.plans == []


def test_event_is_written_in_the_step_that_hears_it(running: World) -> None:
    running.source.say(eps("shop/a", "10.244.2.9"))
    running.agent.step(LONG_S)

    assert running.backends() == ["10.244.2.9:8080"]
    assert running.sample("kpx_change_to_kernel_seconds_count") == 2
    assert running.sample("kubeproxy_sync_proxy_rules_endpoint_changes_total") == 2
    assert running.sample("kubeproxy_sync_proxy_rules_endpoint_changes_pending") == 0


def test_deadline_of_the_source_is_kept(running: World) -> None:
    running.source._later.append(eps("shop/a", "10.244.2.9"))
    running.source.wanted_at = time.monotonic() + 0.02

    running.step_until(lambda: running.backends() == ["10.244.2.9:8080"])


def test_flushed_table_is_filled_within_a_second(running: World) -> None:
    running.dataplane.flush()
    begun = time.monotonic()
    running.step_until(lambda: running.backends() == ["10.244.2.1:8080"])

    assert time.monotonic() - begun < 1.0
    assert running.sample("kpx_drift_repairs_total") == 1


def test_somebody_who_goes_on_flushing_is_answered_every_time(running: World) -> None:
    for _ in range(4):
        running.dataplane.flush()
        begun = time.monotonic()
        running.step_until(lambda: running.backends() == ["10.244.2.1:8080"])
        assert time.monotonic() - begun < 1.0


def test_new_address_answers_on_node_ports(running: World) -> None:
    """N5: by a notification, not at the next full sync."""
    running.host.change(("eth0", "192.0.2.7", 24))
    running.step_until(lambda: running.engine.facts.node_ips == addresses("192.0.2.7"))

    assert list(running.dataplane.kernel[NODE_PORTS[Family.IPV4]]) == list(addresses("192.0.2.7"))


def test_address_of_no_consequence_makes_no_round(running: World) -> None:
    running.dataplane.observed = 0
    running.host.change(("eth0", "192.0.2.1", 24), ("veth1", "10.244.1.1", 32))
    running.agent.step(LONG_S)

    assert running.dataplane.observed == 0


def asking(*external_ips: str) -> Event:
    """A Service that asks for external IPs."""
    (service, _) = EVENTS
    return Upsert(replace(service.object, external_ips=addresses(*external_ips)))


def test_an_external_ip_that_becomes_an_address_of_this_node_is_taken_back(running: World) -> None:
    """Decision 0021: only the Services that ask for it are compiled again, and nothing is read."""
    running.source.say(asking("192.0.2.7", "203.0.113.7"))
    running.agent.step(LONG_S)
    running.dataplane.observed = 0

    def answered() -> set[str]:
        frontends = (held.frontend for program in running.engine.programs.values() for _, held in program.frontends())
        return {str(frontend) for frontend in frontends} - {"10.96.0.1:80/TCP"}

    assert answered() == {"192.0.2.7:80/TCP", "203.0.113.7:80/TCP"}
    for here, left in ((["192.0.2.1", "192.0.2.7"], {"203.0.113.7:80/TCP"}), (["192.0.2.1"], answered())):
        running.host.change(*(("eth0", address, 24) for address in here))
        running.step_until(lambda left=left: answered() == left)
    assert running.dataplane.observed == 0


def test_addresses_of_the_api_server_are_learned_from_its_slices(running: World) -> None:
    server = ObjectName("default", "kubernetes")
    endpoint = Endpoint(*addresses("192.0.2.200"))
    running.source.say(asking("192.0.2.200"), Upsert(EndpointSlice(server, server, Family.IPV4, endpoints=(endpoint,))))
    running.agent.step(LONG_S)

    assert running.engine.facts.api_server_addresses == set(addresses("192.0.2.200"))
    (program,) = running.engine.programs.values()
    assert "192.0.2.200 is an address of the API server" in str(program.findings[0])


def test_own_node_object_decides_address_and_eligibility(running: World) -> None:
    node = Node(ObjectName("", "n1"), addresses=addresses("192.0.2.50"), eligible=False)
    running.source.say(Upsert(node))
    running.agent.step(LONG_S)

    assert running.engine.facts.node_ips == addresses("192.0.2.50")
    assert (running.health.healthz().status, running.health.livez().status) == (503, 200)


def test_refused_row_is_tried_again_by_itself() -> None:
    with ExitStack() as stack:
        world = World(stack, sync_period_s=0.05)
        world.dataplane.refused[("frontends", front("10.96.0.1"))] = REFUSED_ERRNO
        world.agent.start()
        assert len(world.engine.refusals) == 1
        world.dataplane.refused.clear()

        world.step_until(lambda: len(world.engine.refusals) == 0)
        assert world.health.livez().status == 200


def test_round_that_fails_as_a_whole_is_tried_again_and_counts_as_waiting() -> None:
    with ExitStack() as stack:
        world = World(stack, sync_period_s=0.05)
        world.agent.start()
        world.dataplane.broken = errno.ENOBUFS
        world.source.say(eps("shop/a", "10.244.2.9"))
        world.step_until(lambda: world.health.livez().status == 503)
        assert (world.sample("kpx_kernel_errors_total") or 0) > 0
        world.dataplane.broken = 0

        world.step_until(lambda: world.backends() == ["10.244.2.9:8080"])
        assert world.health.livez().status == 200


def test_source_that_fails_leaves_everything_and_comes_back(running: World, caplog: pytest.LogCaptureFixture) -> None:
    """16.5."""
    caplog.set_level(logging.INFO, "kpx.agent.hearing")
    running.source.failure = SourceError("gone")
    running.source.say(eps("shop/a", "10.244.2.9"))
    running.agent.step(LONG_S)
    assert running.backends() == ["10.244.2.1:8080"]
    running.source.failure = None

    running.step_until(lambda: running.backends() == ["10.244.2.9:8080"])
    assert [r.message for r in caplog.records] == ["the source failed; what it said stays in force", "the source is back"]


def test_findings_of_the_source_are_logged_when_they_come_and_go(running: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kpx.agent.status")
    for findings in ((Finding("a.yaml:3", "spec.ports", "is no list"),), ()):
        running.source.findings = findings
        running.source.say()
        running.agent.step(LONG_S)
        running.source.say()
        running.agent.step(LONG_S)

    assert [r.message for r in caplog.records] == [
        "a.yaml:3: spec.ports: is no list",
        "no longer: a.yaml:3: spec.ports: is no list",
    ]


def test_sighup_reads_everything_again(running: World) -> None:
    before = running.source
    running.next_sources = [MemorySource(svc("shop/b", "10.96.0.2"), eps("shop/b", "10.244.2.5"))]
    running.host.entries = [("eth0", "192.0.2.8", 24)]
    running.dataplane.observed = 0
    os.kill(os.getpid(), signal.SIGHUP)
    running.step_until(lambda: running.dataplane.observed > 0)

    assert before.closed
    assert running.engine.facts.node_ips == addresses("192.0.2.8")
    assert running.backends() == []
    assert backends_of(running.dataplane, "10.96.0.2") == ["10.244.2.5:8080"]
    running.source.say(eps("shop/b", "10.244.2.6"))
    running.agent.step(LONG_S)
    assert backends_of(running.dataplane, "10.96.0.2") == ["10.244.2.6:8080"]


def test_sighup_with_a_source_that_cannot_be_read_changes_nothing(running: World) -> None:
    old, broken = running.source, MemorySource(failure=SourceError("gone"))
    running.next_sources = [broken]
    os.kill(os.getpid(), signal.SIGHUP)
    running.step_until(lambda: broken.closed)
    old.say(eps("shop/a", "10.244.2.9"))
    running.agent.step(LONG_S)

    assert not old.closed
    assert running.backends() == ["10.244.2.9:8080"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_leaves_forwarding_in_place(running: World, number: int) -> None:
    """16.6."""
    held = {table: dict(rows) for table, rows in running.dataplane.kernel.items()}
    running.heard()
    os.kill(os.getpid(), number)
    running.agent.run()

    assert running.dataplane.kernel == held
    assert running.heard() == [b"STOPPING=1"]


def test_watchdog_is_patted_though_nothing_happens() -> None:
    with ExitStack() as stack:
        world = World(stack, watchdog_usec=20_000)
        world.agent.start()
        pats: list[bytes] = []
        deadline = time.monotonic() + LONG_S
        while len(pats) < 3:
            assert time.monotonic() < deadline
            world.agent.step(LONG_S)
            pats += [line for line in world.heard() if line == b"WATCHDOG=1"]


def test_idle_agent_sleeps(running: World) -> None:
    """Nothing is polled: without a reason a step ends only because the test limits it."""
    running.dataplane.observed = running.dataplane.affinity_reads = running.flows.listed = 0
    begun = time.monotonic()
    running.agent.step(0.05)

    assert time.monotonic() - begun >= 0.05
    assert (running.dataplane.observed, running.dataplane.affinity_reads, running.flows.listed) == (0, 0, 0)


def test_whoever_asks_for_the_lock_is_answered(running: World) -> None:
    for _ in range(40):
        assert holder(running.lock_name) == os.getpid()
        running.agent.step(LONG_S)


def test_start_is_announced_on_the_node(running: World) -> None:
    """Contract section 20, `Starting`."""
    ((what, _),) = running.announcer.told

    assert (str(what.about), what.reason, what.action, what.warning) == ("Node n1", "Starting", "Start", False)
    assert what.note.endswith("forwards Services with memory")


def test_round_the_kernel_refuses_is_announced_on_the_node(running: World) -> None:
    running.dataplane.broken = errno.EPERM
    running.source.say(svc("shop/b", "10.96.0.2"))
    running.step_until(lambda: "SyncFailed" in running.announcer.reasons)

    assert running.announcer.told[-1][0].note.startswith("the kernel could not be written or read: ")
