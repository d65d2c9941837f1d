"""
The door to the kernel: netlink sockets opened through pyroute2, which besides this module only `kpx.kernel.routing` knows.

Datagrams are packed by `kpx.kernel.wire` and sent as they are; pyroute2 opens the sockets and lists addresses. One thread only.
Send and receive buffers are raised past the system's limit where CAP_NET_ADMIN allows it, since a first sync is one datagram
of some ten megabytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from pyroute2 import IPRoute
from pyroute2.netns import create_socket

from kpx.errors import CapabilityError, KernelError, PermissionDenied
from kpx.kernel.wire.message import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    Acknowledgement,
    Message,
    acknowledgement,
    messages,
)

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NETLINK_GENERIC = 16
NFNLGRP_NFTABLES = 7
RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR = 5, 9
SO_ATTACH_FILTER = 26
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33

BUFFER_BYTES = 32 << 20
RECEIVE_BYTES = 1 << 20
TIMEOUT_S = 30.0
"""How long the kernel may take for one answer; a commit of a million elements takes a few seconds."""


class InterfaceAddress(NamedTuple):
    """An address of a network interface; scope as in rtnetlink: 0 global, 253 link, 254 host."""

    interface: str
    address: bytes
    prefix_length: int
    scope: int


def _open(protocol: int, groups: tuple[int, ...] = ()) -> socket.socket:
    try:
        opened: socket.socket = create_socket(
            None, family=socket.AF_NETLINK, socket_type=socket.SOCK_RAW | socket.SOCK_CLOEXEC, proto=protocol
        )
    except OSError as error:
        raise CapabilityError(f"this kernel has no netlink protocol {protocol} ({error.strerror})") from error
    for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
        with contextlib.suppress(PermissionError):
            opened.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    opened.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
    opened.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
    opened.settimeout(TIMEOUT_S)
    opened.bind((0, 0))
    try:
        for group in groups:
            opened.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    except OSError as error:
        opened.close()
        kind = PermissionDenied if error.errno == errno.EPERM else KernelError
        raise kind("subscribe to netlink notifications", error.errno or errno.EIO) from error
    return opened


class Netlink:
    """A netlink socket: transactions, requests and dumps, one at a time."""

    def __init__(self, protocol: int = NETLINK_NETFILTER) -> None:
        self._socket = _open(protocol)
        # Allocated once: a megabyte for each answer takes seven times as long as receiving it.
        self._buffer = bytearray(RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._sequence = int.from_bytes(os.urandom(3), "big")
        self.interrupted = False
        self.datagrams = 0
        self.written_bytes = 0

    @property
    def port(self) -> int:
        """The port id the kernel knows this socket by; notifications of what it did carry it."""
        port: int = self._socket.getsockname()[0]
        return port

    @property
    def datagram_max_bytes(self) -> int:
        """The largest datagram the socket can send."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2 - 4096

    def sequences(self, count: int) -> range:
        """Reserve sequence numbers, which tell answers apart."""
        first = self._sequence + 1
        self._sequence += count
        return range(first, first + count)

    def transact(self, datagram: bytes, first: int, last: int) -> list[Acknowledgement]:
        """
        Send a transaction and return the kernel's complaints; none means it took effect.

        Args:
            datagram: batch begin, messages, batch end.
            first: sequence number of batch begin. last: of the only message that asks for an acknowledgement.

        Raises:
            PermissionDenied, KernelError: the transaction as a whole was refused.
        """
        complaints: list[Acknowledgement] = []
        for _, _, answer in self.complaints(datagram, first, last):
            if answer.sequence == first:
                raise refusal("nf_tables transaction", answer)
            complaints.append(answer)
        return complaints

    def complaints(self, datagram: bytes | bytearray, first: int, last: int) -> Iterator[tuple[bytes, Message, Acknowledgement]]:
        """
        Send messages and yield the kernel's complaints, each with the datagram and the message it came in.

        Args:
            datagram: messages, of which only the last asks for an acknowledgement.
            first, last: sequence numbers of the first and the last message.
        """
        self._send(datagram)
        while True:
            for received, reply in self._receive():
                if reply.kind != NLMSG_ERROR or not first <= reply.sequence <= last:
                    continue
                answer = acknowledgement(received, reply)
                if answer.errno:
                    yield received, reply, answer
                if answer.sequence == last:
                    return

    def request(self, datagram: bytes, sequence: int, what: str) -> list[tuple[bytes, Message]]:
        """
        Send one message that asks for an acknowledgement; return what came before it.

        Raises:
            PermissionDenied, KernelError: the kernel refused; `what` names the request.
        """
        self._send(datagram)
        answers: list[tuple[bytes, Message]] = []
        while True:
            for received, reply in self._receive():
                if reply.sequence != sequence:
                    continue
                if reply.kind == NLMSG_ERROR:
                    answer = acknowledgement(received, reply)
                    if answer.errno:
                        raise refusal(what, answer)
                    return answers
                answers.append((received, reply))

    def dump(self, datagram: bytes, sequence: int, what: str) -> Iterator[tuple[bytes, Message]]:
        """
        Send a dump request and yield its messages as they come, so that a large table is never held whole.

        The generator must be run to its end before the next request. `interrupted` tells afterwards whether the table changed
        meanwhile (U9).

        Raises:
            PermissionDenied, KernelError: the kernel refused; `what` names the request.
        """
        self._send(datagram)
        self.interrupted = False
        while True:
            for received, reply in self._receive():
                if reply.sequence != sequence:
                    continue
                self.interrupted = self.interrupted or bool(reply.flags & NLM_F_DUMP_INTR)
                if reply.kind == NLMSG_DONE:
                    return
                if reply.kind == NLMSG_ERROR:
                    raise refusal(what, acknowledgement(received, reply))
                yield received, reply

    def close(self) -> None:
        """Close the socket; nothing in the kernel changes."""
        self._socket.close()

    def _send(self, datagram: bytes | bytearray) -> None:
        self.datagrams += 1
        self.written_bytes += len(datagram)
        try:
            self._socket.send(datagram)
        except OSError as error:
            remedy = "raise net.core.wmem_max or give kpx CAP_NET_ADMIN" if error.errno == errno.EMSGSIZE else ""
            raise KernelError("netlink send", error.errno or errno.EIO, remedy) from error

    def _receive(self) -> Iterator[tuple[bytes, Message]]:
        try:
            size = self._socket.recv_into(self._buffer)
        except TimeoutError as error:
            raise KernelError("netlink", errno.ETIMEDOUT, f"no answer within {TIMEOUT_S:.0f} s") from error
        except OSError as error:
            raise KernelError("netlink receive", error.errno or errno.EIO) from error
        received = bytes(self._view[:size])
        for reply in messages(received):
            yield received, reply


