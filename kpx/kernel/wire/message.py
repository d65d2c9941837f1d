"""
Netlink messages: the header, acknowledgements, and how a datagram falls apart into messages.

Source: include/uapi/linux/netlink.h; extended acknowledgements since Linux 4.12 (NLMSGERR_ATTR_*).
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

from kpx.kernel.wire.attr import walk

NLM_F_REQUEST = 0x001
NLM_F_MULTI = 0x002
NLM_F_ACK = 0x004
NLM_F_DUMP_INTR = 0x010
NLM_F_DUMP = 0x300
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200

NLMSG_ERROR = 2
NLMSG_DONE = 3

_HEADER = struct.Struct("=IHHII")
_NFGENMSG = struct.Struct(">BBH")
_CUT = (0, 0, 0, 0, 0)
HEADER_BYTES = 16
NFGENMSG_BYTES = 4


class Message(NamedTuple):
    """One message of a datagram: the payload is datagram[start:end], behind the netlink header."""

    kind: int
    flags: int
    sequence: int
    port: int
    start: int
    end: int


class Acknowledgement(NamedTuple):
    """
    What the kernel answers to one message: errno 0 is success.

    Args:
        offset: of the attribute it complains about, counted from the message's header; None when it did not say.
        text: the kernel's own words, "" if none.
    """

    sequence: int
    errno: int
    offset: int | None = None
    text: str = ""


def message(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """Pack a message; `payload` is already padded to four bytes."""
    return _HEADER.pack(HEADER_BYTES + len(payload), kind, flags, sequence, 0) + payload


def nfgenmsg(family: int, resource: int = 0) -> bytes:
    """Pack the header every netfilter message carries (include/uapi/linux/netfilter/nfnetlink.h)."""
    return _NFGENMSG.pack(family, 0, resource)


def messages(datagram: bytes) -> Iterator[Message]:
    """
    Yield the messages of a datagram.

    Raises:
        ValueError: it ends within a message; those before were yielded.
    """
    position, size = 0, len(datagram)
    while position < size:
        length, kind, flags, sequence, port = _HEADER.unpack_from(datagram, position) if position + HEADER_BYTES <= size else _CUT
        if length < HEADER_BYTES or position + length > size:
            raise ValueError(f"a datagram of {size} bytes ends within the message at byte {position}")
        yield Message(kind, flags, sequence, port, position + HEADER_BYTES, position + length)
        position += (length + 3) & ~3


def acknowledgement(datagram: bytes, reply: Message) -> Acknowledgement:
    """Read an NLMSG_ERROR message."""
    (errno,) = struct.unpack_from("=i", datagram, reply.start)
    offset, words = None, ""
    if reply.flags & NLM_F_ACK_TLVS:
        (echoed,) = struct.unpack_from("=I", datagram, reply.start + 4)
        tail = reply.start + 4 + (HEADER_BYTES if reply.flags & NLM_F_CAPPED or not errno else (echoed + 3) & ~3)
        for kind, first, last in walk(datagram, tail, reply.end):
            if kind == 1:
                words = datagram[first:last].rstrip(b"\0").decode(errors="replace")
            elif kind == 2:
                (offset,) = struct.unpack_from("=I", datagram, first)
    return Acknowledgement(reply.sequence, -errno, offset, words)


def end_of_dump(datagram: bytes, reply: Message) -> Acknowledgement:
    """Read an NLMSG_DONE message: a dump that was given up midway has an errno (netlink_dump_done, net/netlink/af_netlink.c)."""
    return Acknowledgement(reply.sequence, -int.from_bytes(datagram[reply.start : reply.start + 4], sys.byteorder, signed=True))
