"""
ClientIP affinity, which nftables carries in mode ipvs, too: shared by every address of a service port, with an exact timer,
also where the endpoint has another port (section 10, D13, A9). IPVS itself remembers nobody.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.lab.holdings import virtual_servers
from tests.lab.netns import PATIENCE
from tests.lab.objects import node, port, service, slice_of
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, REMOTE, ask, assert_served_by, begin, eventually, names, shop, who, write
from tests.lab.world import World

pytestmark = pytest.mark.dataplane

WEB, EXTERNAL, BALANCER, DNS, BRIEF = "10.96.0.10", "203.0.113.5", "203.0.113.6", "10.96.0.53", "10.96.0.20"
SIX = "fd00:96::10"
CLIENTS = [f"192.0.2.{number}" for number in range(20, 32)]
TIMEOUT_S = 600
BRIEF_S = int(3 * PATIENCE)
PORTS = (port(80, node_port=30080),)


def sticky(affinity_s: int = TIMEOUT_S) -> dict[str, object]:
    """The Service most tests ask: port 80, endpoints 8080, every kind of address."""
    return service("web", WEB, *PORTS, external_ips=[EXTERNAL], load_balancer_ips=[BALANCER], affinity_s=affinity_s)


OBJECTS = [
    node(*NODE.values()), sticky(), slice_of("web", *ENDPOINTS[4], remote=REMOTE),
    service("six", SIX, external_ips=["2001:db8:5::5"], affinity_s=TIMEOUT_S), slice_of("six", *ENDPOINTS[6], remote=REMOTE),
    service("dns", DNS, port(53, "UDP"), affinity_s=TIMEOUT_S), slice_of("dns", *ENDPOINTS[4], remote=REMOTE, protocol="UDP"),
    service("brief", BRIEF, affinity_s=BRIEF_S), slice_of("brief", *ENDPOINTS[4], remote=REMOTE),
]  # fmt: skip
WAYS = {4: ((WEB, 80), (EXTERNAL, 80), (BALANCER, 80), (NODE[4], 30080)), 6: ((SIX, 80), ("2001:db8:5::5", 80))}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One sticky Service of each family and one of UDP, and a dozen clients."""
    with shop(OBJECTS, tmp_path_factory.mktemp("affinity"), clients=CLIENTS, versions=(4, 6)) as world:
        yield begin(world, OBJECTS)
        world.wind_up()


@pytest.mark.parametrize("v", [4, 6])
def test_a_client_stays_with_its_endpoint_whichever_address_it_asks(world: World, v: int) -> None:
    """A1, A2: ClusterIP, external IP, load balancer and node port share what is remembered; IPVS alone cannot."""
    for client in (CLIENT[v], POD[v]):
        reached = {server for to, number in WAYS[v] for server in who(world, client, to, number, times=4)}
        assert len(reached) == 1
        assert reached < names(*ENDPOINTS[v])


def test_clients_are_spread_over_all_endpoints(world: World) -> None:
    assert {ask(world, each, WEB).server for each in CLIENTS} == names(*ENDPOINTS[4])


def test_datagrams_from_new_ports_stay_too(world: World) -> None:
    """A7."""
    reached = {each: who(world, each, DNS, 53, "UDP", times=6) for each in CLIENTS}

    assert all(len(servers) == 1 for servers in reached.values())
    assert set().union(*reached.values()) == names(*ENDPOINTS[4])


@pytest.mark.dataplane("ipvs")
def test_ipvs_remembers_nobody(world: World) -> None:
    """Its virtual servers are there for connections of other times, and none is persistent."""
    lines = [line for line in virtual_servers(world.node.namespace) if line.startswith("-A")]

    assert [line for line in lines if f"{WEB}:80 " in line]
    assert not [line for line in lines if " -p " in line]


def entries(world: World, client: str) -> list[dict[str, object]]:
    """Where a client is kept, as `kpx get affinity` lists it."""
    listed = json.loads(world.agent.kpx("get", "affinity", "-o", "json").stdout)["affinity"]
    return [entry for entry in listed if entry["client"] == client]


def test_who_is_kept_where_can_be_listed(world: World) -> None:
    """`kpx get affinity` names the client and the endpoint it is kept on, under every frontend of the Service (A1)."""
    server = ask(world, CLIENTS[0], EXTERNAL).server
    mine = [entry for entry in entries(world, CLIENTS[0]) if entry["service"] in (None, "shop/web") and ":53" not in str(entry)]

    assert len(mine) == 4
    assert all(server in str(entry["endpoint"]) for entry in mine)


def test_the_timer_runs_from_the_last_new_flow(world: World) -> None:
    """A3, D13: packets of a connection that is open all the while do not stretch it, nor do connections that ended."""
    flow = world.flow("TCP", CLIENTS[1], BRIEF, 80)
    began = time.monotonic()

    def forgotten() -> bool:
        assert flow.ask().server, "the connection itself lives on"
        return not [entry for entry in entries(world, CLIENTS[1]) if BRIEF in str(entry["frontend"])]

    assert not forgotten()
    eventually(forgotten, world, BRIEF_S + 10 * PATIENCE)
    assert time.monotonic() - began >= BRIEF_S
    flow.close()


def test_an_endpoint_that_goes_takes_its_clients_along_and_nobody_elses(world: World) -> None:
    """A4: no new connection reaches it; all other clients stay where they were."""
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
    assert_served_by(world, names(*ENDPOINTS[4]), CLIENT[4], WEB)
    assert_served_by(world, names(*ENDPOINTS[4]), CLIENT[4], NODE[4], 30080)

    write(world, sticky(77))
    assert len(who(world, CLIENT[4], WEB, times=8)) == 1
    assert {entry["timeoutSeconds"] for entry in entries(world, CLIENT[4]) if WEB in str(entry["frontend"])} == {77.0}
    write(world, sticky())
