"""
Sets of addresses that iptables rules match, on the wire (ipset).

A message here is everything behind the netlink header.

Source: include/uapi/linux/netfilter/ipset/ip_set.h, net/netfilter/ipset/ip_set_core.c and ip_set_hash_*.c. Numbers are in network
order, and must say so (NLA_F_NET_BYTEORDER); line numbers alone are opaque to the kernel.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from kpx.kernel.wire.attr import NLA_F_NESTED, attr, attrs, be32, nested, string, text, walk
from kpx.kernel.wire.ipset_element import (
    ATTR_DATA,
    ATTR_LINENO,
    DATA_CIDR,
    DATA_CIDR2,
    DATA_IP,
    DATA_IP2,
    DATA_PORT,
    DATA_PROTO,
    DATA_TIMEOUT,
    NLA_F_NET_BYTEORDER,
    Layout,
    Signature,
    layout_of,
    signature_of,
)
from kpx.kernel.wire.message import HEADER_BYTES, NFGENMSG_BYTES, Message, nfgenmsg

NFNL_SUBSYS_IPSET = 6
IPSET_PROTOCOL = 6
"""What Linux 2.6.39 and all later kernels speak; 7 adds nothing that is used here."""

PROTOCOL, CREATE, DESTROY, FLUSH, RENAME, SWAP, LIST = (NFNL_SUBSYS_IPSET << 8 | command for command in range(1, 8))
ADD, DEL, HEADER = (NFNL_SUBSYS_IPSET << 8 | command for command in (9, 10, 12))

ATTR_PROTOCOL, ATTR_SETNAME, ATTR_TYPENAME, ATTR_REVISION, ATTR_FAMILY, ATTR_FLAGS = range(1, 7)
ATTR_ADT = 8
ATTR_SETNAME2 = ATTR_TYPENAME
DATA_MAXELEM, DATA_ELEMENTS = 19, 24

FLAG_LIST_SETNAME, FLAG_LIST_HEADER = 1 << 1, 1 << 2

NAME_MAX_BYTES = 31
ELEMENTS_MAX_BYTES = 60_000
"""Payload of one message's element list: one attribute is at most 65,535 bytes."""

_NFPROTO = {4: 2, 6: 10}
_VERSION = {2: 4, 10: 6}
_LENGTH = struct.Struct("=H")

_REVISIONS = {"hash:ip,port": 1, "hash:ip,port,ip": 1}
"""The oldest revision of a kind that can what is needed (1: SCTP), so that old ipset(8) can list the sets of new kernels."""

IPSET_ERR_FIND_TYPE = 4098
ERRORS = {
    4097: "the kernel does not understand the message",
    IPSET_ERR_FIND_TYPE: "the kernel has no sets of this kind",
    4099: "there are as many sets as the kernel allows",
    4100: "the set is in use",
    4101: "a set of the new name exists",
    4102: "the sets are of different kinds",
    4103: "the element, or a set of this name, exists",
    4104: "the prefix length is out of range",
    4106: "this kind of set has no such IP family",
    4107: "the set has no timeouts",
    4108: "the set is in use",
    4109: "an IPv4 address is wanted",
    4110: "an IPv6 address is wanted",
    4352: "the set is full",
    4353: "the element does not fit the kind of set",
    4354: "the protocol is missing or wrong",
    4355: "the protocol is missing or wrong",
}
"""What the numbers beyond errno mean (enum ipset_errno; from 4352 on those of hash sets, ip_set_hash.h)."""


class SetShape(NamedTuple):
    """
    What a set is.

    Args:
        name: at most 31 bytes. kind: of `hash:ip`, `hash:net`, `hash:ip,port`, `hash:net,net`, `hash:ip,port,ip`.
        family: IP version, 4 or 6. max_elements: the kernel's own default is 65,536 (D17).
        timeout: elements may have one; those without stay for ever.
    """

    name: str
    kind: str
    family: int
    max_elements: int
    timeout: bool = False


class Element(NamedTuple):
    """
    An element; which fields it has must fit its set's kind.

    Args:
        address: packed. length: of the prefix in bits, 1 and up, for kinds with `net`; the host bits are zero.
        protocol, port: IP protocol number and port, for kinds with `port`.
        second, second_length: the second address, for kinds with two.
        timeout_s: for sets with timeouts; 0 is for ever. When read, what is left of it.
    """

    address: bytes
    length: int | None = None
    protocol: int = 0
    port: int = 0
    second: bytes = b""
    second_length: int | None = None
    timeout_s: int | None = None


def _base(name: str) -> bytes:
    return nfgenmsg(_NFPROTO[4]) + attr(ATTR_PROTOCOL, bytes([IPSET_PROTOCOL])) + (string(ATTR_SETNAME, name) if name else b"")


def protocol() -> bytes:
    """Pack a request for the protocol versions, to learn whether there are sets at all."""
    return _base("")


def create(shape: SetShape) -> bytes:
    """Pack the creation of a set; without NLM_F_EXCL the kernel takes a set of the same kind and options as done."""
    data = be32(DATA_MAXELEM | NLA_F_NET_BYTEORDER, shape.max_elements)
    if shape.timeout:
        data += be32(DATA_TIMEOUT | NLA_F_NET_BYTEORDER, 0)
    return (
        _base(shape.name)
        + string(ATTR_TYPENAME, shape.kind)
        + attr(ATTR_REVISION, bytes([_REVISIONS.get(shape.kind, 0)]))
        + attr(ATTR_FAMILY, bytes([_NFPROTO[shape.family]]))
        + nested(ATTR_DATA, data)
    )


