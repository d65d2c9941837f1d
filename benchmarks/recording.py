"""What a data plane sends, remembered datagram by datagram, and the floor: the same datagrams from a bare loop over sockets."""

from __future__ import annotations

import socket
import struct
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kpx.dataplanes.ipvs.doors import Doors, open_doors
from kpx.kernel.ipset import IpSets
from kpx.kernel.netlink import (
    BUFFER_BYTES,
    NETLINK_GENERIC,
    NETLINK_NETFILTER,
    RECEIVE_BYTES,
    SO_RCVBUFFORCE,
    SO_SNDBUFFORCE,
    Netlink,
)
from kpx.kernel.wire import ipset, ipvs
from kpx.kernel.wire.attr import attrs, text
from kpx.kernel.wire.message import NFGENMSG_BYTES, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, messages

INTERFACES = {NETLINK_GENERIC: "IPVS", NETLINK_NETFILTER: "ipset"}
IPVS_COMMANDS = {
    ipvs.NEW_SERVER: "new server",
    ipvs.SET_SERVER: "set server",
    ipvs.DEL_SERVER: "delete server",
    ipvs.NEW_DESTINATION: "new destination",
    ipvs.SET_DESTINATION: "set destination",
    ipvs.DEL_DESTINATION: "delete destination",
    ipvs.IPVS_CMD_GET_DEST: "list destinations",
}
SET_COMMANDS = {ipset.ADD & 0xFF: "add to", ipset.DEL & 0xFF: "remove from"}
_FLAGS, _ERROR = struct.Struct("=H"), struct.Struct("=i")


class Sent(NamedTuple):
    """A datagram as it went to the kernel, and the netlink protocol of its socket."""

    protocol: int
    datagram: bytes


class RecordingNetlink(Netlink):
    """A socket that remembers what it sends."""

    def __init__(self, protocol: int, sent: list[Sent]) -> None:
        super().__init__(protocol)
        self._protocol = protocol
        self._sent = sent

    def _send(self, datagram: bytes | bytearray) -> None:
        self._sent.append(Sent(self._protocol, bytes(datagram)))
        super()._send(datagram)


def recording_doors(sent: list[Sent]) -> Doors:
    """Open the data plane's doors to the kernel; what goes through them is appended to `sent`, in the order it goes."""
    doors = open_doors()
    doors.netlink.close()
    doors.ipvs.close()
    doors.ipvs._netlink = RecordingNetlink(NETLINK_GENERIC, sent)
    netlink = RecordingNetlink(NETLINK_NETFILTER, sent)
    sets = IpSets(netlink)
    sent.clear()
    return doors._replace(netlink=netlink, sets=sets)


class Traffic(NamedTuple):
    """What was sent through one interface."""

    datagrams: int
    messages: int
    size: int


def traffic(sent: Iterable[Sent]) -> dict[str, Traffic]:
    """Count what was sent, by interface."""
    found = dict.fromkeys(INTERFACES.values(), Traffic(0, 0, 0))
    for protocol, datagram in sent:
        name = INTERFACES[protocol]
        before = found[name]
        count = sum(1 for _ in messages(datagram))
        found[name] = Traffic(before.datagrams + 1, before.messages + count, before.size + len(datagram))
    return found


def spelled(sent: Iterable[Sent]) -> tuple[str, ...]:
    """Say in words what was sent, message by message; equal ones are counted, and of elements it is said how many."""
    counted: Counter[str] = Counter()
    for protocol, datagram in sent:
        for one in messages(datagram):
            if protocol == NETLINK_GENERIC:
                counted[f"IPVS {IPVS_COMMANDS[datagram[one.start]]}"] += 1
                continue
            fields = attrs(datagram, one.start + NFGENMSG_BYTES, one.end)
            command = SET_COMMANDS.get(one.kind & 0xFF, f"command {one.kind & 0xFF}")
            counted[f"ipset {command} {text(fields[ipset.ATTR_SETNAME])}"] += 1
    return tuple(what if count == 1 else f"{what} x {count}" for what, count in counted.items())


class BareLoop:
    """Sends datagrams again with nothing of kpx in between: send, receive, look at the first number of the answer."""

    def __init__(self) -> None:
        self._sockets = {protocol: _open(protocol) for protocol in INTERFACES}
        self._buffer = bytearray(RECEIVE_BYTES)

    def send(self, sent: Sequence[Sent]) -> float:
        """
        Send them, each after the answer to the one before; return seconds.

        Raises:
            AssertionError: the kernel refused; then it was not as it must be to compare.
        """
        buffer, sockets = self._buffer, self._sockets
        dumps = [_FLAGS.unpack_from(datagram, 6)[0] & NLM_F_DUMP == NLM_F_DUMP for _, datagram in sent]
        started = time.perf_counter()
        for (protocol, datagram), dump in zip(sent, dumps, strict=True):
            opened = sockets[protocol]
            opened.send(datagram)
            if dump:
                self._receive_dump(opened)
                continue
            opened.recv_into(buffer)
            refused = _ERROR.unpack_from(buffer, 16)[0]
            assert not refused, f"the kernel refused a message that was sent again: {refused}"
        return time.perf_counter() - started

    def _receive_dump(self, opened: socket.socket) -> None:
        while True:
            size = opened.recv_into(self._buffer)
            if any(one.kind in (NLMSG_DONE, NLMSG_ERROR) for one in messages(bytes(self._buffer[:size]))):
                return

    def close(self) -> None:
        """Close the sockets."""
        for opened in self._sockets.values():
            opened.close()


def _open(protocol: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
        opened.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    # As kpx does: acknowledgements do not echo what they are about.
    opened.setsockopt(270, 10, 1)
    opened.settimeout(30.0)
    opened.bind((0, 0))
    return opened
