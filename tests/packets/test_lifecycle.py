"""
The life of an agent beside other people: it starts, stops, dies and comes back, somebody edits what is its own, somebody else
has tables, sets and virtual servers of his own. Forwarding goes on all the while (16.2, 16.6, 16.9, A9).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import dataplane
from tests.lab.flows import Expected, Row
from tests.lab.holdings import HOLDINGS, left_behind
from tests.lab.netns import PATIENCE, Namespace
from tests.lab.probes import Flow, Outcome, probe
from tests.lab.ruleset import listed, nft
from tests.lab.world import NodeConfig, World
from tests.packets.tampers import BREAK, BY_PLANE, POD

pytestmark = pytest.mark.dataplane
HELD = HOLDINGS[dataplane.CHOSEN]
CLIENT = "192.0.2.7"
CLIENTS = [CLIENT, *(f"192.0.2.{number}" for number in range(8, 20))]
ENDPOINTS = ("10.244.1.1", "10.244.2.1", "10.244.1.2")
ALL = tuple(f"{address}:8080" for address in ENDPOINTS)
NOTICES = {"nftables": True, "ipvs": False}[dataplane.CHOSEN]
"""Whether the kernel tells what others do to the data plane; without that the agent looks after each --sync-period."""
SYNC_PERIOD_S = 60.0 * PATIENCE if NOTICES else 1.0
REPAIR_S = 5.0 * PATIENCE
"""Where the kernel tells, far less than the period of looking; else a busy machine's time for some periods."""

NODE = NodeConfig("n1", ("192.168.10.1",), ("10.244.0.0/16",), ("192.168.0.0/16",))


def service(name: str, address: str, node_port: int, **spec: object) -> dict[str, object]:
    """A Service with one port."""
    ports = [{"port": 80, "nodePort": node_port}]
    spec = {"type": "NodePort", "clusterIP": address, "ports": ports, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name}, "spec": spec}


def slice_of(name: str, *addresses: str) -> dict[str, object]:
    """The EndpointSlice of a Service."""
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "shop", "name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"port": 8080}],
        "endpoints": [{"addresses": [each], "nodeName": "n2" if each == "10.244.2.1" else "n1"} for each in addresses],
    }  # fmt: skip


NODE_OBJECT: dict[str, object] = {
    "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.168.10.1"}]},
}  # fmt: skip
BULK = {
    **service("bulk", "10.96.0.30", 30030),
    "spec": {"type": "NodePort", "clusterIP": "10.96.0.30", "ports": [{"port": 80, "nodePort": 30030, "protocol": "UDP"}]},
}
BULK_SLICE = {**slice_of("bulk", *ENDPOINTS), "ports": [{"port": 8080, "protocol": "UDP"}]}
OBJECTS: list[dict[str, object]] = [
    NODE_OBJECT,
    service("tomcat", "10.96.0.10", 30080), slice_of("tomcat", *ENDPOINTS),
    service("sticky", "10.96.0.20", 30020, sessionAffinity="ClientIP"), slice_of("sticky", *ENDPOINTS),
    BULK, BULK_SLICE,
]  # fmt: skip


def row(name: str, source: str, to: str, port: int) -> Row:
    """A row that expects all endpoints."""
    return Row(name, "pod" if source == POD else "external", source, to, "TCP", port, Expected("dnat", ALL))


TO_CLUSTER_IP = row("pod to ClusterIP", POD, "10.96.0.10", 80)
TO_NODE_PORT = row("outsider to node port", CLIENT, "192.168.10.1", 30080)
TO_STICKY = row("sticky client", CLIENT, "10.96.0.20", 80)._replace(sticky=True, sticky_group="client")
TO_BULK = (
    row("pod to UDP", POD, "10.96.0.30", 80)._replace(protocol="UDP"),
    row("outsider to UDP", CLIENT, "192.168.10.1", 30030)._replace(protocol="UDP"),
)
ROWS = (TO_CLUSTER_IP, TO_NODE_PORT, TO_STICKY, *(row(client, client, "10.96.0.20", 80) for client in CLIENTS), *TO_BULK)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A node with a running agent, three endpoints, and somebody else's things, which nothing that happens may touch."""
    with World(NODE, OBJECTS, ROWS, tmp_path) as world:
        HELD.plant(world.node.namespace)
        world.agent.run_options = ("--sync-period", str(SYNC_PERIOD_S))
        world.agent.write(OBJECTS, mark=False)
        world.agent.start()
        yield world
        world.clean_up()


