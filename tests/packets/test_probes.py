"""
Packets that no socket would send, and every byte of what comes back: addresses, ports, hops, and what ICMP errors quote; on
every data plane. The lab is one router between a client and the node, and the node between everybody and its pods.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.sctp import SCTP, SCTPChunkInitAck
from scapy.packet import Packet, Raw

from tests.lab import crafted, dataplane, sctp
from tests.lab.crafted import TIME_EXCEEDED, TOO_BIG, UNREACHABLE, error, error_kind, hops_left, ip, quoted, transport
from tests.lab.objects import node, port, service, service_cidr, slice_of
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, ask, begin, names, shop
from tests.lab.wire import Wire
from tests.lab.world import World

pytestmark = [pytest.mark.alike, pytest.mark.dataplane]

VERSIONS = pytest.mark.parametrize("v", [4, 6])
VIP = {4: "10.96.0.10", 6: "fd00:96::10"}
EXTERNAL = {4: "203.0.113.5", 6: "2001:db8:5::5"}
DEAF = {4: "10.96.0.20", 6: "fd00:96::20"}
NODE_PORT = {4: 30080, 6: 30086}
UDP_NODE_PORT = {4: 30053, 6: 30056}
ENDPOINT = {v: ENDPOINTS[v][0] for v in (4, 6)}
ROUTER = {4: "198.51.100.1", 6: "2001:db8:100::1"}
HOPS = 64
FROM_CLIENT = HOPS - 2
"""What is left at an endpoint of the hops of a client's packet, and of an endpoint's at the client: fabric and node count."""
FROM_POD = HOPS - 1
OWNERS = HOPS - 3
"""What is left at the client when somebody beyond the node answers: the packet went by the fabric, the node, the fabric."""

SERVED = [
    node(*NODE.values()), service_cidr("10.96.0.0/16", "fd00:96::/112"),
    *(
        service(
            f"web{v}", VIP[v], port(80, node_port=NODE_PORT[v], name="web"),
            port(53, "UDP", UDP_NODE_PORT[v], name="dns"), port(90, "SCTP", name="sctp"), external_ips=[EXTERNAL[v]],
        )
        for v in (4, 6)
    ),
    *(slice_of(f"web{v}", ENDPOINT[v], port_name="web") for v in (4, 6)),
    *(slice_of(f"web{v}", ENDPOINT[v], protocol="UDP", port_name="dns", number=2) for v in (4, 6)),
    *(slice_of(f"web{v}", ENDPOINT[v], protocol="SCTP", port_name="sctp", number=3) for v in (4, 6)),
]  # fmt: skip
NOBODY_LISTENS = [
    *(service(f"deaf{v}", DEAF[v], port(53, "UDP"), external_ips=[EXTERNAL[v][:-1] + "7"]) for v in (4, 6)),
    *(slice_of(f"deaf{v}", ENDPOINT[v], port=9999, protocol="UDP") for v in (4, 6)),
]
"""Endpoints that are there, with nobody on the port: the lab must not know of them, or it would listen."""

_ports = itertools.count(40000)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One Service of each family with every protocol, a process of the host on all addresses, and who has the external IPs."""
    with shop(SERVED, tmp_path_factory.mktemp("probes"), clients=ROUTER.values(), versions=(4, 6)) as world:
        owner = world.lab.host("owner", EXTERNAL.values())
        world.lab.attach(owner, world.fabric)
        for number in (80, 22):
            world.responder.listen(world.node.namespace, "host", "TCP", "::", number)
        yield begin(world, [*SERVED, *NOBODY_LISTENS])
        world.wind_up()


@pytest.fixture
def client(world: World, v: int) -> Iterator[Wire]:
    """The wire of the client outside."""
    with Wire(world.host(CLIENT[v]).namespace) as wire:
        yield wire


@pytest.fixture
def endpoint(world: World, v: int) -> Iterator[Wire]:
    """The wire of the endpoint."""
    with Wire(world.host(ENDPOINT[v]).namespace) as wire:
        yield wire


def ways(v: int, protocol: str = "TCP") -> list[tuple[str, int]]:
    """Every kind of frontend: address and port."""
    number, of_node = (80, NODE_PORT[v]) if protocol == "TCP" else (53, UDP_NODE_PORT[v])
    return [(VIP[v], number), (EXTERNAL[v], number), (NODE[v], of_node)]