def named(name: str) -> bytes:
    """Pack what DESTROY, FLUSH, HEADER, and LIST of one set with its elements take: its name."""
    return _base(name)


def pair(name: str, other: str) -> bytes:
    """Pack what RENAME (to a name that is free) and SWAP (of two sets of one kind) take."""
    return _base(name) + string(ATTR_SETNAME2, other)


def list_names() -> bytes:
    """Pack a LIST of the names of all sets."""
    return _base("") + be32(ATTR_FLAGS, FLAG_LIST_SETNAME)


def list_header(name: str) -> bytes:
    """Pack a LIST of one set without its elements; HEADER does not tell the options."""
    return _base(name) + be32(ATTR_FLAGS, FLAG_LIST_HEADER)


def elements_prefix(name: str) -> bytes:
    """Pack what comes before the elements in ADD and DEL."""
    return _base(name) + be32(ATTR_LINENO, 0)


def element_messages(name: str, elements: Sequence[Element]) -> Iterator[tuple[bytes, int, int]]:
    """
    Pack what ADD and DEL take, as many elements a message as fit.

    Elements carry their index + 1 as line number, so that a refusal names its element (`refused_line`). Those before it in its
    message took effect, those behind it did not.

    Yields:
        (message, index of its first element, index behind its last)
    """
    prefix = elements_prefix(name)
    known: Signature | None = None
    pack: Callable[[Sequence[Any], int], bytes]
    packed: list[bytes] = []
    first = size = 0
    for index, element in enumerate(elements):
        signature = signature_of(element)
        if signature != known:
            known, pack = signature, layout_of(signature).packer()
        item = pack(element, index + 1)
        if size + len(item) > ELEMENTS_MAX_BYTES:
            yield prefix + attr(ATTR_ADT | NLA_F_NESTED, b"".join(packed)), first, index
            packed, first, size = [], index, 0
        packed.append(item)
        size += len(item)
    if packed:
        yield prefix + attr(ATTR_ADT | NLA_F_NESTED, b"".join(packed)), first, len(elements)


def refused_line(datagram: bytes, error: Message) -> int:
    """Read the line number out of an NLMSG_ERROR, which holds the whole message refused; 0 when it names no element."""
    start = error.start + 4 + HEADER_BYTES + NFGENMSG_BYTES
    return int.from_bytes(attrs(datagram, start, error.end).get(ATTR_LINENO, b""), "big")


def read_name(datagram: bytes, message: Message) -> str:
    """Read a set's name out of one message of any list."""
    return text(attrs(datagram, message.start + NFGENMSG_BYTES, message.end)[ATTR_SETNAME])


def read_shape(datagram: bytes, message: Message) -> SetShape:
    """
    Read the answer to `list_header`.

    Raises:
        KeyError: the message does not describe a set.
    """
    fields = attrs(datagram, message.start + NFGENMSG_BYTES, message.end)
    data = attrs(fields[ATTR_DATA])
    most = int.from_bytes(data.get(DATA_MAXELEM, b""), "big")
    family = _VERSION.get(fields[ATTR_FAMILY][0], 4)  # a set of sets has none
    return SetShape(text(fields[ATTR_SETNAME]), text(fields[ATTR_TYPENAME]), family, most, DATA_TIMEOUT in data)


def read_count(datagram: bytes, message: Message) -> int | None:
    """Read the number of elements out of the answer to `list_header`; None from kernels before 4.9, which do not tell."""
    data = attrs(attrs(datagram, message.start + NFGENMSG_BYTES, message.end)[ATTR_DATA])
    return int.from_bytes(data[DATA_ELEMENTS], "big") if DATA_ELEMENTS in data else None


def read_elements(datagram: bytes, message: Message) -> Iterator[Element]:
    """Yield the elements in one message of a list; those without an address (other kinds of sets) are left out."""
    for kind, first, last in walk(datagram, message.start + NFGENMSG_BYTES, message.end):
        if kind == ATTR_ADT:
            yield from _read_elements(datagram, first, last)


def _read_elements(datagram: bytes, start: int, end: int) -> Iterator[Element]:
    """Read the first element attribute by attribute, and those laid out alike with one call each."""
    layout: Layout | None = None
    position = start
    while position + 4 <= end:
        if layout is not None and position + layout.size <= end:
            values = layout.unpack_from(datagram, position)
            if values[::2] == layout.headers:
                yield Element._make(layout.fields(values))
                position += layout.size
                continue
        length = _LENGTH.unpack_from(datagram, position)[0]
        if length < 4 or position + length > end:
            return
        element = _any_element(datagram, position + 4, position + length)
        if element is not None:
            layout = layout_of(signature_of(element))
            yield element
        position += (length + 3) & ~3


def _any_element(datagram: bytes, start: int, end: int) -> Element | None:
    """Read an element whatever the order of its attributes."""
    fields = attrs(datagram, start, end)
    if DATA_IP not in fields:
        return None
    number = {kind: int.from_bytes(fields[kind], "big") for kind in fields.keys() - {DATA_IP, DATA_IP2}}
    return Element(
        fields[DATA_IP][4:],
        number.get(DATA_CIDR),
        number.get(DATA_PROTO, 0),
        number.get(DATA_PORT, 0),
        fields.get(DATA_IP2, b"")[4:],
        number.get(DATA_CIDR2),
        number.get(DATA_TIMEOUT),
    )
