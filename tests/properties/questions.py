"""
Small clusters seen from one of their nodes, and packets that arrive there: of everything a Service can ask for, a bit.

The worlds are tiny on purpose, so that Services collide, endpoints are on this node and clients are endpoints.
"""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st
from msgspec import structs

from kpx.model.addresses import Address, Family, family_of, parse_address, parse_prefix
from kpx.model.decode import Object
from kpx.model.endpointslice import Endpoint, EndpointSlice, SlicePort
from kpx.model.facts import DetectLocal, LocalDetector, NodeFacts
from kpx.model.names import ObjectName, Protocol
from kpx.model.node import ServiceCIDR
from kpx.model.service import Service, ServicePort
from kpx.policy.story import Packet

NAMES = [ObjectName("a", "one"), ObjectName("a", "two"), ObjectName("b", "one")]
SLICES = [ObjectName("a", f"s{number}") for number in range(4)]


def addresses(*texts: str) -> list[Address]:
    return [parse_address(text) for text in texts]


# By family, of every kind two or more. The first node address has an endpoint on the host network, the bridge is in the range of
# pods, and one external address is this node's own.
CLUSTER_IPS = addresses("10.96.0.1", "10.96.0.2", "10.96.0.3") + addresses("fd00:96::1", "fd00:96::2", "fd00:96::3")
EXTERNAL = addresses("203.0.113.1", "203.0.113.2", "198.51.100.7") + addresses("2001:db8:e::1", "2001:db8:e::2", "2001:db8::7")
OWN = addresses("192.0.2.1", "198.51.100.7", "10.244.1.254") + addresses("2001:db8::1", "2001:db8::7", "fd00:244:1::fe")
LOOPBACK = addresses("127.0.0.1", "::1")
HERE = addresses("10.244.1.1", "10.244.1.2", "192.0.2.1"), addresses("fd00:244:1::1", "fd00:244:1::2", "2001:db8::1")
THERE = addresses("10.244.2.1", "192.0.2.2"), addresses("fd00:244:2::1", "fd00:244:2::2")
NODE_OF = {**{a: "n1" for many in HERE for a in many}, **{a: "n2" for many in THERE for a in many}}
PODS = [*HERE[0], *THERE[0], *addresses("10.244.1.3", "10.244.2.3")]
PODS_SIX = [*HERE[1], *THERE[1], *addresses("fd00:244:1::3")]
CLIENTS = addresses("203.0.113.200", "192.0.2.2", "198.18.0.1", "10.244.1.9") + addresses("2001:db8:c::1", "fd00:244:1::9")
UNOWNED = addresses("10.96.0.77", "fd00:96::77")
RANGES = [parse_prefix(text) for text in ("203.0.113.128/25", "10.244.0.0/16", "192.0.2.1/32", "198.18.0.0/15")] + [
    parse_prefix(text) for text in ("2001:db8:c::/48", "fd00:244:1::/64", "2001:db8::1/128", "0.0.0.0/0")
]
CIDRS = ServiceCIDR(ObjectName("", "kubernetes"), (parse_prefix("10.96.0.0/24"), parse_prefix("fd00:96::/112")))
ANYWHERE = [*CLUSTER_IPS, *EXTERNAL, *OWN, *LOOPBACK, *UNOWNED, *PODS, *PODS_SIX]
SOURCES = [*PODS, *PODS_SIX, *OWN, *LOOPBACK, *CLIENTS]
PORTS = [80, 81, 30000, 30001]
PORT_NAMES = ["http", "http", "http", "http", ""]
PROTOCOLS = [Protocol.TCP, Protocol.TCP, Protocol.TCP, Protocol.UDP, Protocol.SCTP]
INTERFACES = ["cni0", "cali1", "eth0"]


def some(values: list[Address], most: int = 2) -> st.SearchStrategy[tuple[Address, ...]]:
    return st.lists(st.sampled_from(values), max_size=most, unique=True).map(tuple)


