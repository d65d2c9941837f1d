"""
The tables of the ipvs data plane: which ipsets exist, how a row of each is packed, and what a virtual server is.

A row is packed: a *server* is `address protocol port` (4 or 16, 1 and 2 bytes), a destination is a server followed by the
endpoint's address and port, a range is `address length`. One set is no table, since its rows are no desire but a memory:
`DRAINING`.

Sources: include/uapi/linux/ip_vs.h, net/netfilter/ipset.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple

from kpx.kernel.wire.ipset import Element, SetShape
from kpx.kernel.wire.ipset_columns import AlikeElements
from kpx.kernel.wire.ipset_element import ADDRESS, LENGTH, PORT, PROTOCOL, SECOND
from kpx.model.addresses import Address, Family, Prefix
from kpx.model.names import Protocol
from kpx.policy.desired import Backend, Frontend
from kpx.reconcile.rows import Key, Table

MAX_ELEMENTS: Final = 1 << 24
"""ipset's own limit of 65,536 is silent trouble (D17); memory grows with what is in a set, not with this number."""

PREFIXES: Final = {Family.IPV4: "KPX-", Family.IPV6: "KPX6-"}
"""How the names of our sets begin, by family; nobody else's do, and this is how they are recognised."""

FAMILY_NAMES: Final = {Family.IPV4: "ip", Family.IPV6: "ip6"}
FAMILIES: Final = {name: family for family, name in FAMILY_NAMES.items()}
ADDRESS_BYTES: Final = {Family.IPV4: 4, Family.IPV6: 16}

ROUTE_PRIORITY: Final = 1024
"""Of the routing rule for steered packets: behind the table of local addresses, before almost everybody else's rules."""

ROUTE_TABLE: Final = 27504
"""The routing table that makes steered packets local; the number spells "kp"."""


class Kind(Enum):
    """What a row of a table is made of; the value is ipset's name for the type, "" for what is no set."""

    SERVER = "hash:ip,port"
    ADDRESS = "hash:ip"
    RANGE = "hash:net"
    PAIR = "hash:net,net"
    VIRTUAL_SERVER = ""
    DESTINATION = "-"


class Schema(NamedTuple):
    """One table: what its rows are, its rank (see `Table`), what it is for in a line."""

    name: str
    kind: Kind
    rank: int
    comment: str
    shared: bool = False

    @property
    def is_set(self) -> bool:
        """Tell whether the rows are elements of an ipset."""
        return self.kind not in (Kind.VIRTUAL_SERVER, Kind.DESTINATION)


SCHEMAS: Final = (
    Schema("servers", Kind.SERVER, 0, "the virtual servers that are ours: written before they exist, removed after them"),
    Schema("virtual-servers", Kind.VIRTUAL_SERVER, 1, "address, protocol, port to scheduler"),
    Schema("destinations", Kind.DESTINATION, 2, "virtual server and endpoint to its weight"),
    Schema("spared", Kind.DESTINATION, 4, "endpoints of UDP that keep their flows and take no new ones: of weight 0"),
    Schema("masq-all", Kind.SERVER, 3, "frontends whose clients are always masqueraded"),
    Schema("masq-nonpod", Kind.SERVER, 3, "frontends whose clients are masqueraded unless they are pods"),
    Schema("hairpin", Kind.PAIR, 3, "endpoints that may reach themselves through a frontend", shared=True),
    Schema("pods", Kind.RANGE, 3, "addresses of pods, whose own address is kept", shared=True),
    Schema("refused", Kind.SERVER, 3, "frontends without endpoints, whose new flows are not steered but refused"),
    Schema("by-nftables", Kind.SERVER, 3, "frontends that nftables carries, whose new flows are not steered"),
    Schema("captured", Kind.ADDRESS, 3, "external and load-balancer addresses, never dropped as unowned", shared=True),
    Schema("frontends", Kind.SERVER, 4, "addresses and ports whose packets are steered to their virtual server"),
    Schema("node-ports", Kind.SERVER, 4, "the same for node ports, on each address of this node that answers"),
    Schema("cluster-ips", Kind.ADDRESS, 5, "ClusterIPs, whose other ports are refused", shared=True),
    Schema("service-cidrs", Kind.RANGE, 5, "ranges of ClusterIPs; addresses nobody owns are dropped", shared=True),
)
BY_NAME: Final = {schema.name: schema for schema in SCHEMAS}
DRAINING: Final = "draining"
"""The set that remembers since when a destination drains: endpoint, its port, the virtual server's address; with a timeout."""