def to_port(layer: type[Packet], number: int) -> Callable[[Packet], bool]:
    """What selects packets to a port."""
    return lambda packet: layer in packet and packet[layer].dport == number


@VERSIONS
@pytest.mark.parametrize("way", [0, 1, 2])
def test_a_syn_is_answered_from_where_it_was_sent(world: World, client: Wire, endpoint: Wire, v: int, way: int) -> None:
    """The SYN arrives as routed by two routers, and so does the SYN/ACK, from the frontend's address and port."""
    (address, number), source_port = ways(v)[way], next(_ports)
    syn = ip(CLIENT[v], address, HOPS) / TCP(sport=source_port, dport=number, flags="S", seq=1000)
    client.send(syn)
    arrived = endpoint.wait(to_port(TCP, 8080))
    answer = client.wait(to_port(TCP, source_port))

    assert arrived is not None
    assert (arrived.dst, hops_left(arrived)) == (ENDPOINT[v], FROM_CLIENT)
    assert arrived.src in world.node.addresses
    assert answer is not None
    assert (answer.src, answer.dst, answer[TCP].sport) == (address, CLIENT[v], number)
    assert (str(answer[TCP].flags), answer[TCP].ack, hops_left(answer)) == ("SA", 1001, FROM_CLIENT)


@VERSIONS
def test_a_pods_syn_keeps_its_address(world: World, endpoint: Wire, v: int) -> None:
    """One router less, and the endpoint sees the pod itself (M1)."""
    source_port = next(_ports)
    with Wire(world.host(POD[v]).namespace) as pod:
        pod.send(ip(POD[v], VIP[v], HOPS) / TCP(sport=source_port, dport=80, flags="S", seq=7))
        arrived = endpoint.wait(to_port(TCP, 8080))
        answer = pod.wait(to_port(TCP, source_port))

    assert arrived is not None
    assert (arrived.src, arrived[TCP].sport, hops_left(arrived)) == (POD[v], source_port, FROM_POD)
    assert answer is not None
    assert (answer.src, answer[TCP].sport, str(answer[TCP].flags), hops_left(answer)) == (VIP[v], 80, "SA", FROM_POD)


@VERSIONS
@pytest.mark.parametrize("flags", ["A", "FA", "PA", "SA"])
def test_the_middle_of_no_connection_is_nothing_but_reset(client: Wire, v: int, flags: str) -> None:
    """A segment without a connection gets a reset in the frontend's name, or nothing, and no process of the host (D28)."""
    for address, number in ways(v)[:2]:
        source_port = next(_ports)
        middle = ip(CLIENT[v], address) / TCP(sport=source_port, dport=number, flags=flags, seq=5, ack=77) / Raw(b"who?\n")
        answer = client.ask(middle, lambda packet, p=source_port: to_port(TCP, p)(packet) or bool(error_kind(packet)))

        if dataplane.CHOSEN == "ipvs" and flags in ("A", "PA"):
            assert answer is not None, "a reset was decided"
        if answer is not None:
            assert TCP in answer, "a reset, not an ICMP error"
            assert (answer.src, answer[TCP].sport, answer.dst) == (address, number, CLIENT[v])
            assert "R" in str(answer[TCP].flags)
            assert Raw not in answer


@VERSIONS
def test_a_reset_is_never_answered(client: Wire, v: int) -> None:
    source_port = next(_ports)
    reset = ip(CLIENT[v], VIP[v]) / TCP(sport=source_port, dport=80, flags="R", seq=5)

    assert client.ask(reset, to_port(TCP, source_port)) is None


@VERSIONS
@pytest.mark.parametrize("way", [0, 1, 2])
def test_a_datagram_is_answered_from_where_it_was_sent(client: Wire, endpoint: Wire, v: int, way: int) -> None:
    """UDP with somebody who listens."""
    (address, number), source_port = ways(v, "UDP")[way], next(_ports)
    client.send(ip(CLIENT[v], address, HOPS) / UDP(sport=source_port, dport=number) / Raw(b"who?\n"))
    arrived = endpoint.wait(to_port(UDP, 8080))
    answer = client.wait(to_port(UDP, source_port))

    assert arrived is not None
    assert (arrived.dst, hops_left(arrived)) == (ENDPOINT[v], FROM_CLIENT)
    assert answer is not None
    assert (answer.src, answer[UDP].sport, hops_left(answer)) == (address, number, FROM_CLIENT)
    assert bytes(answer[UDP].payload).decode().split()[0] in names(ENDPOINT[v])