detectors = st.sampled_from(
    [
        LocalDetector(prefixes=(parse_prefix("10.244.0.0/16"), parse_prefix("fd00:244::/32"))),
        LocalDetector(prefixes=(parse_prefix("10.244.0.0/16"), parse_prefix("fd00:244::/32"))),
        LocalDetector(DetectLocal.NODE_CIDR, (parse_prefix("10.244.1.0/24"),)),
        LocalDetector(),
        LocalDetector(DetectLocal.BRIDGE_INTERFACE, interface="cni0"),
        LocalDetector(DetectLocal.INTERFACE_NAME_PREFIX, interface="cali"),
    ]
)


@st.composite
def nodes(draw: st.DrawFn) -> tuple[NodeFacts, frozenset[Address]]:
    """Return a node and all its addresses; in a family where any address answers on node ports, the facts list all."""
    bound = draw(st.sampled_from([(), (), (CLUSTER_IPS[0],), (CLUSTER_IPS[3],), (EXTERNAL[0],)]))
    host = frozenset((*OWN, *LOOPBACK, *bound))
    anywhere = draw(st.sampled_from([frozenset(), frozenset(Family), frozenset((Family.IPV4,))]))
    listed = draw(st.sampled_from([OWN[:1], OWN[:2] + OWN[3:4], OWN[3:]]))
    answering = {a for a in host - set(LOOPBACK) if family_of(a) in anywhere} | {
        a for a in listed if family_of(a) not in anywhere
    }
    facts = NodeFacts(
        "n1",
        zone=draw(st.sampled_from(["a", "a", None])),
        families=draw(st.sampled_from([(Family.IPV4, Family.IPV6), (Family.IPV6, Family.IPV4), (Family.IPV4,)])),
        node_ips=(OWN[0], OWN[3]),
        node_port_addresses=frozenset(answering),
        node_port_any=anywhere,
        local_detector=draw(detectors),
        masquerade_all=draw(st.booleans()),
        external_ip_ranges=draw(st.sampled_from([None, None, None, (parse_prefix("203.0.113.0/31"),), ()])),
        answer_ping=draw(st.booleans()),
        drop_invalid=draw(st.booleans()),
        mark_bits=draw(st.sampled_from([0x3000, 0x3000, 0x80000001])),
    )
    return facts, host


service_ports = st.builds(
    ServicePort,
    st.sampled_from(PORT_NAMES),
    st.sampled_from(PROTOCOLS),
    st.sampled_from(PORTS[:3]),
    st.sampled_from([0, 30000, 30001]),
)
services = st.builds(
    Service,
    st.sampled_from(NAMES),
    created=st.sampled_from(["", "2023-01-01T00:00:00Z"]),
    skipped=st.sampled_from(["", "", "", "", "", "", "", "headless"]),
    cluster_ips=st.tuples(st.sampled_from(CLUSTER_IPS[:3]), st.sampled_from(CLUSTER_IPS[3:])).flatmap(
        lambda both: st.sampled_from([both, both, both[::-1], both[:1], both[1:]])
    ),
    ports=st.lists(service_ports, min_size=1, max_size=2, unique_by=lambda port: port.name).map(tuple),
    external_ips=some(EXTERNAL),
    load_balancer_ips=some(EXTERNAL),
    source_ranges=st.sampled_from([True, True, False]).flatmap(
        lambda is_open: st.just(()) if is_open else st.lists(st.sampled_from(RANGES), max_size=3, unique=True).map(tuple)
    ),
    external_policy_local=st.booleans(),
    internal_policy_local=st.booleans(),
    affinity_timeout_s=st.sampled_from([None, None, 60]),
)
sticky_services = services.map(lambda service: structs.replace(service, affinity_timeout_s=60))