@pytest.mark.dataplane("nftables")
def test_everything_can_be_named_on_the_command_line_of_nft(world: World) -> None:
    """A person can list each set, map and chain by its name: no name is a word of nft's grammar."""
    node = world.node.namespace
    for kind in ("set", "map", "chain"):
        names = [each["name"] for each in listed(node, "ip", kind)]
        assert names
        for name in names:
            nft(node, "list", kind, "ip", "kpx", name)


def works(world: World) -> None:
    """Every kind of row holds."""
    for each in (TO_CLUSTER_IP, TO_NODE_PORT, TO_STICKY):
        world.check(each)


def ask(world: World, source: str = POD, to: str = "10.96.0.10", port: int = 80) -> Outcome:
    """One new connection, impatiently."""
    return probe(world.host(source).namespace, "TCP", source, to, port, timeout_s=0.1)


@pytest.mark.parametrize("tamper", BY_PLANE[dataplane.CHOSEN])
def test_what_others_break_is_repaired_soon(world: World, tamper: Callable[[Namespace], None]) -> None:
    """It notices by notification or by looking, repairs, and says in the log that something was different."""
    node = world.node.namespace
    before = HELD.ours(node)
    said = len(world.agent.log.read_text())

    tamper(node)
    assert_repaired(world, lambda: HELD.ours(node) == before)

    works(world)
    assert world.agent.kpx("diff").returncode == 0
    assert world.agent.log.read_text()[said:].strip(), "a repair must be logged"


def assert_repaired(world: World, right: Callable[[], bool]) -> None:
    """Wait until something is right again, no longer than a repair may take."""
    since = time.monotonic()
    while not right():
        assert time.monotonic() < since + REPAIR_S, f"not repaired after {REPAIR_S} s: {world.agent.log_tail()}"


