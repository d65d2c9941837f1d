"""
How elements of ipsets are laid out: the hot path of packing and reading them.

Elements that have the same fields are laid out alike: attribute headers, which are constant, with the values in between. One call
of `struct` packs or reads the whole. The order is the one in which every kernel so far writes (ip_set_hash_*.c, ..._data_list()).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from kpx.kernel.wire.attr import NLA_F_NESTED

ATTR_DATA, ATTR_LINENO = 7, 9
DATA_IP, DATA_CIDR, DATA_PORT, DATA_TIMEOUT, DATA_PROTO, DATA_IP2, DATA_CIDR2 = 1, 3, 4, 6, 7, 20, 21
IPADDR_IPV4, IPADDR_IPV6 = 1, 2
NLA_F_NET_BYTEORDER = 0x4000

ADDRESS, LENGTH, PROTOCOL, PORT, SECOND, SECOND_LENGTH, TIMEOUT = range(7)
"""The fields of an element, as indices."""

Signature = tuple[int, bool, bool, bool, bool, bool]
_DEFAULTS = (None, 0, b"")
_DEFAULT_OF = {LENGTH: 0, PROTOCOL: 1, PORT: 1, SECOND: 2, SECOND_LENGTH: 0, TIMEOUT: 0}


def signature_of(element: tuple[bytes, int | None, int, int, bytes, int | None, int | None]) -> Signature:
    """Tell which fields an element has: size of its addresses, prefix, port, second address, second prefix, timeout."""
    address, length, protocol, _, second, second_length, timeout = element
    return len(address), length is not None, protocol != 0, second != b"", second_length is not None, timeout is not None


class Layout:
    """
    The layout of all elements of one signature.

    `spots` has the offset and the size in bytes of each field. `size`, `unpack_from` and `headers` are for reading: an element
    whose every second value equals `headers` is laid out so, and `fields` picks its fields, defaults included, out of the values.
    """

    def __init__(self, signature: Signature) -> None:
        size, length, port, second, second_length, timeout = signature
        parts = [
            (True, ADDRESS, f"{size}s", size),
            (second, SECOND, f"{size}s", size),
            (length, LENGTH, "B3x", 1),
            (second_length, SECOND_LENGTH, "B3x", 1),
            (port, PORT, "H2x", 2),
            (port, PROTOCOL, "B3x", 1),
            (timeout, TIMEOUT, "I", 4),
        ]
        chosen = [part[1:] for part in parts if part[0]]
        self._chosen = [field for field, _, _ in chosen]
        self._written = _headers(size, NLA_F_NET_BYTEORDER)
        read = _headers(size, 0)
        self._format = ">"
        self.spots: dict[int, tuple[int, int]] = {}
        for field, code, width in chosen:
            # The address's headers come together with the element's own.
            self._format += f"{len(read[field]) + 4 * (not field)}s"
            self.spots[field] = struct.calcsize(self._format), width
            self._format += code
        reader = struct.Struct(self._format)
        self.size = reader.size
        self.unpack_from = reader.unpack_from
        self.headers = (_own_header(self.size) + read[ADDRESS], *(read[field] for field in self._chosen[1:]))
        count = 2 * len(self._chosen)
        places = {field: 2 * index + 1 for index, field in enumerate(self._chosen)}
        places |= {field: count + place for field, place in _DEFAULT_OF.items() if field not in places}
        self._pick = itemgetter(*(places[field] for field in range(7)))

    def fields(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the seven fields of an element out of what `unpack_from` returned."""
        picked: tuple[Any, ...] = self._pick(values + _DEFAULTS)
        return picked

    def packer(self) -> Callable[[Sequence[Any], int], bytes]:
        """Return a function that packs an element with its line number, which the kernel hands back if it refuses it."""
        numbered = struct.Struct(self._format + "4sI")
        values: list[Any] = [_own_header(numbered.size) + self._written[ADDRESS], 0]
        for field in self._chosen[1:]:
            values += [self._written[field], 0]
        values += [struct.pack("=HH", 8, ATTR_LINENO), 0]
        within = slice(1, -2, 2)
        fields = itemgetter(*self._chosen) if len(self._chosen) > 1 else itemgetter(slice(ADDRESS, ADDRESS + 1))
        pack = numbered.pack

        def pack_element(element: Sequence[Any], line: int) -> bytes:
            values[within] = fields(element)
            values[-1] = line
            return pack(*values)

        return pack_element


def _own_header(size: int) -> bytes:
    return struct.pack("=HH", size, ATTR_DATA | NLA_F_NESTED)


def _headers(size: int, order: int) -> dict[int, bytes]:
    """Return each field's attribute headers; `order` marks addresses as in network order: the kernel demands it and omits it."""
    address = struct.pack("=HH", size + 4, (IPADDR_IPV4 if size == 4 else IPADDR_IPV6) | order)
    return {
        ADDRESS: struct.pack("=HH", size + 8, DATA_IP | NLA_F_NESTED) + address,
        SECOND: struct.pack("=HH", size + 8, DATA_IP2 | NLA_F_NESTED) + address,
        LENGTH: struct.pack("=HH", 5, DATA_CIDR),
        SECOND_LENGTH: struct.pack("=HH", 5, DATA_CIDR2),
        PORT: struct.pack("=HH", 6, DATA_PORT | NLA_F_NET_BYTEORDER),
        PROTOCOL: struct.pack("=HH", 5, DATA_PROTO),
        TIMEOUT: struct.pack("=HH", 8, DATA_TIMEOUT | NLA_F_NET_BYTEORDER),
    }


@lru_cache(maxsize=64)
def layout_of(signature: Signature) -> Layout:
    """Return the layout of elements of a signature."""
    return Layout(signature)
