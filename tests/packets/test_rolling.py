"""
Servers that come and go under clients that never stop asking: a rolling update, a restart of the agent in the midst of it, UDP
servers that cycle, and requests larger than a packet (sections 11 and 13).
"""

from __future__ import annotations

import socket
import threading
from functools import partial
from pathlib import Path

import pytest

from tests.lab.agent import Object
from tests.lab.netns import PATIENCE
from tests.lab.objects import node, port, service, slice_of
from tests.lab.probes import Flow
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, REMOTE, ask, begin, eventually, names, place, shop, write
from tests.packets.test_mode_change import Asker

pytestmark = pytest.mark.dataplane

WEB, LOCAL_WEB, BALANCER, BIG = "10.96.0.10", "10.96.0.20", "203.0.113.10", "10.96.0.30"
FIRST, SECOND, THIRD = ENDPOINTS[4]
MEGABYTE = 1 << 20
LARGE_S = 20.0 * PATIENCE
SCTP_MODULE = Path("/sys/module/sctp")


def policy(manifest: Object, **policies: str) -> dict[str, object]:
    """The same Service with traffic policies."""
    return {**manifest, "spec": {**manifest["spec"], **policies}}


@pytest.mark.parametrize("external", ["Cluster", "Local"])
def test_a_rolling_update_disturbs_nobody(tmp_path: Path, external: str) -> None:
    """G1, C2, C3, 16.2: no new connection fails while endpoints are replaced and the agent restarts; an open one stays."""
    web = service("web", WEB, port(80, node_port=30080), load_balancer_ips=[BALANCER])
    objects = [node(NODE[4]), policy(web, externalTrafficPolicy=external), slice_of("web", FIRST)]
    everywhere = slice_of("web", *ENDPOINTS[4], remote=REMOTE)
    with shop([*objects, everywhere], tmp_path) as world:
        begin(world, objects)
        ways = [
            (POD[4], WEB, 80, "TCP"),
            (CLIENT[4], BALANCER, 80, "TCP"),
            (CLIENT[4], NODE[4], 30080, "TCP"),
            ("", WEB, 80, "TCP"),
        ]
        connection = world.flow("TCP", CLIENT[4], BALANCER, 80)
        assert connection.ask().server == f"{FIRST}:8080"
        asker = Asker(world, ways)
        write(world, slice_of("web", FIRST, SECOND, terminating=[FIRST]))
        write(world, slice_of("web", SECOND))
        assert connection.ask().server == f"{FIRST}:8080"
        world.agent.stop()
        world.agent.start()
        write(world, slice_of("web", SECOND, FIRST, terminating=[SECOND]))
        write(world, slice_of("web", FIRST, THIRD, remote=REMOTE))
        write(world, slice_of("web", FIRST, terminating=[FIRST]))
        write(world, slice_of("web", SECOND, FIRST, terminating=[FIRST]))
        seen = asker.stop()
        assert set(seen) == {"answered"}, seen
        assert connection.ask().server == f"{FIRST}:8080"
        world.wind_up()


def test_datagrams_follow_servers_that_cycle(tmp_path: Path) -> None:
    """U4, U6, U8: pods and the node to ClusterIPs of either policy, an outsider to a load balancer, none of whom pauses."""
    dns = port(53, "UDP")
    services = [
        service("web", WEB, dns, load_balancer_ips=[BALANCER]),
        policy(service("local", LOCAL_WEB, dns), internalTrafficPolicy="Local"),
    ]
    sets = ([FIRST], [FIRST, SECOND], [SECOND], [], [FIRST])
    slices = [[slice_of(name, *each, protocol="UDP") for name in ("web", "local")] for each in sets]
    objects = [node(NODE[4]), *services]
    with shop([*objects, *slices[1]], tmp_path, protocol="UDP") as world:
        begin(world, objects)
        ways = [(POD[4], WEB), ("", WEB), (POD[4], LOCAL_WEB), ("", LOCAL_WEB), (CLIENT[4], BALANCER)]
        flows = [world.flow("UDP", source, to, 53, 5000 + number) for number, (source, to) in enumerate(ways)]
        for flow in flows:
            assert flow.ask().verdict == "refused"
        reached = dict.fromkeys(range(len(flows)), "")
        for addresses, manifests in zip(sets, slices, strict=True):
            write(world, *manifests)
            left = names(*addresses)
            for number, flow in enumerate(flows):
                eventually(partial(reaches, flow, left or {""}), world)
                now = flow.ask().server
                assert now == reached[number] or reached[number] not in left, f"{ways[number]}: its server was still there"
                reached[number] = now
        world.wind_up()


def reaches(flow: Flow, servers: set[str]) -> bool:
    """Ask once, impatiently; "" stands for nobody."""
    return flow.ask(timeout_s=0.2 * PATIENCE).server in servers


def test_large_requests_and_what_is_none_of_ours(tmp_path: Path) -> None:
    """P5, P7, and who needs no proxy: a megabyte to a Service and back, SCTP without its module, a pod to a pod."""
    objects = [node(NODE[4]), service("web", WEB, port(80, "SCTP")), slice_of("web", FIRST, protocol="SCTP")]
    before = SCTP_MODULE.exists()
    with shop([*objects, slice_of("near", SECOND)], tmp_path, protocol="SCTP") as world:
        begin(world, objects)
        assert ask(world, POD[4], WEB, 80, "SCTP").server == f"{FIRST}:8080"
        assert SCTP_MODULE.exists() == before, "the module of SCTP sockets was loaded"

        outcome = ask(world, POD[4], SECOND, 8080)
        assert (outcome.server, outcome.seen) == (f"{SECOND}:8080", POD[4]), "between pods nothing is translated"

        write(world, service("big", BIG), slice_of("big", FIRST, port=9999))
        sent = bytes(range(256)) * (MEGABYTE // 256)
        with place(world, FIRST).entered(), socket.create_server((FIRST, 9999)) as server:
            threading.Thread(target=say_again, args=(server,), daemon=True).start()
            with place(world, POD[4]).entered():
                client = socket.create_connection((BIG, 80), LARGE_S)
            with client:
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                assert read_all(client) == sent
        world.wind_up()


def say_again(server: socket.socket) -> None:
    """Take one connection, read all of it, and send it back."""
    connection, _ = server.accept()
    with connection:
        connection.settimeout(LARGE_S)
        connection.sendall(read_all(connection))


def read_all(connection: socket.socket) -> bytes:
    """Read until the other side has said everything."""
    return b"".join(iter(lambda: connection.recv(65536), b""))
