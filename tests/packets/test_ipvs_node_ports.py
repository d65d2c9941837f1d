"""Node ports with IPVS, which has a virtual server for each address: new addresses answer, VIPs never do (D9, D10, N1-N11)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.holdings import virtual_servers
from tests.lab.objects import node, port, service, service_cidr, slice_of
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, REMOTE, ask, assert_served_by, begin, eventually, names, shop, write
from tests.lab.world import ANY_EXTERNAL_IP, ELSEWHERE, World

pytestmark = pytest.mark.dataplane("ipvs")

WEB, OTHER = {4: "10.96.0.10", 6: "fd00:96::10"}, {4: "10.96.0.20", 6: "fd00:96::20"}
EXTERNAL = {4: "203.0.113.5", 6: "2001:db8:5::5"}
LATER = {4: "192.168.77.1", 6: "fd00:77::1"}
VERSIONS = pytest.mark.parametrize("v", [4, 6])
NODE_PORT = {4: 30080, 6: 30086}

OBJECTS = [
    node(*NODE.values()), service_cidr("10.96.0.0/16", "fd00:96::/112"),
    *(service(f"web{v}", WEB[v], port(80, node_port=NODE_PORT[v]), external_ips=[EXTERNAL[v]]) for v in (4, 6)),
    *(slice_of(f"web{v}", *ENDPOINTS[v], remote=REMOTE) for v in (4, 6)),
    *(service(f"other{v}", OTHER[v], port(80), port(8081, name="b")) for v in (4, 6)),
    *(slice_of(f"other{v}", ENDPOINTS[v][0]) for v in (4, 6)),
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A node all of whose addresses answer on node ports, a server of its own on that port included (R4)."""
    beside = [(EXTERNAL[v], NODE_PORT[v]) for v in (4, 6)]
    directory = tmp_path_factory.mktemp("ports")
    with shop(OBJECTS, directory, beside=beside, versions=(4, 6), node_ports=(), options=ANY_EXTERNAL_IP) as world:
        for number in NODE_PORT.values():
            world.responder.listen(world.node.namespace, "host", "TCP", "::", number)
        yield begin(world, OBJECTS)
        world.wind_up()


@VERSIONS
def test_a_node_port_answers_on_the_node_and_on_no_vip(world: World, v: int) -> None:
    """Neither on the Service's own addresses nor on those of another one (D9, N4, N11)."""
    assert_served_by(world, names(*ENDPOINTS[v]), CLIENT[v], NODE[v], NODE_PORT[v])
    assert_served_by(world, names(*ENDPOINTS[v]), "", NODE[v], NODE_PORT[v])
    for source in (POD[v], CLIENT[v], ""):
        assert ask(world, source, WEB[v], NODE_PORT[v]).verdict == "refused"
        assert ask(world, source, OTHER[v], NODE_PORT[v]).verdict == "refused"
        assert ask(world, source, EXTERNAL[v], NODE_PORT[v]).server == ELSEWHERE


@VERSIONS
def test_an_address_added_later_answers_and_stops_when_it_goes(world: World, v: int) -> None:
    """Addresses are followed as they come and go, without a word in any manifest (D10, N5)."""
    own = world.node.namespace
    assert ask(world, CLIENT[v], LATER[v], NODE_PORT[v]).server not in names(*ENDPOINTS[v])

    world.node.add_address(LATER[v])
    eventually(lambda: ask(world, CLIENT[v], LATER[v], NODE_PORT[v], timeout_s=0.2).server in names(*ENDPOINTS[v]), world)
    assert_served_by(world, names(*ENDPOINTS[v]), POD[v], LATER[v], NODE_PORT[v])
    assert ask(world, CLIENT[v], LATER[v], NODE_PORT[v]).seen in world.node.addresses

    own.ip(f"address del {LATER[v]}/{32 if v == 4 else 128} dev lo")
    world.node.addresses.remove(LATER[v])
    eventually(lambda: not any(LATER[v] in line for line in virtual_servers(own)), world)
    assert ask(world, CLIENT[v], LATER[v], NODE_PORT[v]).server not in names(*ENDPOINTS[v])


def test_loopback_does_not_answer(world: World) -> None:
    """127.0.0.1:nodePort is the host's own, as with kube-proxy's ipvs mode (N4, N6)."""
    assert ask(world, "", "127.0.0.1", NODE_PORT[4]).server == "host"
    assert ask(world, "", "::1", NODE_PORT[6]).server == "host"


def test_an_exact_claim_on_an_address_of_the_node_wins_and_gives_back(world: World) -> None:
    """An external IP that is this node's address, with the number of a node port, wins while it is there (V12)."""
    claim = service("claim", "10.96.0.40", port(NODE_PORT[4]), external_ips=[NODE[4]])
    write(world, claim, slice_of("claim", ENDPOINTS[4][1]))
    assert_served_by(world, names(ENDPOINTS[4][1]), CLIENT[4], NODE[4], NODE_PORT[4])
    assert_served_by(world, names(*ENDPOINTS[6]), CLIENT[6], NODE[6], NODE_PORT[6])

    world.agent.delete([{"kind": "Service", "namespace": "shop", "name": "claim"}])
    world.agent.catch_up()
    assert_served_by(world, names(*ENDPOINTS[4]), CLIENT[4], NODE[4], NODE_PORT[4])


def test_a_node_port_that_is_given_up_is_the_hosts_again(world: World) -> None:
    """And one that is taken shadows what the host has there (N9, N10)."""
    changed = service("web4", WEB[4], port(80), external_ips=[EXTERNAL[4]])
    write(world, changed)
    assert ask(world, CLIENT[4], NODE[4], NODE_PORT[4]).server == "host"

    write(world, *OBJECTS)
    assert_served_by(world, names(*ENDPOINTS[4]), CLIENT[4], NODE[4], NODE_PORT[4])