def refusal(what: str, answer: Acknowledgement) -> KernelError:
    """Turn a negative answer into the error to raise."""
    kind = PermissionDenied if answer.errno in (errno.EPERM, errno.EACCES) else KernelError
    return kind(what, answer.errno, answer.text)


class Notifications:
    """A subscription to netlink multicast groups: a descriptor to wait on, and what has arrived."""

    def __init__(self, protocol: int, groups: tuple[int, ...], ignored_port: int | None = None) -> None:
        """
        Subscribe.

        Args:
            ignored_port: the kernel drops notifications of what the socket with this port id did before they are queued, so
                that our own commits of a million elements cost nothing here.
        """
        self._socket = _open(protocol, groups)
        self._socket.setblocking(False)
        if ignored_port is not None:
            self._attach(ignored_port)

    def _attach(self, port: int) -> None:
        # Classic BPF over the message: word at offset 12 is nlmsg_pid; loads are big-endian.
        wanted = int.from_bytes(struct.pack("=I", port), "big")
        program = struct.pack("=HBBI", 0x20, 0, 0, 12)
        program += struct.pack("=HBBI", 0x15, 0, 1, wanted)
        program += struct.pack("=HBBI", 0x06, 0, 0, 0)
        program += struct.pack("=HBBI", 0x06, 0, 0, 0xFFFFFFFF)
        import ctypes

        buffer = ctypes.create_string_buffer(program)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", 4, ctypes.addressof(buffer)))

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when something arrives."""
        return self._socket.fileno()

    def drain(self) -> tuple[list[bytes], bool]:
        """Return the datagrams that have arrived, and whether some were lost (then anything may have happened)."""
        received: list[bytes] = []
        lost = False
        while True:
            try:
                received.append(self._socket.recv(RECEIVE_BYTES))
            except BlockingIOError:
                return received, lost
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError("netlink notifications", error.errno or errno.EIO) from error
                lost = True

    def close(self) -> None:
        """Unsubscribe."""
        self._socket.close()


def nftables_notifications(ignored_port: int | None) -> Notifications:
    """Subscribe to what happens to nf_tables in this network namespace."""
    return Notifications(NETLINK_NETFILTER, (NFNLGRP_NFTABLES,), ignored_port)


def address_notifications() -> Notifications:
    """Subscribe to addresses coming and going in this network namespace (N5)."""
    return Notifications(NETLINK_ROUTE, (RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR))


def interface_addresses() -> list[InterfaceAddress]:
    """List the addresses of all interfaces of this network namespace, in the kernel's order: interfaces by age."""
    found: list[InterfaceAddress] = []
    with IPRoute() as route:
        names = {link["index"]: str(link.get("ifname")) for link in route.get_links()}
        for item in route.get_addr():
            text = item.get("local") or item.get("address")
            family = socket.AF_INET if item["family"] == socket.AF_INET else socket.AF_INET6
            packed = socket.inet_pton(family, text)
            found.append(InterfaceAddress(names.get(item["index"], "?"), packed, item["prefixlen"], item["scope"]))
    return found
