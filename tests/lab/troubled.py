"""
An agent on sockets that fail (`tests/lab/faults.py`), in this process: the real one, but for what it reads and who hears of it.

It programs the namespace of the calling thread, and goes through a short history of a small cluster.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections.abc import Iterator

from kpx.agent.announcing import Announcing
from kpx.agent.engine import Engine
from kpx.agent.handover import Handover
from kpx.agent.health import Health
from kpx.agent.lock import AgentLock
from kpx.agent.loop import Agent
from kpx.agent.metrics import Metrics
from kpx.agent.notify import Notifier
from kpx.agent.serving import Serving
from kpx.agent.signals import Signals
from kpx.agent.surroundings import Surroundings
from kpx.cluster.events import Event
from kpx.dataplanes.base import Dataplane
from kpx.dataplanes.composed import Composed
from kpx.dataplanes.ipvs.doors import Doors
from kpx.dataplanes.ipvs.plane import IpvsDataplane
from kpx.dataplanes.nftables.plane import NftablesDataplane
from kpx.dataplanes.registry import open_dataplane
from kpx.errors import CapabilityError, KernelError
from kpx.host.addresses import AddressFeed
from kpx.kernel.conntrack import ConntrackFlows
from kpx.kernel.ipset import IpSets
from kpx.kernel.iptables import Iptables
from kpx.kernel.ipvs import Ipvs
from kpx.kernel.netlink import NETLINK_GENERIC, NETLINK_NETFILTER
from kpx.model.addresses import Address, parse_address, parse_prefix
from kpx.model.facts import LocalDetector, NodeFacts
from kpx.reconcile.rows import Rows
from tests.lab import dataplane
from tests.lab.events import said, unsaid
from tests.lab.faults import Faults
from tests.lab.memory_announcer import MemoryAnnouncer
from tests.lab.memory_source import MemoryHost, MemorySource
from tests.lab.netns import PATIENCE, Namespace
from tests.lab.objects import port, service, service_cidr, slice_of

SYNC_PERIOD_S = 0.05
SETTLED_S = 20.0 * PATIENCE
FACTS = NodeFacts(
    "n1",
    node_port_addresses=frozenset(map(parse_address, ("192.168.10.1", "fd00:10::1"))),
    local_detector=LocalDetector(prefixes=(parse_prefix("10.244.0.0/16"), parse_prefix("fd00:244::/32"))),
)
ENDPOINTS = ("10.244.1.1", "10.244.1.2", "10.244.1.3")
COMMON = (
    service_cidr("10.96.0.0/16", "fd00:96::/112"),
    service("six", "fd00:96::10"), slice_of("six", "fd00:244:1::1"),
    service("dns", "10.96.0.53", port(53, "UDP")),
)  # fmt: skip
BEFORE = said(
    *COMMON, slice_of("dns", *ENDPOINTS[:2], protocol="UDP"),
    service("web", "10.96.0.10", port(80, node_port=30080), external_ips=["203.0.113.5"]), slice_of("web", *ENDPOINTS[:2]),
    service("gone", "10.96.0.30"), slice_of("gone", ENDPOINTS[0]),
    service("fading", "10.96.0.40"), slice_of("fading", ENDPOINTS[1]),
)  # fmt: skip
AFTER = said(
    *COMMON, slice_of("dns", *ENDPOINTS[1:], protocol="UDP"),
    service("web", "10.96.0.10", port(80, node_port=30080), affinity_s=600), slice_of("web", *ENDPOINTS[1:]),
    service("fading", "10.96.0.40"),
    service("fresh", "10.96.0.50", port(80, node_port=30050)), slice_of("fresh", ENDPOINTS[2]),
)  # fmt: skip
HISTORY = (BEFORE, AFTER, BEFORE)
"""What the source says: at the start, then, and then. The last step undoes the one before it, so a write that took effect though
it seemed to fail is wrong afterwards, and one that did not though it seemed to."""


def opened(stack: contextlib.ExitStack, faults: Faults) -> Dataplane:
    """The data plane of this run, on sockets that fail."""
    tables = NftablesDataplane(stack.enter_context(contextlib.closing(faults.netlink(NETLINK_NETFILTER))))
    if dataplane.CHOSEN == "nftables":
        return tables
    netlink = stack.enter_context(contextlib.closing(faults.netlink(NETLINK_NETFILTER)))
    generic = stack.enter_context(contextlib.closing(faults.netlink(NETLINK_GENERIC)))
    return Composed(IpvsDataplane(Doors(netlink, IpSets(netlink), Ipvs(generic), Iptables())), tables)


class Node:
    """An agent and what is around it, in the namespace of the calling thread."""

    def __init__(self, stack: contextlib.ExitStack, faults: Faults, events: list[Event]) -> None:
        self.source = MemorySource(*events)
        stack.callback(self.source.close)
        self.plane = opened(stack, faults)
        stack.callback(self.plane.close)
        flows = stack.enter_context(contextlib.closing(faults.netlink(NETLINK_NETFILTER)))
        self.engine = Engine(self.plane, FACTS, ConntrackFlows(flows), SYNC_PERIOD_S)
        health = Health(FACTS.families, SYNC_PERIOD_S)
        serving = stack.enter_context(contextlib.closing(Serving(self.engine.findings, health.is_healthy)))
        serving.start({})
        around = Surroundings(
            open_source=lambda: self.source,
            lock=stack.enter_context(AgentLock(f"\0kpx-test-{uuid.uuid4().hex}")),
            dataplane=self.plane,
            addresses=stack.enter_context(contextlib.closing(AddressFeed(MemoryHost(("eth0", "192.168.10.1", 24))))),
            signals=stack.enter_context(Signals()),
            facts_of=lambda *_: FACTS,
            health=health,
            metrics=Metrics(self.plane.name),
            notifier=Notifier({}),
            handover=Handover(self.plane.name, {}),
            serving=serving,
            announcing=Announcing(MemoryAnnouncer(), "n1", self.engine.findings),
        )
        self.agent = Agent(self.engine, around, 0.0, SYNC_PERIOD_S)
        stack.callback(self.agent.close)

    def hear(self, old: list[Event], new: list[Event]) -> None:
        """Let the source say what is different, and the agent do what it does at once."""
        self.source.say(*new, *unsaid(old, new))
        self.agent.step(0.0)

    @property
    def is_content(self) -> bool:
        """Whether the agent has nothing left to do that it knows of, and nothing to complain about."""
        return not self.engine.adrift and not self.engine.refusals and self.engine.deadline() is None

    def differences(self) -> dict[str, int]:
        """How many rows of each table are not as desired, as another process sees it."""
        with contextlib.closing(open_dataplane(dataplane.CHOSEN)) as other:
            held = other.observe().rows
        wanted = self.engine.delta.desired_rows()
        return {table.name: count for table in {*held, *wanted} if (count := _differing(held, wanted, table))}

    def frontends(self) -> set[Address]:
        """The addresses that are forwarded or refused, as another process sees it."""
        with contextlib.closing(open_dataplane(dataplane.CHOSEN)) as other:
            return {each.frontend.address for each in other.frontends_of(other.observe().rows)}

    def settle(self) -> None:
        """Step until all is as desired."""
        deadline = time.monotonic() + SETTLED_S
        while True:
            self.agent.step(0.02)
            if self.is_content and not (different := self.differences()):
                return
            assert not (self.is_content and different and self.is_idle()), f"a wrong kernel, and nobody says so: {different}"
            assert time.monotonic() < deadline, f"not as desired: {self.differences()}, {self.engine.refusals.every()}"

    def is_idle(self) -> bool:
        """Whether the agent stays content for some time though it may do what it wants."""
        until = time.monotonic() + 4 * SYNC_PERIOD_S
        while time.monotonic() < until:
            self.agent.step(0.02)
            if not self.is_content or not self.differences():
                return False
        return True


def _differing(held: Rows, wanted: Rows, table: object) -> int:
    one, other = held.get(table, {}), wanted.get(table, {})  # type: ignore[call-overload]
    return len(set(one.items()) ^ set(other.items()))


@contextlib.contextmanager
def started(faults: Faults) -> Iterator[Node]:
    """An agent that has begun; one that fails at its start says why and is started again, as systemd does it."""
    for _ in range(10):
        with contextlib.ExitStack() as stack:
            try:
                node = Node(stack, faults, HISTORY[0])
                node.agent.start()
            except (KernelError, CapabilityError):
                continue
            yield node
            return
    raise AssertionError("the agent did not start")


def live(faults: Faults) -> None:
    """Let an agent live through `HISTORY`; once the faults are over, all is as desired."""
    with started(faults) as node:
        for old, new in itertools.pairwise(HISTORY):
            node.hear(old, new)
        faults.end()
        node.settle()


@contextlib.contextmanager
def host() -> Iterator[Namespace]:
    """Where it all happens; this thread is in it."""
    namespace = Namespace("host")
    # IPVS wants a route to endpoints.
    namespace.ip("link add e type veth peer name f", "link set e up", "link set f up", "route add 10.244.0.0/16 dev e")
    try:
        with namespace.entered():
            yield namespace
    finally:
        namespace.close()
