"""
The addresses of Services with IPVS, which takes packets only where they are delivered locally: all the same no VIP is an
address of the host (D3, D4, D5, D6, D20, D25, D28). One lab and one agent for all tests.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet
from scapy.utils6 import in6_getnsma, in6_getnsmac

from tests.lab.objects import node, port, service, service_cidr, slice_of
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, REMOTE, ask, assert_served_by, begin, names, shop, write
from tests.lab.traffic import open_socket
from tests.lab.wire import Wire
from tests.lab.world import ELSEWHERE, World

pytestmark = pytest.mark.dataplane("ipvs")

VIP = {4: "10.96.0.10", 6: "fd00:96::10"}
EMPTY = {4: "10.96.0.20", 6: "fd00:96::20"}
OTHER_NODE = {4: "192.168.10.2", 6: "fd00:10::2"}
EXTERNAL = {4: "203.0.113.5", 6: "2001:db8:5::5"}
BALANCER = {4: "203.0.113.6", 6: "2001:db8:5::6"}
DNS = "10.96.0.53"
VERSIONS = pytest.mark.parametrize("v", [4, 6])

OBJECTS = [
    node(*NODE.values()), service_cidr("10.96.0.0/16", "fd00:96::/112"),
    *(
        service(f"web{v}", VIP[v], external_ips=[EXTERNAL[v], OTHER_NODE[v]], load_balancer_ips=[BALANCER[v]])
        for v in (4, 6)
    ),
    *(slice_of(f"web{v}", *ENDPOINTS[v], remote=REMOTE) for v in (4, 6)),
    *(service(f"empty{v}", EMPTY[v]) for v in (4, 6)),
    service("far", "10.96.0.30"), slice_of("far", ENDPOINTS[4][-1], remote=REMOTE),
    service("far6", "fd00:96::30"), slice_of("far6", ENDPOINTS[6][-1], remote=REMOTE),
    service("dns", DNS, port(53, "UDP")), slice_of("dns", ENDPOINTS[4][0], protocol="UDP"),
]  # fmt: skip
HOST_PORT = 22
"""A process of the node listens here on all addresses, as sshd does."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A node with an agent, and with processes that listen on every address of it."""
    vips = [each[v] for each in (OTHER_NODE, EXTERNAL, BALANCER) for v in (4, 6)]
    beside = [(vip, number) for vip in vips for number in (80, HOST_PORT)]
    with shop(OBJECTS, tmp_path_factory.mktemp("addresses"), beside=beside, versions=(4, 6)) as world:
        for number in (HOST_PORT, 80):
            world.responder.listen(world.node.namespace, "host", "TCP", "::", number)
        yield begin(world, OBJECTS)
        world.wind_up()


@VERSIONS
def test_no_address_of_a_service_is_an_address_of_the_host(world: World, v: int) -> None:
    """Nor is there a device that was not there before; but for the marked packets nothing is delivered here."""
    listed = world.node.namespace.run("ip", f"-{v}", "address").stdout
    links = world.node.namespace.run("ip", "link").stdout
    local = world.node.namespace.run("ip", f"-{v}", "route", "show", "table", "local").stdout

    for vip in (VIP[v], EXTERNAL[v], OTHER_NODE[v], BALANCER[v]):
        assert vip not in listed
        assert vip not in local
    assert "kpx" not in links.lower()
    assert "kube-ipvs0" not in links


@VERSIONS
def test_other_ports_of_another_nodes_address_reach_that_node(world: World, v: int) -> None:
    """An external IP that is a node's address is captured on its declared port only (D3, V2)."""
    for source in (POD[v], CLIENT[v], ""):
        assert_served_by(world, names(*ENDPOINTS[v]), source, OTHER_NODE[v])
        assert ask(world, source, OTHER_NODE[v], HOST_PORT).server == ELSEWHERE
        assert ask(world, source, EXTERNAL[v], HOST_PORT).server == ELSEWHERE
    assert ask(world, POD[v], OTHER_NODE[v], HOST_PORT).seen == POD[v]


@VERSIONS
def test_host_ports_do_not_answer_on_vips(world: World, v: int) -> None:
    """A process on all addresses of the host is not reached through a ClusterIP; the port is refused (D5, R5)."""
    assert ask(world, POD[v], NODE[v], HOST_PORT).server == "host"
    for source in (POD[v], CLIENT[v], ""):
        assert ask(world, source, VIP[v], HOST_PORT).verdict == "refused"
        assert ask(world, source, EMPTY[v], HOST_PORT).verdict == "refused"


