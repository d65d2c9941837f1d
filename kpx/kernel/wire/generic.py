"""
Generic netlink: the header of its messages, and how a family's number is asked for by name.

Numbers are given out as families register, so that each socket has to ask (include/uapi/linux/genetlink.h).
"""

from __future__ import annotations

import struct
import sys

from kpx.kernel.wire.attr import attrs, string
from kpx.kernel.wire.message import Message

GENL_ID_CTRL = 16
CTRL_CMD_GETFAMILY = 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 1, 2
GENLMSGHDR_BYTES = 4

_HEADER = struct.Struct("=BBH")


def genlmsghdr(command: int, version: int = 1) -> bytes:
    """Pack the header every generic netlink message carries behind the netlink header."""
    return _HEADER.pack(command, version, 0)


def family_request(name: str) -> bytes:
    """Pack a question to the controller (`GENL_ID_CTRL`): which number does the family have; ENOENT when there is none."""
    return genlmsghdr(CTRL_CMD_GETFAMILY) + string(CTRL_ATTR_FAMILY_NAME, name)


def read_family(datagram: bytes, message: Message) -> int:
    """Read the controller's answer: the number, which is the message type to send to."""
    fields = attrs(datagram, message.start + GENLMSGHDR_BYTES, message.end)
    return int.from_bytes(fields[CTRL_ATTR_FAMILY_ID], sys.byteorder)
