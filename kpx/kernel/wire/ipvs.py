"""
IPVS on the wire: virtual servers and their destinations.

A message here is everything behind the netlink header: generic netlink header and attributes. Destinations are the hot path:
there may be a quarter of a million of them, so what one virtual server's messages have in common is packed once.

Source: include/uapi/linux/ip_vs.h, net/netfilter/ipvs/ip_vs_ctl.c (contract ipvs.md 5.8). Numbers are in host order but for
ports and the IPv4 netmask; addresses of dumps always have 16 bytes.
"""

from __future__ import annotations

import struct
import sys
from functools import lru_cache
from typing import NamedTuple

from kpx.kernel.wire.attr import NLA_F_NESTED, attr, attrs, nested, string, text, walk
from kpx.kernel.wire.generic import GENLMSGHDR_BYTES, genlmsghdr
from kpx.kernel.wire.message import Message

FAMILY = "IPVS"

IPVS_CMD_NEW_SERVICE, IPVS_CMD_SET_SERVICE, IPVS_CMD_DEL_SERVICE, IPVS_CMD_GET_SERVICE = 1, 2, 3, 4
IPVS_CMD_NEW_DEST, IPVS_CMD_SET_DEST, IPVS_CMD_DEL_DEST, IPVS_CMD_GET_DEST = 5, 6, 7, 8
NEW_SERVER, SET_SERVER, DEL_SERVER = IPVS_CMD_NEW_SERVICE, IPVS_CMD_SET_SERVICE, IPVS_CMD_DEL_SERVICE
NEW_DESTINATION, SET_DESTINATION, DEL_DESTINATION = IPVS_CMD_NEW_DEST, IPVS_CMD_SET_DEST, IPVS_CMD_DEL_DEST

IP_VS_SVC_F_PERSISTENT = 0x01
IP_VS_SVC_F_HASHED = 0x02
IP_VS_SVC_F_ONEPACKET = 0x04
IP_VS_SVC_F_SCHED1 = 0x08
"""mh and sh: take another destination when the chosen one has weight 0 ("fallback")."""
IP_VS_SVC_F_SCHED2 = 0x10
"""mh and sh: hash the source port as well ("port")."""

IP_VS_CONN_F_MASQ = 0
"""The forwarding method of every destination of ours: rewrite the destination address."""

CMD_SERVICE, CMD_DEST = 1, 2
SVC_AF, SVC_PROTOCOL, SVC_ADDR, SVC_PORT, SVC_FWMARK, SVC_SCHED_NAME, SVC_FLAGS, SVC_TIMEOUT, SVC_NETMASK = range(1, 10)
DEST_ADDR, DEST_PORT, DEST_FWD_METHOD, DEST_WEIGHT, DEST_U_THRESH, DEST_L_THRESH = range(1, 7)
DEST_ACTIVE_CONNS, DEST_INACT_CONNS, DEST_PERSIST_CONNS, DEST_ADDR_FAMILY = 7, 8, 9, 11
DEST_TUN_TYPE, DEST_TUN_PORT, DEST_TUN_FLAGS = 13, 14, 15

_AF = {4: 2, 6: 10}
_VERSION = {2: 4, 10: 6}
_ADDRESS_BYTES = {4: 4, 6: 16}
_U32 = struct.Struct("=I")
_FULL_NETMASK = {4: b"\xff\xff\xff\xff", 6: _U32.pack(128)}
"""IPv4 wants a mask in network order, IPv6 a prefix length as a native number; anything else is EINVAL."""


class ServerKey(NamedTuple):
    """
    What identifies a virtual server.

    Args:
        family: IP version, 4 or 6. address: packed, b"" for a fwmark server. protocol: IP protocol number.
        fwmark: not 0 for a server that takes packets by their mark; kpx makes none, and sees them only to leave them alone.
    """

    family: int
    address: bytes
    protocol: int
    port: int
    fwmark: int = 0


class ServerSettings(NamedTuple):
    """
    What a virtual server does.

    Args:
        scheduler: name as in `ip_vs_<name>`. flags: IP_VS_SVC_F_* without HASHED, which is the kernel's own.
        timeout_s: how long a client stays with its destination when PERSISTENT is set; each client by itself (full netmask).
    """

    scheduler: str
    flags: int
    timeout_s: int


class Destination(NamedTuple):
    """Where a virtual server may send a connection, in the server's own family."""

    address: bytes
    port: int


