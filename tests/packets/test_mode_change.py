"""
From one data plane to the other on a live host: Services move over without a moment in which a new connection fails, open
connections go on, and nothing of the other data plane is left (16.1, 16.2).
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.holdings import HOLDINGS
from tests.lab.netns import PATIENCE
from tests.lab.objects import node, port, service, service_cidr, slice_of
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, REMOTE, ask, assert_served_by, begin, eventually, names, shop, who
from tests.lab.world import World

pytestmark = [pytest.mark.dataplane("ipvs"), pytest.mark.needs("nf_tables")]
WEB, DNS, EMPTY, STICKY = "10.96.0.10", "10.96.0.53", "10.96.0.20", "10.96.0.30"
OBJECTS = [
    node(NODE[4]), service_cidr("10.96.0.0/16"),
    service("web", WEB, port(80, node_port=30080)), slice_of("web", *ENDPOINTS[4], remote=REMOTE),
    service("dns", DNS, port(53, "UDP")), slice_of("dns", *ENDPOINTS[4], remote=REMOTE, protocol="UDP"),
    service("empty", EMPTY),
    service("sticky", STICKY, affinity_s=600), slice_of("sticky", *ENDPOINTS[4], remote=REMOTE),
]  # fmt: skip
LEAVES_S = 30.0 * PATIENCE
"""How long the old data plane may take to go."""


class Asker:
    """
    A client that makes one new connection after the other, in a thread of its own: by turns, one way after the other.

    Attributes:
        seen: what became of them, counted.
    """

    def __init__(self, world: World, ways: list[tuple[str, str, int, str]]) -> None:
        self.seen: Counter[str] = Counter()
        self._world = world
        self._ways = ways
        self._running = True
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def stop(self) -> Counter[str]:
        """End it; return what became of the connections."""
        self._running = False
        self._thread.join()
        return self.seen

    def _ask(self) -> None:
        # On one processor an agent must get its turn.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        good = names(*ENDPOINTS[4])
        for source, to, number, protocol in itertools.cycle(self._ways):
            if not self._running:
                return
            outcome = ask(self._world, source, to, number, protocol)
            answered = "answered" if outcome.server in good else f"{outcome} ({source} to {to}:{number}/{protocol})"
            self.seen[answered] += 1


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A node that serves with nftables."""
    with shop(OBJECTS, tmp_path) as world:
        world.agent.mode = "nftables"
        yield begin(world, OBJECTS)
        world.clean_up()


def change(world: World, mode: str) -> None:
    """Restart the agent with another data plane and wait until nothing of the old one is left."""
    world.agent.stop()
    world.agent.mode = mode
    world.agent.start()
    eventually(lambda: is_alone(world), world, LEAVES_S)


def is_alone(world: World) -> bool:
    """Tell whether nothing is left of another data plane; ipvs goes on with as much of nftables as it needs."""
    if world.agent.mode == "nftables":
        return not HOLDINGS["ipvs"].ours(world.node.namespace)
    return WEB not in HOLDINGS["nftables"].ours(world.node.namespace)


@pytest.mark.parametrize("source", [POD[4], CLIENT[4]])
def test_open_connections_go_on(world: World, source: str) -> None:
    """Whoever was connected through the old data plane stays connected to the same endpoint, under the same name."""
    flow = world.flow("TCP", source, WEB, 80)
    before = flow.ask()
    change(world, "ipvs")
    assert flow.ask() == before

    other = world.flow("TCP", source, WEB, 80)
    through_ipvs = other.ask()
    world.agent.stop()
    world.agent.mode = "nftables"
    world.agent.start()
    assert flow.ask() == before
    assert other.ask() == through_ipvs
    other.close()
    flow.close()
    eventually(lambda: is_alone(world), world, LEAVES_S)


def test_what_changed_meanwhile_is_right_in_the_new_one(world: World) -> None:
    """A Service that lost an endpoint while no agent ran is served by the others only, in the new data plane at once."""
    world.agent.stop()
    world.agent.write([slice_of("web", *ENDPOINTS[4][:2])], mark=False)
    world.agent.mode = "ipvs"
    world.agent.start()

    assert_served_by(world, names(*ENDPOINTS[4][:2]), POD[4], WEB)
    eventually(lambda: is_alone(world), world, LEAVES_S)
    assert_served_by(world, names(*ENDPOINTS[4][:2]), POD[4], WEB)


def test_clients_are_remembered_by_the_same_tables(world: World) -> None:
    """A9: what nftables carries in either mode goes through the change as if there were none."""
    before = {source: who(world, source, STICKY) for source in (POD[4], CLIENT[4])}
    assert all(len(servers) == 1 for servers in before.values())
    for mode in ("ipvs", "nftables"):
        change(world, mode)
        assert {source: who(world, source, STICKY) for source in before} == before


def test_no_new_connection_fails_while_the_data_plane_changes(world: World) -> None:
    """From nftables to ipvs and back, asked by a pod, an outsider and the node all the while."""
    ways = [(POD[4], WEB, 80, "TCP"), (CLIENT[4], NODE[4], 30080, "TCP"), ("", WEB, 80, "TCP"), (POD[4], DNS, 53, "UDP"),
            (CLIENT[4], STICKY, 80, "TCP")]  # fmt: skip
    for mode in ("ipvs", "nftables"):
        asker = Asker(world, ways)
        try:
            change(world, mode)
        finally:
            seen = asker.stop()
        assert set(seen) == {"answered"}, f"{seen} {world.agent.log_tail()}"
        assert seen["answered"] > 100
        assert HOLDINGS[mode].ours(world.node.namespace)
        assert_served_by(world, names(*ENDPOINTS[4]), CLIENT[4], WEB)
        assert ask(world, POD[4], EMPTY).verdict == "refused"
        assert world.agent.kpx("diff").returncode == 0
