"""
IPVS on the wire: what concerns a network namespace as a whole, that is timeouts and the version.

Source: include/uapi/linux/ip_vs.h, net/netfilter/ipvs/ip_vs_ctl.c. Numbers are in host order.
"""

from __future__ import annotations

import struct
import sys
from typing import NamedTuple

from kpx.kernel.wire.attr import attr, attrs
from kpx.kernel.wire.generic import GENLMSGHDR_BYTES, genlmsghdr
from kpx.kernel.wire.message import Message

IPVS_CMD_SET_CONFIG, IPVS_CMD_GET_CONFIG, IPVS_CMD_GET_INFO = 12, 13, 15
CMD_TIMEOUT_TCP, CMD_TIMEOUT_TCP_FIN, CMD_TIMEOUT_UDP = 4, 5, 6
INFO_VERSION = 1

_U32 = struct.Struct("=I")


class Timeouts(NamedTuple):
    """Idle timeouts of connections, seconds: established TCP, TCP after a FIN, UDP."""

    tcp_s: int
    tcp_fin_s: int
    udp_s: int


def get_config() -> bytes:
    """Pack a request for the timeouts."""
    return genlmsghdr(IPVS_CMD_GET_CONFIG)


def set_timeouts(tcp_s: int, tcp_fin_s: int, udp_s: int) -> bytes:
    """Pack a change of idle timeouts in seconds; 0 leaves one as it is."""
    values = ((CMD_TIMEOUT_TCP, tcp_s), (CMD_TIMEOUT_TCP_FIN, tcp_fin_s), (CMD_TIMEOUT_UDP, udp_s))
    return genlmsghdr(IPVS_CMD_SET_CONFIG) + b"".join(attr(kind, _U32.pack(value)) for kind, value in values if value)


def read_timeouts(datagram: bytes, message: Message) -> Timeouts:
    """Read the answer to `get_config`."""
    fields = attrs(datagram, message.start + GENLMSGHDR_BYTES, message.end)
    kinds = (CMD_TIMEOUT_TCP, CMD_TIMEOUT_TCP_FIN, CMD_TIMEOUT_UDP)
    return Timeouts(*(int.from_bytes(fields[kind], sys.byteorder) for kind in kinds))


def get_info() -> bytes:
    """Pack a request for the version."""
    return genlmsghdr(IPVS_CMD_GET_INFO)


def read_version(datagram: bytes, message: Message) -> tuple[int, int, int]:
    """Read the answer to `get_info`: 1.2.1 since 2004."""
    fields = attrs(datagram, message.start + GENLMSGHDR_BYTES, message.end)
    code = int.from_bytes(fields[INFO_VERSION], sys.byteorder)
    return code >> 16 & 0xFF, code >> 8 & 0xFF, code & 0xFF
