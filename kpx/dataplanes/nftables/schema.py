"""
The tables of the nftables data plane: which sets and maps exist, what their keys and values are, how a row is packed, printed.

A row's key is the element's key exactly as the kernel wants it (each field padded to four bytes), so a row goes to the kernel
without another look. Its value is the packed address and port of a map, `"goto pick-2"` for a verdict map, `b""` for a set.
Two tables are not sets: `chains` (key: name, value: one comment a rule, which determines the rule) and the interval sets, held
as one row each (value: the sorted, disjoint ranges), since ranges that nest cannot be added next to each other.
"""

from __future__ import annotations

import sys
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from kpx.kernel.wire.nft import DATA_VERDICT, NFPROTO_IPV4, NFPROTO_IPV6, SetShape
from kpx.model.addresses import Address, Family, format_address
from kpx.model.names import Protocol
from kpx.policy.desired import Frontend
from kpx.reconcile.rows import Table

TABLE = "kpx"
AFFINITY_SIZE = 1 << 20
"""Most clients remembered a family and map; beyond it new clients get no affinity (A6)."""


class Field(Enum):
    """A part of a key: how long it is, nft's number for its type, packed."""

    ADDRESS = "address"
    PROTOCOL = "protocol"
    PORT = "port"
    SLOT = "slot"


class Value(Enum):
    """What a key maps to."""

    NOTHING = "set"
    VERDICT = "verdict"
    ENDPOINT = "endpoint"


class Schema(NamedTuple):
    """One set or map: its key, its value, its rank (see `Table`), what it is for in a line."""

    name: str
    key: tuple[Field, ...]
    value: Value
    rank: int
    comment: str
    shared: bool = False
    interval: bool = False
    dynamic: bool = False


A, P, S, N = Field.ADDRESS, Field.PROTOCOL, Field.PORT, Field.SLOT

SCHEMAS = (
    Schema("endpoints", (A, P, S, N), Value.ENDPOINT, 1, "frontend and slot to the endpoint in it"),
    Schema("nodeport-endpoints", (P, S, N), Value.ENDPOINT, 1, "node port and slot to the endpoint in it"),
    Schema("hairpin", (A, A), Value.NOTHING, 2, "endpoints that may reach themselves through a frontend", shared=True),
    Schema("masquerades", (A, P, S), Value.VERDICT, 2, "frontend to how the client's address is treated"),
    Schema("nodeport-masquerades", (P, S, A, S), Value.VERDICT, 2, "node port and endpoint to how the client is treated"),
    Schema("keeping", (A, P, S), Value.NOTHING, 2, "frontends whose clients keep their address, all but this host"),
    Schema("nodeport-keeping", (P, S, A, S), Value.NOTHING, 2, "node ports and endpoints whose clients keep their address"),
    Schema("sticky", (A, P, S), Value.VERDICT, 2, "frontends with session affinity to what records it"),
    Schema("nodeport-sticky", (P, S, A, S), Value.VERDICT, 2, "node port with session affinity and endpoint to what records it"),
    Schema("affinity", (A, A, P, S), Value.ENDPOINT, 2, "client and frontend to its endpoint, filled by rules", dynamic=True),
    Schema("nodeport-affinity", (A, P, S), Value.ENDPOINT, 2, "client and node port to its endpoint", dynamic=True),
    Schema("servers", (A, P, S), Value.NOTHING, 2, "endpoints and their ports, whose strays are dropped", shared=True),
    Schema("pingable", (A,), Value.NOTHING, 2, "addresses of Services that answer pings", shared=True),
    Schema("node-addresses", (A,), Value.NOTHING, 2, "addresses of this node that answer on node ports"),
    Schema("pod-sources", (A,), Value.NOTHING, 2, "addresses of pods, whose own address is kept", interval=True),
    Schema("pod-clients", (A,), Value.NOTHING, 2, "clients that came in by the interface of pods", dynamic=True),
    Schema("ranged", (A, P, S), Value.VERDICT, 4, "frontend that only some sources may use to the choice for those"),
    Schema("frontends-inside", (A, P, S), Value.VERDICT, 3, "frontend to the choice for pods and this host"),
    Schema("frontends-outside", (A, P, S), Value.VERDICT, 3, "frontend to the choice for everybody else"),
    Schema("nodeports-inside", (P, S), Value.VERDICT, 3, "node port to the choice for pods and this host"),
    Schema("nodeports-outside", (P, S), Value.VERDICT, 3, "node port to the choice for everybody else"),
    Schema("frontends", (A, P, S), Value.VERDICT, 5, "address, protocol, port to the choice among its endpoints"),
    Schema("nodeports", (P, S), Value.VERDICT, 5, "node port to the choice among its endpoints"),
    Schema("refused", (A, P, S), Value.NOTHING, 5, "frontends without endpoints"),
    Schema("nodeport-refused", (P, S), Value.NOTHING, 5, "node ports without endpoints"),
    Schema("captured", (A,), Value.NOTHING, 5, "external and load-balancer addresses, never dropped as unowned", shared=True),
    Schema("cluster-ips", (A,), Value.NOTHING, 6, "ClusterIPs, whose other ports are refused", shared=True),
    Schema("service-cidrs", (A,), Value.NOTHING, 6, "ranges of ClusterIPs; addresses nobody owns are dropped", interval=True),
)
BY_NAME = {schema.name: schema for schema in SCHEMAS}