def endpoints(family: Family) -> st.SearchStrategy[Endpoint]:
    return st.sampled_from(PODS if family is Family.IPV4 else PODS_SIX).flatmap(endpoint_at)


def endpoint_at(address: Address) -> st.SearchStrategy[Endpoint]:
    """An address is on one node, whatever slices name it; of some nobody says where they are."""
    return st.builds(
        Endpoint,
        st.just(address),
        ready=st.sampled_from([True, True, True, False]),
        serving=st.sampled_from([True, True, True, False]),
        terminating=st.sampled_from([False, False, True]),
        node_name=st.just(NODE_OF.get(address)),
        zone_hints=st.sampled_from([(), ("a",), ("a",), ("b",)]),
        node_hints=st.sampled_from([(), (), ("n1",), ("n2",)]),
    )


@st.composite
def slices(draw: st.DrawFn, of: list[Service]) -> EndpointSlice:
    """Draw a slice of one of the Services, nearly always with endpoints of its ports."""
    service = draw(st.sampled_from(of))
    family = draw(st.sampled_from([family_of(address) for address in service.cluster_ips]))
    port = st.builds(SlicePort, st.sampled_from(PORT_NAMES), st.sampled_from(PROTOCOLS), st.sampled_from([8080, 53]))
    own = tuple(SlicePort(one.name, one.protocol, number) for number, one in enumerate(service.ports, 8080))
    return EndpointSlice(
        draw(st.sampled_from(SLICES)),
        service.name,
        family,
        draw(st.sampled_from([own, own, own, None])) or (draw(port),),
        tuple(draw(st.lists(endpoints(family), min_size=1, max_size=5, unique_by=lambda endpoint: endpoint.address))),
        draw(st.sampled_from(["", "", "", "", "", "", "", "headless"])),
    )


@st.composite
def packets(draw: st.DrawFn, facts: NodeFacts, host: frozenset[Address], known: list[Service]) -> Packet:
    """
    Draw a packet that may arrive, most of them for a Service.

    What comes in has no address of this host as source and is not for loopback.
    """
    service = draw(st.sampled_from(known))
    port = draw(st.sampled_from(service.ports))
    places = [*service.cluster_ips, *service.external_ips, *service.load_balancer_ips]
    kind = draw(st.sampled_from(["frontend", "frontend", "frontend", "node port", "node port", "anything"]))
    answering = sorted(facts.node_port_addresses)
    destination = draw(st.sampled_from({"frontend": places, "node port": answering, "anything": ANYWHERE}[kind]))
    number = draw(st.sampled_from(PORTS)) if kind == "anything" else port.port if kind == "frontend" else port.node_port or 30000
    family = family_of(destination)
    source = draw(st.sampled_from([address for address in SOURCES if family_of(address) == family]))
    from_here = source in host
    if destination in LOOPBACK and not from_here:
        destination = UNOWNED[family is Family.IPV6]
    interface = "" if from_here else INTERFACES[source[-1] % len(INTERFACES)]
    protocol = draw(st.sampled_from([port.protocol, port.protocol, port.protocol, Protocol.UDP]))
    return Packet(destination, number, protocol, source, interface)


class Question(NamedTuple):
    """What a cluster holds, a node of it with all addresses of its host, and packets that arrive there."""

    objects: list[Object]
    facts: NodeFacts
    host: frozenset[Address]
    packets: list[Packet]


@st.composite
def questions(draw: st.DrawFn, of: st.SearchStrategy[Service] = services, asked: int = 8) -> Question:
    """Draw a cluster and so many packets."""
    facts, host = draw(nodes())
    known = draw(st.lists(of, min_size=1, max_size=4))
    parts = draw(st.lists(slices(known), min_size=1, max_size=6))
    cidrs = draw(st.sampled_from([[CIDRS], [CIDRS], []]))
    several = draw(st.lists(packets(facts, host, known), min_size=asked, max_size=asked))
    return Question([*known, *parts, *cidrs], facts, host, several)
