"""
Netlink attributes: type, length, payload, padded to four bytes (include/uapi/linux/netlink.h).

Lengths are 16 bits, so one attribute, nested ones included, holds at most 65,535 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

_HEADER = struct.Struct("=HH")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


def attr(kind: int, payload: bytes) -> bytes:
    """Pack one attribute; `payload` is at most 65,531 bytes (struct.error beyond)."""
    length = len(payload)
    return _HEADER.pack(length + 4, kind) + payload + _PADDING[length & 3]


def nested(kind: int, *children: bytes) -> bytes:
    """Pack an attribute that holds attributes."""
    return attr(kind | NLA_F_NESTED, b"".join(children))


def be32(kind: int, value: int) -> bytes:
    """Pack a 32-bit number, network order; negative numbers as two's complement."""
    return attr(kind, (value & 0xFFFFFFFF).to_bytes(4, "big"))


def be64(kind: int, value: int) -> bytes:
    """Pack a 64-bit number, network order."""
    return attr(kind, value.to_bytes(8, "big"))


def string(kind: int, text: str) -> bytes:
    """Pack a NUL-terminated string."""
    return attr(kind, text.encode() + b"\0")


def walk(buffer: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """
    Yield (type, payload start, payload end) for each attribute in buffer[start:end].

    Stops silently at a truncated attribute, as the kernel's own parser does.
    """
    position = start
    while position + 4 <= end:
        length, kind = _HEADER.unpack_from(buffer, position)
        if length < 4 or position + length > end:
            return
        yield kind & NLA_TYPE_MASK, position + 4, position + length
        position += (length + 3) & ~3


def attrs(buffer: bytes, start: int = 0, end: int | None = None) -> dict[int, bytes]:
    """Return the attributes in buffer[start:end] by type; of a repeated type the last one."""
    return {kind: buffer[first:last] for kind, first, last in walk(buffer, start, len(buffer) if end is None else end)}


def text(payload: bytes) -> str:
    """Read a NUL-terminated string payload."""
    return payload.rstrip(b"\0").decode(errors="replace")
