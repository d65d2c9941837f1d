"""
Elements of nf_tables sets and maps on the wire: the hot path.

Packing does nothing but concatenate bytes, some 3 us an element against the 136 us of a generic encoder; reading has a fast way
for the layout every kernel so far writes, and a walk for any other (include/uapi/linux/netfilter/nf_tables.h,
net/netfilter/nf_tables_api.c, nf_tables_fill_setelem).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from kpx.kernel.wire.attr import NLA_F_NESTED, attr, attrs, be32, be64, nested, string, text, walk
from kpx.kernel.wire.message import NFGENMSG_BYTES, nfgenmsg
from kpx.kernel.wire.nft import verdict

ELEMENT_INTERVAL_END = 1
ELEMENTS_MAX_BYTES = 60_000
"""Payload of one message's element list: one attribute is at most 65,535 bytes."""

_HEADER = struct.Struct("=HH").pack
_HEADERS = struct.Struct("=HHHH").pack
_READ_HEADER = struct.Struct("=HH").unpack_from


def value_data(value: bytes) -> bytes:
    """Pack an element's value, whose length is a multiple of four: what a map of addresses maps to."""
    length = len(value)
    return _HEADERS(length + 8, 2 | NLA_F_NESTED, length + 4, 1) + value


def verdict_data(code: int, chain: str = "") -> bytes:
    """Pack an element's verdict: what a verdict map maps to."""
    return nested(2, verdict(code, chain))


def element(key: bytes, data: bytes = b"", flags: int = 0, timeout_ms: int = 0) -> bytes:
    """Pack one element; the key's length is a multiple of four, `data` comes from `value_data` or `verdict_data`."""
    length = len(key)
    body = _HEADERS(length + 8, 1 | NLA_F_NESTED, length + 4, 1) + key + data
    if flags:
        body += be32(3, flags)
    if timeout_ms:
        body += be64(4, timeout_ms)
    return _HEADER(len(body) + 4, 1 | NLA_F_NESTED) + body


def members(keys: Sequence[bytes]) -> list[bytes]:
    """Pack elements of a set, or elements of a map to be deleted; all keys have one length."""
    if not keys:
        return []
    width = len(keys[0])
    head = element(bytes(width))[:-width]
    return [head + key for key in keys]


def pairs(keys: Sequence[bytes], values: Sequence[bytes]) -> list[bytes]:
    """Pack elements of a map of values; all keys have one length. A value of another length is the kernel's to refuse."""
    if not keys:
        return []
    if len(set(map(len, values))) > 1:
        return [element(key, value_data(value)) for key, value in zip(keys, values, strict=True)]
    key_bytes, value_bytes = len(keys[0]), len(values[0])
    middle = value_data(bytes(value_bytes))[:-value_bytes]
    head = element(bytes(key_bytes), value_data(bytes(value_bytes)))[: -key_bytes - value_bytes - len(middle)]
    return [head + key + middle + value for key, value in zip(keys, values, strict=True)]


def element_messages(family: int, table: str, name: str, packed: Sequence[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """
    Split elements over messages of at most 64 KiB of elements.

    Yields (payload without netlink header, index of its first element, index behind its last).
    """
    prefix = nfgenmsg(family) + string(1, table) + string(2, name)
    ends = list(accumulate(map(len, packed)))
    first = begins = 0
    while first < len(packed):
        last = max(first + 1, bisect_right(ends, begins + ELEMENTS_MAX_BYTES, first))
        yield prefix + attr(3 | NLA_F_NESTED, b"".join(packed[first:last])), first, last
        first, begins = last, ends[last - 1]


class Element(NamedTuple):
    """One element as the kernel tells it: `data` is a value, or (code, chain) for a verdict map, or None."""

    key: bytes
    data: bytes | tuple[int, str] | None
    flags: int
    timeout_ms: int
    expires_ms: int


def read_elements(datagram: bytes, start: int, end: int) -> Iterator[Element]:
    """Yield the elements of one NEWSETELEM message, whose payload is datagram[start:end]."""
    for kind, first, last in walk(datagram, start + NFGENMSG_BYTES, end):
        if kind == 3:
            for _, item, item_end in walk(datagram, first, last):
                yield _read_element(datagram, item, item_end)


def read_pairs(datagram: bytes, start: int, end: int, key_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """
    Yield (key, packed data) of the elements of one NEWSETELEM message, four times as fast as `read_elements`.

    It takes the key to come first and the data second, as every kernel so far writes them; an element that is laid out otherwise
    is walked. The data is NFTA_SET_ELEM_DATA's payload, b"" for a set; see `read_data`.
    """
    key_headers = _HEADERS(key_bytes + 8, 1, key_bytes + 4, 1)[:8]
    for kind, first, last in walk(datagram, start + NFGENMSG_BYTES, end):
        position = first if kind == 3 else last
        while position + 4 <= last:
            length, _ = _READ_HEADER(datagram, position)
            stop = position + length
            if length < 4 or stop > last:
                break  # as `walk` does
            behind = position + 12 + key_bytes
            if datagram[position + 4 : position + 12] == key_headers:
                size, what = _READ_HEADER(datagram, behind) if behind + 4 <= stop else (4, 2)
                if what == 2:
                    yield datagram[position + 12 : behind], datagram[behind + 4 : behind + size]
                    position += (length + 3) & ~3
                    continue
            fields = attrs(datagram, position + 4, stop)
            yield fields[1][4:], fields.get(2, b"")
            position += (length + 3) & ~3


def read_data(packed: bytes) -> bytes | tuple[int, str] | None:
    """Read an element's data: a value, or (code, chain) of a verdict, None when there is none."""
    return _read_data(packed, 0, len(packed))


def _read_element(datagram: bytes, start: int, end: int) -> Element:
    key, data, flags, timeout, expires = b"", None, 0, 0, 0
    for kind, first, last in walk(datagram, start, end):
        if kind == 1:
            key = datagram[first + 4 : last]
        elif kind == 2:
            data = _read_data(datagram, first, last)
        elif kind == 3:
            flags = int.from_bytes(datagram[first:last], "big")
        elif kind == 4:
            timeout = int.from_bytes(datagram[first:last], "big")
        elif kind == 5:
            expires = int.from_bytes(datagram[first:last], "big")
    return Element(key, data, flags, timeout, expires)


def _read_data(datagram: bytes, start: int, end: int) -> bytes | tuple[int, str] | None:
    for kind, first, last in walk(datagram, start, end):
        if kind == 1:
            return datagram[first:last]
        fields = attrs(datagram, first, last)
        return int.from_bytes(fields[1], "big", signed=True), text(fields.get(2, b""))
    return None
