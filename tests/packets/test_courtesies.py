"""
What settings do for packets that are no flow of a frontend: pings to addresses of Services, and segments that fit no connection
(section 17; number 48 of section 24, kubernetes/kubernetes#74839).
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Packet, Raw

from tests.lab.crafted import echo_request, ip, is_echo_reply
from tests.lab.objects import node, port, service, service_cidr, slice_of
from tests.lab.probes import Flow
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, begin, shop
from tests.lab.topology import version
from tests.lab.wire import ANSWER_S, Wire
from tests.lab.world import World

pytestmark = pytest.mark.dataplane

VERSIONS = pytest.mark.parametrize("v", [4, 6])
VIP = {4: "10.96.0.10", 6: "fd00:96::10"}
EMPTY = {4: "10.96.0.20", 6: "fd00:96::20"}
EXTERNAL = {4: "203.0.113.5", 6: "2001:db8:5::5"}
BALANCED = {4: "203.0.113.6", 6: "2001:db8:5::6"}
UNOWNED = {4: "10.96.0.99", 6: "fd00:96::99"}
NODE_PORT = {4: 30080, 6: 30086}
HERE = {v: ENDPOINTS[v][0] for v in (4, 6)}
AWAY = {v: ENDPOINTS[v][2] for v in (4, 6)}
OBJECTS = [
    node(*NODE.values()), service_cidr("10.96.0.0/16", "fd00:96::/112"),
    *(service(f"here{v}", VIP[v], port(80, node_port=NODE_PORT[v]), external_ips=[EXTERNAL[v]]) for v in (4, 6)),
    *(slice_of(f"here{v}", HERE[v]) for v in (4, 6)),
    *(service(f"away{v}", VIP[v][:-2] + "30", load_balancer_ips=[BALANCED[v]]) for v in (4, 6)),
    *(slice_of(f"away{v}", AWAY[v], remote=[AWAY[v]]) for v in (4, 6)),
    *(service(f"empty{v}", EMPTY[v]) for v in (4, 6)),
]  # fmt: skip
BEYOND = 0x20000000
"""So far outside of the window is no segment of the connection."""

_ports = itertools.count(41000)


def started(directory: Path, *options: str) -> World:
    """The shop with an agent that has further options."""
    return begin(shop(OBJECTS, directory, versions=(4, 6), options=options), OBJECTS)


@pytest.fixture(scope="module")
def kind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A node that answers pings, and is what it is by default otherwise."""
    with started(tmp_path_factory.mktemp("kind"), "--answer-ping") as world:
        yield world
        world.wind_up()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A node with none of it."""
    with started(tmp_path_factory.mktemp("plain"), "--no-drop-invalid") as world:
        yield world
        world.wind_up()


def ping(world: World, source: str, to: str) -> str:
    """Ping once; return who answered, "" when nobody did."""
    with Wire(world.host(source).namespace) as wire:
        answer = wire.ask(echo_request(source, to), is_echo_reply)
    return str(answer.src) if answer is not None else ""


def node_gets_an_answer(world: World, to: str) -> bool:
    """Ping once from this node itself; a raw socket, since not every machine has the program."""
    v = version(to)
    family, protocol = (socket.AF_INET, socket.IPPROTO_ICMP) if v == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    request = echo_request(POD[v], to)
    with world.node.namespace.entered():
        raw = socket.socket(family, socket.SOCK_RAW, protocol)
    with raw:
        raw.settimeout(ANSWER_S)
        raw.connect((to, 0))
        try:
            raw.send(bytes(request.payload))
            while True:
                data = raw.recv(4096)
                if data[20] == 0 if v == 4 else data[0] == 129:
                    return True
        except (TimeoutError, OSError):
            return False


@VERSIONS
@pytest.mark.parametrize("to", [VIP, EMPTY, EXTERNAL, BALANCED], ids=["vip", "empty", "external", "balanced"])
def test_pings_to_a_service_are_answered_in_its_name(kind: World, to: dict[int, str], v: int) -> None:
    """From a pod, from outside, and from this node itself; with and without endpoints."""
    assert [ping(kind, source, to[v]) for source in (POD[v], CLIENT[v])] == [to[v], to[v]]
    assert node_gets_an_answer(kind, to[v])


@VERSIONS
def test_other_addresses_are_not_answered_for(kind: World, v: int) -> None:
    """Of the Service range only what a Service has; the fabric has all other addresses and is reached as ever."""
    assert ping(kind, POD[v], UNOWNED[v]) == ""
    assert ping(kind, POD[v], CLIENT[v]) == CLIENT[v]
    assert ping(kind, CLIENT[v], HERE[v]) == HERE[v]


@VERSIONS
def test_pings_are_nobodys_unless_asked_for(plain: World, v: int) -> None:
    """R5: a ClusterIP has no ping; an external address is reached where it is."""
    assert ping(plain, POD[v], VIP[v]) == ""
    assert not node_gets_an_answer(plain, VIP[v])


def to_port(number: int, flags: str = "") -> Callable[[Packet], bool]:
    """What selects segments to a port, with a flag."""
    return lambda packet: TCP in packet and packet[TCP].dport == number and flags in str(packet[TCP].flags)


def inject(world: World, source: str, to: str, number: int, endpoint: str) -> tuple[bool, bool]:
    """
    Let the server of a connection send a segment far outside of the window.

    Returns:
        Whether the server saw a reset for it, and whether the connection still lives.
    """
    namespace = world.host(source).namespace
    with Wire(world.host(endpoint).namespace) as server:
        flow = Flow(namespace, "TCP", source, to, number)
        try:
            before = flow.ask()
            assert before.verdict == "answered", before
            last = server.wait(to_port(8080, "A"))
            assert last is not None
            while (more := server.wait(to_port(8080), 0.1)) is not None:
                last = more
            stray = TCP(sport=8080, dport=before.seen_port, flags="A", seq=(last[TCP].ack + BEYOND) % 2**32, ack=last[TCP].seq)
            server.send(ip(endpoint, before.seen) / stray / Raw(b"boom"))
            reset = server.wait(to_port(8080, "R"))
            return reset is not None, flow.ask() == before
        finally:
            flow.close()


WAYS = pytest.mark.parametrize(
    ("source", "to", "number", "endpoint"),
    [
        (POD, VIP, 80, HERE),
        (POD, {4: "10.96.0.30", 6: "fd00:96::30"}, 80, AWAY),
        (CLIENT, VIP, 80, HERE),
        (CLIENT, NODE, NODE_PORT, HERE),
        (CLIENT, BALANCED, 80, AWAY),
    ],
    ids=["pod here", "pod away", "client", "node port", "client away"],
)


@VERSIONS
@WAYS
def test_a_stray_segment_of_a_server_is_answered_by_nobody(
    kind: World, v: int, source: dict[int, str], to: dict[int, str], number: int | dict[int, int], endpoint: dict[int, str]
) -> None:
    """#48: neither the client nor this node, whose address a masqueraded client has, resets the connection."""
    number = number if isinstance(number, int) else number[v]
    assert inject(kind, source[v], to[v], number, endpoint[v]) == (False, True)


