"""
UDP clients that never stop talking while servers come and go (section 11): a flow must leave an endpoint that is gone, and must
not leave one that still serves. The shapes are those of Kubernetes' own tests (U8): numbers 37 and 49 of section 24.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kpx.kernel.conntrack import ConntrackFlows
from kpx.kernel.netlink import Netlink
from kpx.model.addresses import parse_address
from tests.lab.netns import PATIENCE
from tests.lab.objects import node, port, service, slice_of
from tests.lab.probes import Flow
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, begin, eventually, names, place, shop, write
from tests.lab.world import World

pytestmark = pytest.mark.dataplane

VIP, LOCAL, EXTERNAL, BALANCED = "10.96.0.10", "10.96.0.20", "203.0.113.5", "203.0.113.6"
NODE_PORT, NEXT_PORT = 30053, 30054
FIRST, SECOND, AWAY = ENDPOINTS[4]
STEADY_S = 0.5 * PATIENCE
OTHER_PORT = 9090


def dns(**spec: Any) -> dict[str, Any]:
    """The Service that is asked, on every kind of address."""
    ports = port(53, "UDP", NODE_PORT)
    whole = service("dns", VIP, ports, external_ips=[EXTERNAL], load_balancer_ips=[BALANCED])
    whole["spec"] |= spec
    return whole


def local() -> dict[str, Any]:
    """A Service whose ClusterIP leads to endpoints of this node only (#126934)."""
    whole = service("local", LOCAL, port(53, "UDP"))
    whole["spec"]["internalTrafficPolicy"] = "Local"
    return whole


def served_by(*addresses: str, of: str = "dns", to: int = 8080, **conditions: bool) -> dict[str, Any]:
    """The slice with these endpoints, one of which is on another node; `conditions` are of all of them."""
    whole = slice_of(of, *addresses, port=to, protocol="UDP", remote=[AWAY])
    for each in whole["endpoints"]:
        each["conditions"] |= conditions
    return whole


UNREADY = {"ready": False, "serving": False, "terminating": False}
DYING = {"ready": False, "serving": True, "terminating": True}
GONE = {"ready": False, "serving": False, "terminating": True}
OBJECTS = [
    node(NODE[4]), dns(), local(), served_by(FIRST, SECOND, AWAY), served_by(FIRST, SECOND, of="local"),
    slice_of("dns", FIRST, port=OTHER_PORT, protocol="UDP"),
]  # fmt: skip
WAYS = {
    "node port": (CLIENT[4], NODE[4], NODE_PORT),
    "ClusterIP": (POD[4], VIP, 53),
    "ClusterIP from the host": ("", VIP, 53),
    "external IP": (POD[4], EXTERNAL, 53),
    "load-balancer IP": (CLIENT[4], BALANCED, 53),
}


class Talker:
    """
    A client that asks from one port, again and again, whatever the answers, in a thread of its own.

    Attributes:
        heard: who answered last, "" for nobody. everybody: who answered since `forget`.
    """

    def __init__(self, world: World, source: str, to: str, number: int) -> None:
        self.heard = ""
        self.everybody: set[str] = set()
        self.asked = 0
        self._flow = Flow(place(world, source), "UDP", source, to, number)
        self._running = True
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def forget(self) -> None:
        self.everybody = set()
        self.asked = 0

    def close(self) -> None:
        self._running = False
        self._thread.join()
        self._flow.close()

    def _talk(self) -> None:
        while self._running:
            self.heard = self._flow.ask(0.05).server
            self.everybody.add(self.heard)
            self.asked += 1


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """All Services there, nobody serving yet."""
    with shop(OBJECTS, tmp_path) as world:
        yield begin(world, [node(NODE[4]), dns(), local(), served_by(), served_by(of="local")])
        world.clean_up()


@contextlib.contextmanager
def talking(world: World, way: tuple[str, str, int]) -> Iterator[Talker]:
    talker = Talker(world, *way)
    try:
        yield talker
    finally:
        talker.close()


def moves_to(world: World, talker: Talker, *servers: str, on: int = 8080) -> None:
    """Wait until the client, which is still the same flow to itself, hears one of these."""
    eventually(lambda: talker.heard in names(*servers, port=on), world)


def stays(world: World, talker: Talker) -> None:
    """The client goes on to hear whom it hears, a good many times over."""
    before = talker.heard
    talker.forget()
    eventually(lambda: talker.asked >= 20, world)
    assert talker.everybody == {before}, world.agent.log_tail()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_client_follows_servers_that_come_and_go(world: World, way: tuple[str, str, int]) -> None:
    """U8: from nobody to one, on to another on the same node, to one on another node, to nobody, and back."""
    with talking(world, way) as talker:
        for servers in ([FIRST], [SECOND], [AWAY], [], [FIRST]):
            write(world, served_by(*servers))
            if servers:
                moves_to(world, talker, *servers)
            else:
                eventually(lambda: talker.heard == "", world)


def test_a_client_of_a_local_policy_follows_too(world: World) -> None:
    """U8, #126934: with internalTrafficPolicy Local."""
    with talking(world, (POD[4], LOCAL, 53)) as talker:
        for server in (FIRST, SECOND, FIRST):
            write(world, served_by(server, of="local"))
            moves_to(world, talker, server)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_client_that_was_refused_is_served_once_somebody_is_ready(world: World, way: tuple[str, str, int]) -> None:
    """U8, #105657: it hammers a frontend whose only endpoint is not ready, then is."""
    with talking(world, way) as talker:
        write(world, served_by(FIRST, **UNREADY))
        stays(world, talker)
        assert talker.heard == ""
        write(world, served_by(FIRST))
        moves_to(world, talker, FIRST)


def test_a_client_follows_the_target_port(world: World) -> None:
    """U8, PR 130542: the same address with another port is another endpoint."""
    write(world, served_by(FIRST))
    with talking(world, WAYS["node port"]) as talker, talking(world, WAYS["ClusterIP"]) as other:
        moves_to(world, talker, FIRST)
        write(world, served_by(FIRST, to=OTHER_PORT))
        moves_to(world, talker, FIRST, on=OTHER_PORT)
        moves_to(world, other, FIRST, on=OTHER_PORT)


def test_a_client_stays_with_whoever_still_serves(world: World) -> None:
    """U6: others that come and go, an endpoint that ends in peace, another policy and a restart of the agent move nobody."""
    write(world, served_by(FIRST))
    with talking(world, WAYS["node port"]) as talker, talking(world, WAYS["ClusterIP"]) as inside:
        for each in (talker, inside):
            moves_to(world, each, FIRST)
        write(world, served_by(FIRST, SECOND, AWAY))
        for each in (talker, inside):
            stays(world, each)
        dying = served_by(FIRST, SECOND)
        dying["endpoints"][0]["conditions"] |= DYING
        write(world, dying)
        for each in (talker, inside):
            stays(world, each)
        world.agent.stop()
        world.agent.start()
        for each in (talker, inside):
            stays(world, each)
        write(world, served_by(SECOND))
        for each in (talker, inside):
            moves_to(world, each, SECOND)


def test_the_last_endpoint_keeps_its_clients_until_it_is_gone(world: World) -> None:
    """U4: nobody serves any more; who is listed may still answer, who is not cannot."""
    write(world, served_by(FIRST))
    with talking(world, WAYS["ClusterIP"]) as talker:
        moves_to(world, talker, FIRST)
        write(world, served_by(FIRST, **GONE))
        stays(world, talker)
        write(world, served_by())
        eventually(lambda: talker.heard == "", world)


def test_what_is_taken_away_takes_its_flows_along(world: World) -> None:
    """U5: an external IP, a node port, the Service; those who ask by what is left are not disturbed."""
    write(world, served_by(FIRST))
    with contextlib.ExitStack() as stack:
        by = {name: stack.enter_context(talking(world, way)) for name, way in WAYS.items()}
        for each in by.values():
            moves_to(world, each, FIRST)
        write(world, dns(externalIPs=[]))
        eventually(lambda: by["external IP"].heard == "", world)
        write(world, dns(externalIPs=[], ports=[port(53, "UDP", NEXT_PORT)]))
        eventually(lambda: by["node port"].heard == "", world)
        stays(world, by["ClusterIP"])
        world.agent.delete([{"kind": "Service", "namespace": "shop", "name": "dns"}])
        world.agent.catch_up()
        eventually(lambda: by["ClusterIP"].heard == by["load-balancer IP"].heard == "", world)


def test_a_released_node_port_leads_to_its_next_owner(world: World) -> None:
    """N10: a client that never stopped talking is heard by the other Service, and by nobody in between."""
    write(world, served_by(FIRST))
    with talking(world, WAYS["node port"]) as talker:
        moves_to(world, talker, FIRST)
        write(world, dns(ports=[port(53, "UDP")]))
        eventually(lambda: talker.heard == "", world)
        write(world, service("local", LOCAL, port(53, "UDP", NODE_PORT)), served_by(SECOND, of="local"))
        moves_to(world, talker, SECOND)


def test_a_stranger_with_the_same_port_number_is_left_alone(world: World) -> None:
    """U5, #49881: traffic through this node to somebody else's port of the same number goes on."""
    write(world, served_by(FIRST))
    world.responder.listen(world.host(AWAY).namespace, "stranger", "UDP", AWAY, NODE_PORT)
    with talking(world, (POD[4], AWAY, NODE_PORT)) as talker, talking(world, WAYS["node port"]) as client:
        eventually(lambda: talker.heard == "stranger", world)
        flow = tracked(world, AWAY)
        write(world, served_by(SECOND))
        moves_to(world, client, SECOND)
        assert tracked(world, AWAY) == flow


def tracked(world: World, to: str) -> list[int]:
    """The entries of connection tracking to an address at the node port, by their ids, which a new entry would not have."""
    with world.node.namespace.entered(), contextlib.closing(Netlink()) as netlink:
        found = [f for f in ConntrackFlows(netlink).udp(4) if (f.orig_dst, f.orig_dport) == (parse_address(to), NODE_PORT)]
    assert found
    return [one.id for one in found]


def test_a_service_that_comes_after_its_clients_is_heard_by_them(tmp_path: Path) -> None:
    """U5: their flows were tracked before any rule was there, untranslated, and would stay so for ever."""
    with shop(OBJECTS, tmp_path) as world:
        begin(world, [node(NODE[4])])
        with talking(world, (POD[4], EXTERNAL, 53)) as talker, talking(world, (CLIENT[4], NODE[4], NODE_PORT)) as client:
            stays(world, talker)
            write(world, dns(), served_by(FIRST))
            moves_to(world, talker, FIRST)
            moves_to(world, client, FIRST)
        world.clean_up()
