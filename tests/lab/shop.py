"""A small cluster that many tests share: one node, three endpoints, a pod and clients that ask, IPv4 and IPv6."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.lab.agent import Object
from tests.lab.flows import Expected, Row, endpoint_name
from tests.lab.netns import PATIENCE, Namespace
from tests.lab.probes import ANSWER_S, Outcome, probe
from tests.lab.topology import version
from tests.lab.world import NodeConfig, World

NODE = {4: "192.168.10.1", 6: "fd00:10::1"}
POD = {4: "10.244.1.9", 6: "fd00:244:1::9"}
CLIENT = {4: "192.0.2.7", 6: "2001:db8:2::7"}
ENDPOINTS = {
    4: ("10.244.1.1", "10.244.1.2", "10.244.2.1"),
    6: ("fd00:244:1::1", "fd00:244:1::2", "fd00:244:2::1"),
}
"""The last of each family is on another node."""

REMOTE = tuple(each[-1] for each in ENDPOINTS.values())
CLUSTER_CIDR = ("10.244.0.0/16", "fd00:244::/32")
SOON_S = 5.0 * PATIENCE
PATIENT_TIMES = 120
"""How many flows more may look for a server that none has met."""


def names(*addresses: str, port: int = 8080) -> set[str]:
    """How servers on these endpoints call themselves."""
    return {endpoint_name(each, port) for each in addresses}


def shop(
    objects: Sequence[Object],
    directory: Path,
    clients: Iterable[str] = (),
    beside: Iterable[tuple[str, int]] = (),
    versions: Sequence[int] = (4,),
    node_ports: tuple[str, ...] = ("primary",),
    options: tuple[str, ...] = (),
    protocol: str = "TCP",
) -> World:
    """
    Lay the cluster out; the agent is neither started nor given anything.

    Args:
        objects: whatever will ever be written; all endpoints in it are there from the start.
        clients: addresses outside that ask, besides `CLIENT`.
        beside: addresses and ports behind which a server of the lab listens, to be reached if kpx keeps out.
    """
    config = NodeConfig(
        "n1",
        tuple(NODE[v] for v in versions),
        tuple(each for each in CLUSTER_CIDR if version(each.partition("/")[0]) in versions),
        node_ports,
        versions=tuple(versions),
        options=options,
    )
    nobody = Expected("pass")
    askers = [("pod", POD[v]) for v in versions] + [("external", CLIENT[v]) for v in versions]
    askers += [("external", each) for each in clients]
    rows = [Row("asks", kind, source, NODE[version(source)], "TCP", 9, nobody) for kind, source in askers]
    rows += [Row("beside", "pod", POD[version(to)], to, protocol, port, nobody) for to, port in beside]
    return World(config, objects, rows, directory)


def begin(world: World, objects: Sequence[Object]) -> World:
    """Write the objects and start the agent."""
    world.agent.write(objects, mark=False)
    world.agent.start()
    return world


def write(world: World, *objects: Object) -> None:
    """Write objects and wait until they are in force."""
    world.agent.write(objects)
    world.agent.catch_up()


def place(world: World, source: str) -> Namespace:
    """Where an asker lives; "" is the node."""
    return world.host(source).namespace if source else world.node.namespace


def ask(world: World, source: str, to: str, port: int = 80, protocol: str = "TCP", timeout_s: float = ANSWER_S) -> Outcome:
    """Make one new flow; "" asks from the node."""
    return probe(place(world, source), protocol, source, to, port, timeout_s=timeout_s)


def who(world: World, source: str, to: str, port: int = 80, protocol: str = "TCP", times: int = 12) -> set[str]:
    """Make many new flows; return who answered them, "" standing for nobody."""
    return {ask(world, source, to, port, protocol).server for _ in range(times)}


def assert_served_by(
    world: World,
    servers: Collection[str],
    source: str,
    to: str,
    port: int = 80,
    protocol: str = "TCP",
    times: int = 12,
    why: str = "",
) -> None:
    """
    Make at least so many new flows; fail unless each of these servers answered one, and nobody else did.

    Whom chance has left out so far is waited for: of three endpoints, twelve flows miss one in 2 % of all tries.
    """
    reached = who(world, source, to, port, protocol, times)
    for _ in range(PATIENT_TIMES):
        if not reached < set(servers):
            break
        reached |= who(world, source, to, port, protocol, times=1)
    assert reached == set(servers), why


def eventually(true: Callable[[], Any], world: World, within_s: float = SOON_S) -> None:
    """Wait until something is true; fails after a time with the agent's last words."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"not so within {within_s} s: {world.agent.log_tail()}"
        time.sleep(0.01)