@VERSIONS
@pytest.mark.dataplane("nftables")
def test_without_the_setting_it_is_reset(plain: World, v: int) -> None:
    """What the setting is for: the client of a pod, or this node, answers what it takes for a stranger's."""
    assert inject(plain, POD[v], VIP[v], 80, HERE[v])[0]
    assert inject(plain, CLIENT[v], NODE[v], NODE_PORT[v], HERE[v])[0]


@VERSIONS
def test_a_stray_segment_of_a_client_goes_nowhere(kind: World, v: int) -> None:
    """To a ClusterIP it would leave by the default route, untranslated, and be reset by whoever gets it."""
    number = next(_ports)
    with Wire(kind.host(POD[v]).namespace) as pod:
        stray = ip(POD[v], VIP[v]) / TCP(sport=number, dport=80, flags="SA", seq=7, ack=9)
        assert pod.ask(stray, to_port(number)) is None


@VERSIONS
def test_strays_of_others_pass(kind: World, v: int) -> None:
    """#117924: what an endpoint's address says from another port, or another address from the same, is not ours to judge."""
    number = next(_ports)
    with Wire(kind.host(CLIENT[v]).namespace) as client:
        for source, from_port in ((HERE[v], 8081), (POD[v], 8080)):
            with Wire(kind.host(source).namespace) as wire:
                wire.send(ip(source, CLIENT[v]) / TCP(sport=from_port, dport=number, flags="SA", seq=7, ack=9))
            seen = client.wait(to_port(number))
            assert seen is not None
            assert (seen.src, seen[TCP].sport) == (source, from_port)


@VERSIONS
def test_a_liberal_connection_tracking_has_no_strays(tmp_path: Path, v: int) -> None:
    """With --conntrack-tcp-be-liberal nothing is dropped; the segment is translated, and the client knows what to do with it."""
    with started(tmp_path, "--conntrack-tcp-be-liberal") as world:
        assert "strays" not in world.agent.kpx("get", "rows").stdout
        assert inject(world, POD[v], VIP[v], 80, HERE[v]) == (False, True)
        world.wind_up()