class DestinationState(NamedTuple):
    """
    What the kernel tells of a destination.

    Args:
        weight: 0 takes no new connections. method: forwarding method, 0 is the only one kpx sets.
        active, inactive: connections. persistent: affinity entries that name it.
    """

    weight: int
    method: int
    active: int
    inactive: int
    persistent: int


def _u16(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=H", value))


def _u32(kind: int, value: int) -> bytes:
    return attr(kind, _U32.pack(value))


def _key_attributes(key: ServerKey) -> bytes:
    family = _u16(SVC_AF, _AF[key.family])
    if key.fwmark:
        return family + _u32(SVC_FWMARK, key.fwmark)
    port = attr(SVC_PORT, key.port.to_bytes(2, "big"))
    return family + _u16(SVC_PROTOCOL, key.protocol) + attr(SVC_ADDR, key.address) + port


def _setting_attributes(scheduler: str, flags: int, timeout_s: int, netmask: bytes) -> bytes:
    # All bits of the mask: a flag that is not asked for is cleared.
    return (
        string(SVC_SCHED_NAME, scheduler)
        + attr(SVC_FLAGS, struct.pack("=II", flags, 0xFFFFFFFF))
        + _u32(SVC_TIMEOUT, timeout_s)
        + attr(SVC_NETMASK, netmask)
    )


def server_message(command: int, key: ServerKey, settings: ServerSettings | None = None) -> bytes:
    """
    Pack a message about a virtual server.

    Args:
        command: NEW_SERVER (EEXIST when it is there), SET_SERVER or DEL_SERVER (ESRCH when it is not). Changing the scheduler
            keeps the connections; deleting the server does not.
        settings: needed by NEW_SERVER and SET_SERVER, useless for DEL_SERVER.
    """
    body = _key_attributes(key)
    if settings is not None:
        body += _setting_attributes(*settings, _FULL_NETMASK[key.family])
    return genlmsghdr(command) + nested(CMD_SERVICE, body)


def probe_scheduler_message(name: str) -> bytes:
    """
    Pack a message that tells whether the kernel has a scheduler and changes nothing: EINVAL means yes, ENOENT no.

    It asks for an IPv6 virtual server of a prefix length that cannot be. The kernel looks for the scheduler first (and loads its
    module if it may), then at the prefix length (ip_vs_add_service()). Protocol 255 makes sure that no server has this key.
    """
    key = ServerKey(6, b"\xff" + bytes(15), 255, 0xFFFF)
    body = _key_attributes(key) + _setting_attributes(name, 0, 0, _U32.pack(0))
    return genlmsghdr(NEW_SERVER) + nested(CMD_SERVICE, body)


@lru_cache(maxsize=4096)
def _destination_prefix(command: int, key: ServerKey, full: bool) -> bytes:
    """Everything up to the destination's address and with that attribute's header, which one server's messages share."""
    size = _ADDRESS_BYTES[key.family] + 4
    length = 4 + size + 8 + (32 if full else 0)
    header = struct.pack("=HHHH", length, CMD_DEST | NLA_F_NESTED, size, DEST_ADDR)
    return genlmsghdr(command) + nested(CMD_SERVICE, _key_attributes(key)) + header


_PORT_HEADER = struct.pack("=HH", 6, DEST_PORT)
_SHORT = struct.Struct(">4sHxx").pack
_METHOD = _u32(DEST_FWD_METHOD, IP_VS_CONN_F_MASQ) + struct.pack("=HH", 8, DEST_WEIGHT)
_THRESHOLDS = _u32(DEST_U_THRESH, 0) + _u32(DEST_L_THRESH, 0)


@lru_cache(maxsize=64)
def _behind_port(weight: int) -> bytes:
    return _METHOD + _U32.pack(weight) + _THRESHOLDS


def destination_message(command: int, key: ServerKey, destination: Destination, weight: int | None = None) -> bytes:
    """
    Pack a message about a destination, which forwards by rewriting the address (masquerading) and knows no thresholds.

    Args:
        command: NEW_DESTINATION (EEXIST when it is there), SET_DESTINATION or DEL_DESTINATION (ENOENT when it is not); ESRCH
            when there is no such virtual server.
        weight: 0 and up; needed by NEW_DESTINATION and SET_DESTINATION, None for DEL_DESTINATION.
    """
    address, port = destination
    packed = _destination_prefix(command, key, weight is not None) + address + _SHORT(_PORT_HEADER, port)
    return packed if weight is None else packed + _behind_port(weight)


def dump_servers() -> bytes:
    """Pack a request for all virtual servers."""
    return genlmsghdr(IPVS_CMD_GET_SERVICE)


def dump_destinations(key: ServerKey) -> bytes:
    """Pack a request for all destinations of a virtual server; a server that is not there has none."""
    return genlmsghdr(IPVS_CMD_GET_DEST) + nested(CMD_SERVICE, _key_attributes(key))


def read_server(datagram: bytes, message: Message) -> tuple[ServerKey, ServerSettings]:
    """
    Read one message of a dump of virtual servers.

    Raises:
        KeyError: the message is not one.
    """
    fields = _nest(datagram, message, CMD_SERVICE)
    family = _VERSION[_number(fields[SVC_AF])]
    if SVC_FWMARK in fields:
        key = ServerKey(family, b"", 0, 0, _number(fields[SVC_FWMARK]))
    else:
        address = fields[SVC_ADDR][: _ADDRESS_BYTES[family]]
        key = ServerKey(family, address, _number(fields[SVC_PROTOCOL]), int.from_bytes(fields[SVC_PORT], "big"))
    flags = _number(fields[SVC_FLAGS][:4]) & ~IP_VS_SVC_F_HASHED
    return key, ServerSettings(text(fields[SVC_SCHED_NAME]), flags, _number(fields[SVC_TIMEOUT]))


def _destination_layout() -> tuple[struct.Struct, tuple[bytes, ...]]:
    """Return how kernels since 5.3 lay out a destination, and the attribute headers it then has."""
    parts = [(20, DEST_ADDR, "16s"), (6, DEST_PORT, "2sxx"), (8, DEST_FWD_METHOD, "I"), (8, DEST_WEIGHT, "I")]
    parts += [(5, DEST_TUN_TYPE, "B3x"), (6, DEST_TUN_PORT, "Hxx"), (6, DEST_TUN_FLAGS, "Hxx")]
    parts += [(8, kind, "I") for kind in range(DEST_U_THRESH, DEST_PERSIST_CONNS + 1)]
    parts += [(6, DEST_ADDR_FAMILY, "H")]
    headers = tuple(struct.pack("=HH", length, kind) for length, kind, _ in parts)
    return struct.Struct("=" + "".join(f"4s{code}" for _, _, code in parts)), headers


_LAYOUT, _HEADERS = _destination_layout()
_BEHIND_NEST = GENLMSGHDR_BYTES + 4


def read_destination(datagram: bytes, message: Message) -> tuple[Destination, DestinationState]:
    """
    Read one message of a dump of destinations.

    Raises:
        KeyError: the message is not one.
    """
    start = message.start + _BEHIND_NEST
    if start + _LAYOUT.size <= message.end:
        # What every kernel sends so far; several times as fast as looking around.
        found = _LAYOUT.unpack_from(datagram, start)
        if found[::2] == _HEADERS:
            address, port, method, weight, _, _, _, _, _, active, inactive, persistent, af = found[1::2]
            size = 4 if af == 2 else 16
            state = DestinationState(weight, method, active, inactive, persistent)
            return Destination(address[:size], int.from_bytes(port, "big")), state
    return _any_destination(datagram, message)


def _any_destination(datagram: bytes, message: Message) -> tuple[Destination, DestinationState]:
    """Read a destination whatever the order of its attributes."""
    fields = _nest(datagram, message, CMD_DEST)
    address = fields[DEST_ADDR][: _ADDRESS_BYTES[_VERSION[_number(fields[DEST_ADDR_FAMILY])]]]
    kinds = (DEST_WEIGHT, DEST_FWD_METHOD, DEST_ACTIVE_CONNS, DEST_INACT_CONNS, DEST_PERSIST_CONNS)
    state = DestinationState(*(_number(fields[kind]) for kind in kinds))
    return Destination(address, int.from_bytes(fields[DEST_PORT], "big")), state


def _nest(datagram: bytes, message: Message, wanted: int) -> dict[int, bytes]:
    for kind, first, last in walk(datagram, message.start + GENLMSGHDR_BYTES, message.end):
        if kind == wanted:
            return attrs(datagram, first, last)
    raise KeyError(wanted)


def _number(payload: bytes) -> int:
    """Read a number in host order, of 2 or 4 bytes."""
    return int.from_bytes(payload, sys.byteorder)