TABLES: Final = {
    (family, schema.name): Table(FAMILY_NAMES[family], schema.name, schema.rank, schema.shared)
    for family in Family
    for schema in SCHEMAS
}

_PROTOCOLS: Final = frozenset(Protocol)


def set_name(family: Family, table: str) -> str:
    """Return the name of the ipset that holds a table."""
    return PREFIXES[family] + table.upper()


def shapes(family: Family) -> tuple[SetShape, ...]:
    """Return every set of a family as it must be."""
    kinds = [(schema.name, schema.kind.value, False) for schema in SCHEMAS if schema.is_set]
    kinds.append((DRAINING, "hash:ip,port,ip", True))
    return tuple(SetShape(set_name(family, name), kind, int(family), MAX_ELEMENTS, timeout) for name, kind, timeout in kinds)


def server_key(address: bytes, protocol: int, port: int) -> bytes:
    """Pack a server."""
    return address + bytes((protocol,)) + port.to_bytes(2, "big")


def read_server(family: Family, key: bytes) -> Frontend | None:
    """Unpack the server a key begins with; None for a protocol no Service has, which only somebody else writes."""
    width = ADDRESS_BYTES[family]
    if key[width] not in _PROTOCOLS:
        return None
    return Frontend(family, Address(key[:width]), Protocol(key[width]), int.from_bytes(key[width + 1 : width + 3], "big"))


def server_of(family: Family, key: bytes) -> bytes:
    """Return the server a key of a server or destination begins with."""
    return key[: ADDRESS_BYTES[family] + 3]


def backend_of(family: Family, key: bytes) -> Backend:
    """Return the endpoint of a destination's key."""
    start = ADDRESS_BYTES[family] + 3
    return Backend(Address(key[start:-2]), int.from_bytes(key[-2:], "big"))


def range_keys(prefix: Prefix) -> tuple[bytes, ...]:
    """Pack a range; all addresses are two ranges, since a hash:net set takes none of length 0."""
    if prefix.length:
        return (bytes(prefix.address) + bytes((prefix.length,)),)
    rest = bytes(len(prefix.address) - 1)
    return (b"\x00" + rest + b"\x01", b"\x80" + rest + b"\x01")


def element_of(schema: Schema, family: Family, key: Key) -> Element:
    """Return a row's key as an element of its set."""
    assert isinstance(key, bytes)
    width = ADDRESS_BYTES[family]
    if schema.kind is Kind.SERVER:
        return Element(key[:width], None, key[width], int.from_bytes(key[width + 1 :], "big"))
    if schema.kind is Kind.RANGE:
        return Element(key[:width], key[width])
    if schema.kind is Kind.PAIR:
        return Element(key, width * 8, second=key, second_length=width * 8)
    return Element(key)


def elements_of(schema: Schema, family: Family, keys: Sequence[bytes]) -> Sequence[Element]:
    """Return the keys of rows, at least one, as elements of their set."""
    width = ADDRESS_BYTES[family]
    return AlikeElements(element_of(schema, family, keys[0]), _starts(schema.kind, width), keys)


def _starts(kind: Kind, width: int) -> dict[int, int]:
    """Return where in a key each field of an element begins."""
    if kind is Kind.SERVER:
        return {ADDRESS: 0, PROTOCOL: width, PORT: width + 1}
    if kind is Kind.RANGE:
        return {ADDRESS: 0, LENGTH: width}
    if kind is Kind.PAIR:
        return {ADDRESS: 0, SECOND: 0}
    return {ADDRESS: 0}


def key_of(schema: Schema, element: Element) -> bytes | None:
    """Return an element of a set as the key of its row, None for one kpx would not write."""
    if schema.kind is Kind.SERVER:
        return server_key(element.address, element.protocol, element.port)
    if schema.kind is Kind.RANGE:
        return element.address + bytes((len(element.address) * 8 if element.length is None else element.length,))
    if schema.kind is Kind.PAIR and element.second != element.address:
        return None
    return element.address


def draining_element(family: Family, key: bytes, timeout_s: int | None = None) -> Element:
    """Return the memory that a destination drains; destinations that differ only in the server's port share it."""
    width = ADDRESS_BYTES[family]
    backend = backend_of(family, key)
    return Element(backend.address, None, key[width], backend.port, key[:width], None, timeout_s)
