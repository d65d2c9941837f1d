"""ClientIP affinity with IPVS, on every kind of address, also where the endpoint has another port (section 10, G5, A9)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.holdings import virtual_servers
from tests.lab.objects import node, port, service, slice_of
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, REMOTE, ask, begin, names, shop, who, write
from tests.lab.world import World

pytestmark = pytest.mark.dataplane("ipvs")

WEB, EXTERNAL, BALANCER, DNS = "10.96.0.10", "203.0.113.5", "203.0.113.6", "10.96.0.53"
SIX = "fd00:96::10"
CLIENTS = [f"192.0.2.{number}" for number in range(20, 32)]
TIMEOUT_S = 600
PORTS = (port(80, node_port=30080),)


def sticky(affinity_s: int = TIMEOUT_S) -> dict[str, object]:
    """The Service most tests ask: port 80, endpoints 8080, every kind of address."""
    return service("web", WEB, *PORTS, external_ips=[EXTERNAL], load_balancer_ips=[BALANCER], affinity_s=affinity_s)


OBJECTS = [
    node(*NODE.values()), sticky(), slice_of("web", *ENDPOINTS[4], remote=REMOTE),
    service("six", SIX, external_ips=["2001:db8:5::5"], affinity_s=TIMEOUT_S), slice_of("six", *ENDPOINTS[6], remote=REMOTE),
    service("dns", DNS, port(53, "UDP"), affinity_s=TIMEOUT_S), slice_of("dns", *ENDPOINTS[4], remote=REMOTE, protocol="UDP"),
]  # fmt: skip
WAYS = {
    "ClusterIP": (WEB, 80), "external IP": (EXTERNAL, 80), "load balancer": (BALANCER, 80), "node port": (NODE[4], 30080),
    "ClusterIP of IPv6": (SIX, 80), "external IP of IPv6": ("2001:db8:5::5", 80),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One sticky Service of each family and one of UDP, and a dozen clients."""
    with shop(OBJECTS, tmp_path_factory.mktemp("affinity"), clients=CLIENTS, versions=(4, 6)) as world:
        yield begin(world, OBJECTS)
        world.wind_up()


@pytest.mark.parametrize("way", list(WAYS))
def test_a_client_stays_with_its_endpoint(world: World, way: str) -> None:
    """All connections of a client reach one endpoint, though its port is not the Service's (A2)."""
    address, number = WAYS[way]
    v = 6 if ":" in address else 4
    for client in (CLIENT[v], POD[v]):
        reached = who(world, client, address, number, times=8)
        assert len(reached) == 1
        assert reached < names(*ENDPOINTS[v])


def test_clients_are_spread_over_all_endpoints(world: World) -> None:
    assert {ask(world, each, WEB).server for each in CLIENTS} == names(*ENDPOINTS[4])


def test_datagrams_from_new_ports_stay_too(world: World) -> None:
    """A7."""
    reached = {each: who(world, each, DNS, 53, "UDP", times=6) for each in CLIENTS}

    assert all(len(servers) == 1 for servers in reached.values())
    assert set().union(*reached.values()) == names(*ENDPOINTS[4])


def test_the_timeout_is_the_services(world: World) -> None:
    """On the virtual server of every address, and only there."""
    places = [f" {address}:{number} " for address, number in WAYS.values() if ":" not in address]
    lines = [line for line in virtual_servers(world.node.namespace) if line.startswith("-A")]
    ours = [line for line in lines if any(place in line for place in places)]

    assert len(ours) == 4
    assert all(f"-p {TIMEOUT_S}" in line for line in ours)


def test_who_is_kept_where_can_be_listed(world: World) -> None:
    """`kpx get affinity` names the client, the frontend it asked and the endpoint it is kept on."""
    server = ask(world, CLIENTS[0], EXTERNAL).server
    entries = json.loads(world.agent.kpx("get", "affinity", "-o", "json").stdout)["affinity"]
    mine = [entry for entry in entries if entry["client"] == CLIENTS[0] and EXTERNAL in json.dumps(entry)]

    assert len(mine) == 1
    assert server in json.dumps(mine)


def test_an_endpoint_that_goes_takes_its_clients_along_and_nobody_elses(world: World) -> None:
    """A4, G5: no new connection reaches it, though a template still points there; all others stay where they were."""
    before = {each: ask(world, each, WEB).server for each in CLIENTS}
    gone = before[CLIENTS[0]]
    left = [each for each in ENDPOINTS[4] if not gone.startswith(f"{each}:")]
    write(world, slice_of("web", *left, remote=REMOTE))

    for client, server in before.items():
        reached = who(world, client, WEB, times=4)
        assert len(reached) == 1
        assert reached == {server} if server != gone else reached < names(*left)
    write(world, slice_of("web", *ENDPOINTS[4], remote=REMOTE))


def test_a_restart_forgets_nobody(world: World) -> None:
    """The kernel keeps the clients, not the agent (A9)."""
    before = {each: ask(world, each, WEB).server for each in CLIENTS}
    world.agent.stop()
    assert {each: ask(world, each, WEB).server for each in CLIENTS} == before
    world.agent.start()
    assert {each: ask(world, each, WEB).server for each in CLIENTS} == before


def test_it_can_be_switched_off_and_on(world: World) -> None:
    """Off takes effect for new connections, and on again starts anew (A5); a timeout can be changed (A6)."""
    write(world, sticky(0))
    assert who(world, CLIENT[4], WEB) == names(*ENDPOINTS[4])
    assert who(world, CLIENT[4], NODE[4], 30080) == names(*ENDPOINTS[4])

    write(world, sticky(77))
    assert len(who(world, CLIENT[4], WEB, times=8)) == 1
    assert any("-p 77" in line for line in virtual_servers(world.node.namespace) if f"{WEB}:80 " in line)
    write(world, sticky())