@VERSIONS
def test_host_process_on_the_service_port_is_not_reached_either(world: World, v: int) -> None:
    """Neither with endpoints nor without: no endpoint means refused, whoever listens on the host (R1, D28)."""
    for source in (POD[v], CLIENT[v], ""):
        assert_served_by(world, names(*ENDPOINTS[v]), source, VIP[v])
        assert ask(world, source, EMPTY[v]).verdict == "refused"


def asks_for(v: int, mac: str, address: str) -> tuple[Packet, type[Packet]]:
    """A question of a neighbour who has an address, and what an answer would be."""
    if v == 4:
        return Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op="who-has", hwsrc=mac, psrc="192.168.10.77", pdst=address), ARP
    target = socket.inet_pton(socket.AF_INET6, address)
    group = in6_getnsma(target)
    frame = Ether(src=mac, dst=in6_getnsmac(group)) / IPv6(src="fe80::77", dst=socket.inet_ntop(socket.AF_INET6, group), hlim=255)
    return frame / ICMPv6ND_NS(tgt=address) / ICMPv6NDOptSrcLLAddr(lladdr=mac), ICMPv6ND_NA


@VERSIONS
def test_nobody_is_told_that_a_vip_is_here(world: World, v: int) -> None:
    """ARP and neighbour discovery are answered for the node's address and for no address of a Service (D4)."""
    port_of_node = next(line.split(":")[1].partition("@")[0].strip() for line in links(world) if " node" in line)

    def is_told(address: str) -> bool:
        question, answer = asks_for(v, wire.mac, address)
        wire.send(question)
        told = wire.wait(lambda packet: answer in packet and address in (packet.sprintf("%ARP.psrc%"), target_of(packet)))
        return told is not None

    with Wire(world.fabric.namespace, port_of_node) as wire:
        assert is_told(NODE[v]), "the question itself is wrong"
        for vip in (VIP[v], EXTERNAL[v], OTHER_NODE[v], BALANCER[v]):
            assert not is_told(vip)


def target_of(packet: Packet) -> str:
    """The address a neighbour advertisement is about."""
    return str(packet[ICMPv6ND_NA].tgt) if ICMPv6ND_NA in packet else ""


def links(world: World) -> list[str]:
    """The interfaces of the fabric, a line each."""
    return world.fabric.namespace.run("ip", "-o", "link").stdout.splitlines()


@VERSIONS
def test_the_host_asks_with_its_own_address(world: World, v: int) -> None:
    """The kernel takes no VIP for the source of what the host sends to it (D6, D20)."""
    far = {4: "10.96.0.30", 6: "fd00:96::30"}[v]
    for vip in (far, VIP[v], EXTERNAL[v], BALANCER[v]):
        asking = open_socket(world.node.namespace, vip, "UDP")
        asking.connect((vip, 80))
        source = asking.getsockname()[0]
        asking.close()
        assert source == NODE[v]
        assert ask(world, "", vip).seen == NODE[v]


def test_a_node_local_cache_can_have_the_address_of_dns(world: World) -> None:
    """Somebody else may own the very address of a Service: it can be added and bound, only the Service's port is ours (D25)."""
    own = world.node.namespace
    own.ip(f"address add {DNS}/32 dev lo")
    try:
        world.responder.listen(own, "cache", "TCP", DNS, 8053)
        write(world, service("after", "10.96.0.31"))
        assert ask(world, "", DNS, 8053).server == "cache"
        assert ask(world, POD[4], DNS, 8053).server == "cache"
        assert_served_by(world, names(ENDPOINTS[4][0]), POD[4], DNS, 53, "UDP", 3)
        assert_served_by(world, names(*ENDPOINTS[4]), POD[4], VIP[4])
    finally:
        own.ip(f"address del {DNS}/32 dev lo")
    assert_served_by(world, names(ENDPOINTS[4][0]), POD[4], DNS, 53, "UDP", 3)


def test_kube_dns_works_without_it(world: World) -> None:
    assert_served_by(world, names(ENDPOINTS[4][0]), POD[4], DNS, 53, "UDP", 3)
    assert ask(world, POD[4], DNS, 8053).verdict == "refused"
