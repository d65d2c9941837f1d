"""Kernel to rows: read back the table kpx owns, and nobody else's, and tell what is not as it should be."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TypeVar

from kpx.dataplanes.nftables.schema import CHAINS, NFPROTOS, ROWS, SCHEMAS, TABLE, Schema, Value, shape
from kpx.dataplanes.nftables.skeleton import HOOKS
from kpx.errors import KernelError
from kpx.kernel.legible import legible
from kpx.kernel.netlink import Netlink
from kpx.kernel.wire import nft, nft_element
from kpx.kernel.wire.attr import attrs, text
from kpx.kernel.wire.message import NFGENMSG_BYTES, Message
from kpx.model.addresses import Address, Family, Prefix
from kpx.reconcile.rows import Key, Rows
from kpx.reconcile.rows import Value as RowValue

DUMPS_MAX = 3
"""How often a dump is asked for again because somebody committed meanwhile; whoever touched our tables is noticed besides."""

T = TypeVar("T")

_VERDICTS = {nft.NF_DROP: "drop", nft.NFT_RETURN: "return", nft.NFT_GOTO: "goto ", nft.NFT_JUMP: "jump "}


def table_exists(netlink: Netlink, family: Family) -> bool:
    """Tell whether the kernel has our table of a family."""
    (sequence,) = netlink.sequences(1)
    try:
        netlink.request(nft.get_table(sequence, NFPROTOS[family], TABLE), sequence, "look for table kpx")
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            return False
        raise
    return True


@legible("read table kpx")
def misshapen(netlink: Netlink, family: Family) -> tuple[list[str], bool]:
    """
    Compare sets, maps and base chains with what they should be.

    Returns sentences about what is missing or of another type, and whether the table must be made anew for it (a set's type and
    a chain's hook cannot change).
    """
    sentences: list[str] = []
    anew = False
    sets = {text(fields[2]): fields for fields in _dump(netlink, nft.GETSET, family)}
    for schema in SCHEMAS:
        fields = sets.get(schema.name)
        if fields is None:
            sentences.append(f"{_where(family)} {schema.name} is missing")
        elif not _same_shape(schema, family, fields):
            sentences.append(f"{_where(family)} {schema.name} has another type")
            anew = True
    for name, hook in HOOKS.items():
        chain = _base_chain(netlink, family, name)
        if chain and not _same_hook(hook, chain):
            sentences.append(f"{_where(family)} chain {name} has another hook or priority")
            anew = True
    return sentences, anew


def _where(family: Family) -> str:
    return f"table {'ip' if family == Family.IPV4 else 'ip6'} {TABLE}:"


def _same_shape(schema: Schema, family: Family, fields: dict[int, bytes]) -> bool:
    wanted = shape(schema, family)
    return (
        int.from_bytes(fields.get(3, b""), "big") == wanted.flags
        and int.from_bytes(fields.get(4, b""), "big") == wanted.key_type
        and int.from_bytes(fields.get(5, b""), "big") == wanted.key_bytes
        and int.from_bytes(fields.get(6, b""), "big") == (wanted.data_type or 0)
    )


def _same_hook(hook: nft.BaseHook, fields: dict[int, bytes]) -> bool:
    place = attrs(fields.get(4, b""))
    return (
        int.from_bytes(place.get(1, b"\xff"), "big") == nft.HOOKS[hook.hook]
        and int.from_bytes(place.get(2, b""), "big", signed=True) == hook.priority
        and text(fields.get(7, b"")) == hook.type
    )


def _base_chain(netlink: Netlink, family: Family, name: str) -> dict[int, bytes]:
    """Ask for one chain; a dump of chains would be of everybody's, since the kernel does not filter it by table."""
    (sequence,) = netlink.sequences(1)
    try:
        reply = netlink.ask(nft.get_chain(sequence, NFPROTOS[family], TABLE, name), sequence, f"look for chain {name}")
    except KernelError as error:
        if error.errno == errno.ENOENT:
            return {}
        raise
    return attrs(reply[0], reply[1].start + NFGENMSG_BYTES, reply[1].end)


def _dump(netlink: Netlink, kind: int, family: Family, name: str = "") -> Iterable[dict[int, bytes]]:
    """Dump sets or rules; the kernel reads our table only."""

    def once() -> list[dict[int, bytes]]:
        (sequence,) = netlink.sequences(1)
        replies = netlink.dump(nft.dump(kind, sequence, NFPROTOS[family], TABLE, name), sequence, "read table kpx")
        found = (attrs(datagram, reply.start + NFGENMSG_BYTES, reply.end) for datagram, reply in replies)
        return [fields for fields in found if text(fields.get(1, b"")) == TABLE]

    return _consistent(netlink, once)


def _consistent(netlink: Netlink, read: Callable[[], T]) -> T:
    """Read, and again while the kernel says that something was committed meanwhile (U9)."""
    found = read()
    for _ in range(DUMPS_MAX - 1):
        if not netlink.interrupted:
            break
        found = read()
    return found


@legible("read table kpx")
def observe_family(netlink: Netlink, family: Family) -> Rows:
    """Return the rows of a family whose table exists. A chain without rules is no row: it does nothing."""
    rows: Rows = {}
    chains: dict[Key, RowValue] = {}
    for fields in _dump(netlink, nft.GETRULE, family):
        name = text(fields[2])
        comments = chains.get(name, ())
        assert isinstance(comments, tuple)
        chains[name] = (*comments, nft.read_comment(fields.get(7, b""), 0))
    rows[CHAINS[family]] = chains
    there = {text(fields[2]) for fields in _dump(netlink, nft.GETSET, family)}
    for schema in SCHEMAS:
        if not schema.dynamic and schema.name in there:
            rows[ROWS[family, schema.name]] = _observe_set(netlink, family, schema)
    return rows


def _observe_set(netlink: Netlink, family: Family, schema: Schema) -> dict[Key, RowValue]:
    if schema.interval:
        ranges = read_ranges(elements_of(netlink, family, schema.name))
        return {"ranges": ranges} if ranges else {}
    return _consistent(netlink, lambda: _read_rows(netlink, family, schema))


def _read_rows(netlink: Netlink, family: Family, schema: Schema) -> dict[Key, RowValue]:
    found: dict[Key, RowValue] = {}
    width = shape(schema, family).key_bytes
    for datagram, reply in _dump_elements(netlink, family, schema.name):
        for key, packed in nft_element.read_pairs(datagram, reply.start, reply.end, width):
            found[key] = packed[4:] if schema.value is Value.ENDPOINT else _verdict(packed) if packed else b""
    return found


@lru_cache(maxsize=4096)
def _verdict(packed: bytes) -> str:
    data = nft_element.read_data(packed)
    return _VERDICTS.get(data[0], "?") + data[1] if isinstance(data, tuple) else "?"


@legible("read a set of table kpx")
def elements_of(netlink: Netlink, family: Family, name: str) -> list[nft_element.Element]:
    """Return the elements of one of our sets."""

    def once() -> list[nft_element.Element]:
        replies = _dump_elements(netlink, family, name)
        return [item for datagram, reply in replies for item in nft_element.read_elements(datagram, reply.start, reply.end)]

    return _consistent(netlink, once)


def _dump_elements(netlink: Netlink, family: Family, name: str) -> Iterator[tuple[bytes, Message]]:
    (sequence,) = netlink.sequences(1)
    return netlink.dump(nft.dump(nft.GETSETELEM, sequence, NFPROTOS[family], TABLE, name), sequence, f"read map {name}")


def read_ranges(elements: Iterable[nft_element.Element]) -> tuple[Prefix, ...]:
    """Put the halves of an interval set together; a range that is no prefix comes back as one no desired row equals."""
    points = sorted((e.key, not e.flags & nft_element.ELEMENT_INTERVAL_END) for e in elements)
    ranges: list[Prefix] = []
    first: bytes | None = None
    for key, opens in points:
        if first is not None:
            ranges.append(_range(first, int.from_bytes(key, "big")))
        first = key if opens else None
    if first is not None:
        ranges.append(_range(first, 1 << (len(first) * 8)))
    return tuple(ranges)


def _range(first: bytes, behind: int) -> Prefix:
    size = behind - int.from_bytes(first, "big")
    length = len(first) * 8 - size.bit_length() + 1 if size & (size - 1) == 0 else -1
    return Prefix(Address(first), length)
