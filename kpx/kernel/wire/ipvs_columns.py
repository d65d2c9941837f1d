"""
Messages about many virtual servers or destinations at once, which differ in nothing but whom they are about.

A key is packed: a server is `address protocol port` (4 or 16, 1 and 2 bytes, network order), a destination is its server's key
followed by its own address and port.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from typing import overload

from kpx.kernel.wire.columns import Field, filled, number
from kpx.kernel.wire.ipvs import Destination, ServerKey, ServerSettings, destination_message, server_message
from kpx.kernel.wire.message import HEADER_BYTES, NLM_F_ACK, NLM_F_REQUEST, message

_FLAGS_AT, _SEQUENCE_AT = 6, 8
_PROTOCOL_AT = 20 + (sys.byteorder == "big")
_ADDRESS_AT = 28
"""Behind the generic netlink header, the nest's header, the address family, the protocol and the attribute's header."""


class AlikeMessages(Sequence[bytes]):
    """
    Messages as `kpx.kernel.wire.ipvs` packs them, alike but for their keys.

    Args:
        template: the message for the first key. keys: at least one, all of one width.
    """

    def __init__(self, template: bytes, fields: tuple[Field, ...], keys: Sequence[bytes]) -> None:
        self._template = template
        self._fields = fields
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> AlikeMessages: ...
    def __getitem__(self, index: int | slice) -> bytes | AlikeMessages:
        if isinstance(index, slice):
            return AlikeMessages(self._template, self._fields, self._keys[index])
        return bytes(filled(self._template, self._fields, [self._keys[index]]))

    def datagram(self, kind: int, sequences: range) -> bytearray:
        """
        Pack them with netlink headers into one datagram; the last one asks for an acknowledgement.

        Args:
            kind: message type, the number of the generic netlink family. sequences: a number for each message.
        """
        framed = message(kind, NLM_F_REQUEST, 0, self._template)
        fields = [Field(place + HEADER_BYTES, start, size) for place, start, size in self._fields]
        stride = len(framed)
        packed = filled(framed, fields, self._keys)
        number(packed, stride, _SEQUENCE_AT, sequences)
        struct.pack_into("=H", packed, len(packed) - stride + _FLAGS_AT, NLM_F_REQUEST | NLM_F_ACK)
        return packed


def _server_fields(width: int) -> tuple[Field, ...]:
    port_at = _ADDRESS_AT + width + 4
    return Field(_ADDRESS_AT, 0, width), Field(_PROTOCOL_AT, width, 1), Field(port_at, width + 1, 2)


def _destination_fields(width: int) -> tuple[Field, ...]:
    address_at = _ADDRESS_AT + width + 4 + 4 + 4 + 4
    port_at = address_at + width + 4
    start = width + 3
    return *_server_fields(width), Field(address_at, start, width), Field(port_at, start + width, 2)


_WIDTHS = {4: 4, 6: 16}
_SERVER_FIELDS = {family: _server_fields(width) for family, width in _WIDTHS.items()}
_DESTINATION_FIELDS = {family: _destination_fields(width) for family, width in _WIDTHS.items()}


def _server_key(family: int, key: bytes) -> ServerKey:
    width = _WIDTHS[family]
    return ServerKey(family, key[:width], key[width], int.from_bytes(key[width + 1 : width + 3], "big"))


def server_messages(command: int, family: int, keys: Sequence[bytes], settings: ServerSettings | None = None) -> AlikeMessages:
    """Pack a message of `server_message` for each key; there must be at least one."""
    template = server_message(command, _server_key(family, keys[0]), settings)
    return AlikeMessages(template, _SERVER_FIELDS[family], keys)


def destination_messages(command: int, family: int, keys: Sequence[bytes], weight: int | None = None) -> AlikeMessages:
    """Pack a message of `destination_message` for each key; there must be at least one."""
    first = keys[0]
    destination = Destination(first[_WIDTHS[family] + 3 : -2], int.from_bytes(first[-2:], "big"))
    template = destination_message(command, _server_key(family, first), destination, weight)
    return AlikeMessages(template, _DESTINATION_FIELDS[family], keys)