FAMILY_NAMES = {Family.IPV4: "ip", Family.IPV6: "ip6"}
FAMILIES = {name: family for family, name in FAMILY_NAMES.items()}
NFPROTOS = {Family.IPV4: NFPROTO_IPV4, Family.IPV6: NFPROTO_IPV6}
ADDRESS_BYTES = {Family.IPV4: 4, Family.IPV6: 16}
ROWS = {
    (family, schema.name): Table(FAMILY_NAMES[family], schema.name, schema.rank, schema.shared)
    for family in Family
    for schema in SCHEMAS
    if not schema.dynamic
}
"""Every table of rows of sets, by family and name; the dynamic maps are state of the kernel's own and hold no rows."""
CHAINS = {family: Table(name, "chains", 0, shared=True) for family, name in FAMILY_NAMES.items()}

_PROTOCOLS = frozenset(Protocol)
_NFT_TYPES = {Field.PROTOCOL: 12, Field.PORT: 13, Field.SLOT: 19}
_WIDTHS = {Field.PROTOCOL: 1, Field.PORT: 2, Field.SLOT: 4}


def shape(schema: Schema, family: Family) -> SetShape:
    """Return the kernel's type of a set or map (nft numbers a concatenation's type six bits a part)."""
    address_type, width = (7, 4) if family == Family.IPV4 else (8, 16)
    types = [address_type if field is A else _NFT_TYPES[field] for field in schema.key]
    number = 0
    for kind in types:
        number = number << 6 | kind
    data_type, data_bytes = {
        Value.NOTHING: (None, 0),
        Value.VERDICT: (DATA_VERDICT, 16),
        Value.ENDPOINT: (address_type << 6 | 13, width + 4),
    }[schema.value]
    fields = tuple(width if field is A else _WIDTHS[field] for field in schema.key)
    size = AFFINITY_SIZE if schema.dynamic else 0
    return SetShape(number, fields, data_type, data_bytes, schema.interval, schema.dynamic, size)


def frontend_key(address: bytes, protocol: int, port: int) -> bytes:
    """Pack `address . protocol . port`; without an address (a node port) `protocol . port`."""
    return address + bytes((protocol, 0, 0, 0)) + port.to_bytes(2, "big") + b"\0\0"


def endpoint_value(address: bytes, port: int) -> bytes:
    """Pack `address . port`."""
    return address + port.to_bytes(2, "big") + b"\0\0"


@lru_cache(maxsize=4096)
def service_tail(protocol: int, port: int) -> bytes:
    """Pack `protocol . port`, what a server's key has behind its address; nearly all endpoints share a few."""
    return frontend_key(b"", protocol, port)


@lru_cache(maxsize=4096)
def port_tail(port: int) -> bytes:
    """Pack `port`, what an endpoint has behind its address."""
    return endpoint_value(b"", port)


def read_endpoint(value: bytes) -> tuple[Address, int]:
    """Unpack `address . port`."""
    return Address(value[:-4]), int.from_bytes(value[-4:-2], "big")


def read_frontend(family: Family, key: bytes) -> Frontend | None:
    """Unpack `[address .] protocol . port`; None for a protocol no Service has, which only somebody else writes."""
    if key[-8] not in _PROTOCOLS:
        return None
    return Frontend(family, Address(key[:-8]), Protocol(key[-8]), int.from_bytes(key[-4:-2], "big"))


def fields(schema: Schema, family: Family, key: bytes) -> list[bytes]:
    """Split a packed key into its fields, padding included."""
    parts, position = [], 0
    for field in schema.key:
        width = ADDRESS_BYTES[family] if field is A else 4
        parts.append(key[position : position + width])
        position += width
    return parts


def print_key(schema: Schema, family: Family, key: bytes) -> str:
    """Spell a key as nft does."""
    return " . ".join(_print_field(field, raw) for field, raw in zip(schema.key, fields(schema, family, key), strict=True))


def _print_field(field: Field, raw: bytes) -> str:
    if field is A:
        return format_address(raw)
    if field is P:
        return str(Protocol(raw[0])).lower() if raw[0] in _PROTOCOLS else str(raw[0])
    if field is S:
        return str(int.from_bytes(raw[:2], "big"))
    return f"0x{int.from_bytes(raw, sys.byteorder):08x}"


def print_value(schema: Schema, value: object) -> str:
    """Spell a value as nft does, "" for a member of a set."""
    if isinstance(value, bytes) and schema.value is Value.ENDPOINT:
        address, port = read_endpoint(value)
        return f"{format_address(address)} . {port}"
    return str(value) if schema.value is Value.VERDICT else ""
