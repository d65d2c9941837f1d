"""What the outside sees of an agent that runs: node eligibility, health at start, health-check node ports, and scrapes."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest
from agent_builders import SYNCED, eps, svc
from policy_builders import addresses, endpoint, named
from test_agent_loop import LONG_S, World

from kpx.agent.health import Health
from kpx.cluster.events import Delete, Event, Upsert
from kpx.model.addresses import Family
from kpx.model.endpointslice import EndpointSlice
from kpx.model.names import ObjectName
from kpx.model.node import Node
from kpx.model.service import Service
from kpx.sources.base import News
from tests.lab.http_client import ask
from tests.lab.memory_source import MemorySource

NODE = Node(ObjectName("", "n1"), addresses=addresses("127.0.0.1"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def balanced(port: int) -> Upsert:
    """A Service that wants to be told of at a health-check node port."""
    one = svc("shop/a", "10.96.0.1", node_port=30080).object
    assert isinstance(one, Service)
    return Upsert(msgspec.structs.replace(one, type="LoadBalancer", external_policy_local=True, health_check_node_port=port))


def local_endpoints(*states: str) -> Upsert:
    one = eps("shop/a").object
    assert isinstance(one, EndpointSlice)
    endpoints = tuple(endpoint(f"10.244.1.{number}", state, node="n1") for number, state in enumerate(states, 1))
    return Upsert(msgspec.structs.replace(one, endpoints=endpoints))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_node_a_cluster_does_not_know_is_not_for_load_balancers(stack: ExitStack) -> None:
    """15.1: and it is as soon as there is a Node object, until that goes."""
    world = World(stack, needs_node=True)
    world.agent.start()
    assert (world.health.healthz().status, world.health.livez().status) == (503, 200)
    for events, status in (((Upsert(NODE),), 200), ((Delete(Node, NODE.name),), 503)):
        world.source.say(*events)
        world.agent.step(LONG_S)
        assert (world.health.healthz().status, world.health.livez().status) == (status, 200)


def test_node_without_a_cluster_needs_no_node_object(stack: ExitStack) -> None:
    world = World(stack)
    world.agent.start()

    assert world.health.healthz().status == 200


class SlowSource(MemorySource):
    """A source that takes its time to list everything, and looks at the health of the agent meanwhile."""

    health: Health
    seen: int | None = None

    def start(self) -> News:
        self.wanted_at = time.monotonic() + 0.05
        self._later.append(SYNCED)
        return super().start()._replace(events=(svc("shop/a", "10.96.0.1"),))

    def poll(self) -> News:
        self.seen = self.seen or self.health.livez().status
        return super().poll()


def test_start_is_healthy_however_long_the_lists_take(stack: ExitStack) -> None:
    """15.1: the clock runs once everything was heard and is not yet written."""
    source = SlowSource()
    world = World(stack, sync_period_s=0.01, source=source)
    source.health = world.health
    world.agent.start()
    assert source.seen == 200
    world.dataplane.broken = errno.EIO
    world.source.say(svc("shop/a", "10.96.0.2"))
    world.step_until(lambda: world.health.livez().status == 503)


def test_load_balancers_are_told_after_the_round(stack: ExitStack) -> None:
    """H8: as soon as the kernel has it, and not while the kernel refuses."""
    place = ("127.0.0.1", free_port())
    events = (Upsert(NODE), balanced(place[1]), local_endpoints("ready"))
    world = World(stack, sync_period_s=0.05, source=MemorySource(*events))
    world.agent.start()
    # 127.0.0.1 is no node-port address, so without another the listener is nowhere (N2).
    assert len(world.serving.listening) == 0
    world.engine.set_facts(msgspec.structs.replace(world.engine.facts, node_port_any=frozenset({Family.IPV4})))
    world.source.say(local_endpoints("ready"))
    world.step_until(lambda: len(world.serving.listening) == 1)
    assert ask(place).headers["x-load-balancing-endpoint-weight"] == "1"
    world.dataplane.broken = errno.EIO
    world.source.say(local_endpoints("unready"))
    world.agent.step(LONG_S)
    assert ask(place).status == 200
    world.dataplane.broken = 0
    world.step_until(lambda: ask(place).status == 503)


def test_taken_port_is_tried_again_by_the_loop(stack: ExitStack) -> None:
    """H6: with nothing else to do."""
    world = World(stack)
    world.agent.start()
    port = free_port()
    event: Event = balanced(port)
    world.engine.set_facts(msgspec.structs.replace(world.engine.facts, node_port_any=frozenset({Family.IPV4})))
    with socket.create_server(("127.0.0.1", port)):
        world.source.say(event)
        world.agent.step(LONG_S)
        assert [finding.where for finding in world.engine.findings.every() if "listen" in finding.message] == ["Service shop/a"]
    world.serving.listening._retry_s = 0.01
    world.serving.act(world.serving.deadline() or 0.0)

    assert len(world.serving.listening) == 1
    assert world.engine.localities.checks[named("shop/a")].port == port