@VERSIONS
def test_nobody_listening_is_told_in_the_name_of_the_service(world: World, client: Wire, v: int) -> None:
    """The endpoint's port unreachable comes from the Service's address and quotes what the client sent; sockets understand."""
    source_port = next(_ports)
    asked = ip(CLIENT[v], DEAF[v]) / UDP(sport=source_port, dport=53) / Raw(b"who?\n")
    answer = client.ask(asked, lambda packet: error_kind(packet) == UNREACHABLE)

    assert answer is not None
    assert (answer.src, answer.dst, hops_left(answer)) == (DEAF[v], CLIENT[v], FROM_CLIENT)
    about = quoted(answer)
    assert (about.src, about.dst) == (CLIENT[v], DEAF[v])
    assert (about[UDP].sport, about[UDP].dport) == (source_port, 53)
    for source in (CLIENT[v], POD[v], ""):
        assert ask(world, source, DEAF[v], 53, "UDP").verdict == "refused"


@VERSIONS
def test_an_sctp_init_is_answered_from_where_it_was_sent(client: Wire, endpoint: Wire, v: int) -> None:
    """With a checksum that is right at both ends (P5)."""
    for address in (VIP[v], EXTERNAL[v]):
        source_port = next(_ports)
        client.send(ip(CLIENT[v], address, HOPS) / SCTP(sctp.init(source_port, 90)))
        arrived = endpoint.wait(to_port(SCTP, 8080))
        answer = client.wait(to_port(SCTP, source_port))

        assert arrived is not None
        assert (arrived.dst, hops_left(arrived)) == (ENDPOINT[v], FROM_CLIENT)
        assert checksum_is_right(arrived)
        assert answer is not None
        assert (answer.src, answer[SCTP].sport, hops_left(answer)) == (address, 90, FROM_CLIENT)
        assert SCTPChunkInitAck in answer
        assert checksum_is_right(answer)


def checksum_is_right(packet: Packet) -> bool:
    """Compute the CRC32c anew and compare."""
    whole = bytes(packet[SCTP])
    again = packet[SCTP].copy()
    del again.chksum
    return bytes(again)[8:12] == whole[8:12]


@VERSIONS
@pytest.mark.parametrize("late", [False, True], ids=["in order", "first fragment last"])
@pytest.mark.parametrize("way", [0, 1, 2])
def test_fragments_find_their_way_in_any_order(client: Wire, v: int, late: bool, way: int) -> None:
    """Only the first fragment carries ports; nothing is decided before it is there (P7)."""
    (address, number), source_port = ways(v, "UDP")[way], next(_ports)
    whole = ip(CLIENT[v], address) / UDP(sport=source_port, dport=number) / Raw(b"who?\n".rjust(3000))
    pieces = crafted.fragments(whole)
    assert len(pieces) > 3
    for piece in reversed(pieces) if late else pieces:
        client.send(piece)
    answer = client.wait(to_port(UDP, source_port))

    assert answer is not None
    assert (answer.src, answer[UDP].sport) == (address, number)
    assert bytes(answer[UDP].payload).decode().split()[0] in names(ENDPOINT[v])


@VERSIONS
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
@pytest.mark.parametrize("kind", [TOO_BIG, TIME_EXCEEDED])
@pytest.mark.parametrize("way", [0, 1, 2])
def test_a_routers_error_about_an_answer_reaches_the_endpoint(
    world: World, client: Wire, endpoint: Wire, v: int, way: int, kind: str, protocol: str
) -> None:
    """A router on the client's side knows the frontend only; the endpoint reads of its own packet (path MTU discovery)."""
    address, number = ways(v, protocol)[way]
    layer = TCP if protocol == "TCP" else UDP
    source_port = next(_ports)
    flow = world.flow(protocol, CLIENT[v], address, number, source_port)
    seen = flow.ask()
    assert seen.server in names(ENDPOINT[v])
    answer = client.wait(lambda packet: layer in packet and packet[layer].dport == source_port and packet.src == address)
    assert answer is not None
    client.send(error(kind, ROUTER[v], address, answer))
    told = endpoint.wait(lambda packet: error_kind(packet) == kind)
    flow.close()

    assert told is not None, "the error never came to the endpoint"
    assert told.dst == ENDPOINT[v]
    about = quoted(told)
    assert (about.src, transport(about).sport) == (ENDPOINT[v], 8080)
    assert (about.dst, transport(about).dport) == (seen.seen, seen.seen_port)


