"""Subscriptions: what the kernel tells of what happens to nf_tables and to addresses of this network namespace."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

from kpx.errors import KernelError
from kpx.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, RECEIVE_BYTES, open_socket
from kpx.kernel.wire.message import messages

NFNLGRP_NFTABLES = 7
RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR = 5, 9
SO_ATTACH_FILTER = 26


class Notifications:
    """A subscription to netlink multicast groups: a descriptor to wait on, and what has arrived."""

    def __init__(self, protocol: int, groups: tuple[int, ...], ignored_port: int | None = None) -> None:
        """
        Subscribe.

        Args:
            ignored_port: the kernel drops notifications of what the socket with this port id did before they are queued, so
                that our own commits of a million elements cost nothing here.
        """
        self._socket = open_socket(protocol, groups)
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
                datagram = self._socket.recv(RECEIVE_BYTES)
                list(messages(datagram))
                received.append(datagram)
            except BlockingIOError:
                return received, lost
            except ValueError:  # it ends within a message
                lost = True
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