def test_repair_brings_connections_back(world: World) -> None:
    """The same by packets alone: soon after everything was flushed a connection is forwarded again."""
    BREAK[dataplane.CHOSEN](world.node.namespace)
    assert_repaired(world, lambda: ask(world).server in ALL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_forwarding_outlives_the_agent_and_a_restart_writes_nothing(world: World, number: signal.Signals) -> None:
    """Stopped or killed, new connections, open ones and affinity go on; the next start makes no write (16.2, 16.6, A9)."""
    world.check(TO_STICKY)
    connection = Flow(world.host(POD).namespace, "TCP", POD, "10.96.0.10", 80)
    server = connection.ask().server
    code = world.agent.stop(number)
    before = HELD.version(world.node.namespace)

    works(world)
    assert connection.ask().server == server
    world.agent.launch()
    works(world)

    assert code == (0 if number == signal.SIGTERM or number == signal.SIGINT else -signal.SIGKILL)
    assert connection.ask().server == server
    assert HELD.version(world.node.namespace) == before, f"a restart with nothing changed writes: {world.agent.log_tail()}"
    connection.close()


def test_what_changed_while_it_was_away_is_caught_up(world: World) -> None:
    """An endpoint that went while no agent ran gets no new connection after the start; an open one stays."""
    connection = Flow(world.host(POD).namespace, "TCP", POD, "10.96.0.10", 80)
    gone = connection.ask().server
    left = tuple(each for each in ALL if each != gone)
    world.agent.stop()

    world.agent.write([slice_of("tomcat", *(each.partition(":")[0] for each in left))], mark=False)
    world.agent.start()

    world.check(TO_CLUSTER_IP._replace(expected=Expected("dnat", left)))
    assert connection.ask().server == gone
    connection.close()


def test_a_second_agent_is_refused_and_changes_nothing(world: World) -> None:
    """One line, exit code 2 or more, and the first one goes on."""
    before = HELD.version(world.node.namespace)
    second = world.agent.kpx("run", check=False)

    assert second.returncode >= 2
    assert len(second.stderr.strip().splitlines()) == 1, second.stderr
    assert "Traceback" not in second.stderr
    assert HELD.version(world.node.namespace) == before
    world.agent.write([slice_of("tomcat", ENDPOINTS[0])])
    world.agent.catch_up()
    world.check(TO_CLUSTER_IP._replace(expected=Expected("dnat", ALL[:1])))


def test_cleanup_removes_what_is_ours_and_nothing_else(world: World) -> None:
    """After it no trace is left, what others have is as it was, and a second cleanup is no error."""
    node = world.node.namespace
    theirs = HELD.theirs(node)
    world.agent.stop()

    assert world.agent.bare("cleanup").returncode == 0
    assert HELD.theirs(node) == theirs
    assert left_behind(node) == ""
    assert ask(world).server not in ALL
    before = HELD.version(node)
    assert world.agent.bare("cleanup").returncode == 0
    assert HELD.version(node) == before


def test_what_others_have_is_left_alone(world: World) -> None:
    """Changes, repairs and restarts of ours never touch theirs."""
    node = world.node.namespace
    before = HELD.theirs(node)
    world.agent.write([slice_of("tomcat", ENDPOINTS[0]), service("more", "10.96.0.30", 30030)])
    world.agent.catch_up()
    BREAK[dataplane.CHOSEN](node)
    assert_repaired(world, lambda: ask(world).server == ALL[0])
    world.check(TO_CLUSTER_IP._replace(expected=Expected("dnat", ALL[:1])))
    world.agent.stop()
    world.agent.launch()

    assert HELD.theirs(node) == before


def test_sync_is_one_pass_and_diff_tells_whether_it_is_needed(world: World) -> None:
    """`kpx sync` does without an agent what the agent does; `kpx diff` exits 1 before and 0 after."""
    world.agent.stop()
    world.agent.write([slice_of("tomcat", ENDPOINTS[0])], mark=False)

    assert world.agent.kpx("diff", check=False).returncode == 1
    assert world.agent.kpx("sync").returncode == 0
    assert world.agent.kpx("diff").returncode == 0
    world.check(TO_CLUSTER_IP._replace(expected=Expected("dnat", ALL[:1])))


def test_an_address_added_to_the_node_answers_on_node_ports(world: World) -> None:
    """A range in --nodeport-addresses means what the host has now, not what it had at the start (N5)."""
    world.node.add_address("192.168.77.1")
    assert_repaired(world, lambda: ask(world, to="192.168.77.1", port=30080).server in ALL)


def test_affinity_is_void_for_an_endpoint_that_is_gone_and_kept_for_others(world: World) -> None:
    """Taking one endpoint away moves the clients that were on it and leaves all others where they were (A4)."""

    def reach(client: str) -> str | None:
        return probe(world.host(client).namespace, "TCP", client, "10.96.0.20", 80).server

    reached = {client: reach(client) for client in CLIENTS}
    gone = reached[CLIENT]
    assert set(reached.values()) > {gone}, "so many clients cannot all have reached one endpoint by chance"

    world.agent.write([slice_of("sticky", *(each for each in ENDPOINTS if not gone.startswith(f"{each}:")))])
    world.agent.catch_up()

    for client, server in reached.items():
        now = {reach(client) for _ in range(10)}
        assert len(now) == 1
        assert now == {server} if server != gone else now <= set(ALL) - {gone}


@pytest.mark.parametrize("size", [1400, 1473, 9000, 60000])
def test_fragmented_datagrams_reach_an_endpoint(world: World, size: int) -> None:
    """Only the first fragment carries ports; connection tracking puts them together before the rules look (P7)."""
    for source, (address, port) in ((POD, ("10.96.0.30", 80)), (CLIENT, ("192.168.10.1", 30030))):
        flow = Flow(world.host(source).namespace, "UDP", source, address, port)
        outcome = flow.ask(question_bytes=size)
        flow.close()
        assert outcome.server in ALL, f"{size} bytes to {address}:{port}: {outcome}"