@VERSIONS
@pytest.mark.parametrize("kind", [TOO_BIG, TIME_EXCEEDED])
def test_a_routers_error_about_a_request_reaches_the_client(
    world: World, client: Wire, endpoint: Wire, v: int, kind: str
) -> None:
    """The other way round: on the endpoint's side a router knows the endpoint only; the client reads of the frontend."""
    for address, number in ways(v, "UDP"):
        source_port = next(_ports)
        flow = world.flow("UDP", CLIENT[v], address, number, source_port)
        assert flow.ask().server in names(ENDPOINT[v])
        request = endpoint.wait(to_port(UDP, 8080))
        assert request is not None
        endpoint.send(error(kind, ENDPOINT[v], request.src, request))
        told = client.wait(lambda packet: error_kind(packet) == kind)
        flow.close()

        assert told is not None, f"the error about {address} never came to the client"
        assert told.dst == CLIENT[v]
        about = quoted(told)
        assert (about.src, about[UDP].sport) == (CLIENT[v], source_port)
        assert (about.dst, about[UDP].dport) == (address, number)


@VERSIONS
def test_an_error_about_no_flow_reaches_nobody(client: Wire, endpoint: Wire, v: int) -> None:
    """It quotes a packet that was never sent, so it is nobody's."""
    never = ip(VIP[v], CLIENT[v]) / UDP(sport=53, dport=next(_ports)) / Raw(b"x")
    client.send(error(TOO_BIG, ROUTER[v], VIP[v], never))

    assert endpoint.wait(lambda packet: bool(error_kind(packet))) is None


@VERSIONS
def test_a_ping_is_answered_by_who_has_the_address(client: Wire, v: int) -> None:
    """Nobody has a ClusterIP, so it is silent or refused; an external IP is whose it is, and that is not this node (R5, R7)."""
    assert client.ask(crafted.echo_request(CLIENT[v], VIP[v]), crafted.is_echo_reply) is None
    node_says = client.ask(crafted.echo_request(CLIENT[v], NODE[v]), crafted.is_echo_reply)
    owner_says = client.ask(crafted.echo_request(CLIENT[v], EXTERNAL[v]), crafted.is_echo_reply)

    assert node_says is not None
    assert hops_left(node_says) == HOPS - 1
    assert owner_says is not None
    assert (owner_says.src, hops_left(owner_says)) == (EXTERNAL[v], OWNERS), "the node answers in the name of an external IP"


@VERSIONS
def test_other_ports_of_a_cluster_ip_are_refused_without_its_name(client: Wire, v: int) -> None:
    """The port unreachable comes from a router, this node: nobody is at that address (R5, R8)."""
    for layer in (TCP, UDP):
        source_port = next(_ports)
        asked = ip(CLIENT[v], VIP[v]) / (layer(sport=source_port, dport=22))
        answer = client.ask(
            asked, lambda packet, p=source_port: bool(error_kind(packet)) or any(to_port(t, p)(packet) for t in (TCP, UDP))
        )

        assert answer is not None
        assert error_kind(answer) == UNREACHABLE
        assert answer.src == NODE[v]
        assert quoted(answer).dst == VIP[v]


@VERSIONS
@pytest.mark.parametrize("protocol", [2, 253])
def test_other_protocols_of_a_vip_are_nothing_to_this_host(client: Wire, v: int, protocol: int) -> None:
    """No process and no kernel of this host says anything about them in the name of a VIP."""
    for address in (VIP[v], EXTERNAL[v]):
        header = IP(src=CLIENT[v], dst=address, proto=protocol) if v == 4 else IPv6(src=CLIENT[v], dst=address, nh=protocol)
        answer = client.ask(header / Raw(b"x" * 16), lambda packet, a=address: packet.src == a and hops_left(packet) != OWNERS)

        assert answer is None, answer and answer.summary()
