"""
The packets on one interface, sent and seen as they are.

The frames are built and read with scapy, but its own sockets are not used: they know the interfaces of one namespace only.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from types import TracebackType

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from tests.lab.netns import PATIENCE, Namespace
from tests.lab.topology import ROUTER_MAC

ETH_P_ALL = 3
ANSWER_S = 0.6 * PATIENCE
PACKET_OUTGOING = 4
PACKET_IGNORE_OUTGOING = 23


class Wire:
    """
    One end of a link; use as a context manager. What others sent since it was opened can be waited for.

    Args:
        namespace: where the interface is.
        interface: its name; `eth0` for hosts that hang off a router.
    """

    def __init__(self, namespace: Namespace, interface: str = "eth0") -> None:
        with namespace.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        # Defined for AF_PACKET since Linux 4.20: what this host sends itself is not seen.
        self._socket.setsockopt(263, PACKET_IGNORE_OUTGOING, 1)
        self._socket.bind((interface, ETH_P_ALL))
        self.mac = ":".join(f"{byte:02x}" for byte in self._socket.getsockname()[4])

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def send(self, packet: Packet, to: str = ROUTER_MAC) -> None:
        """Send an IP packet, to the router unless told otherwise, or a whole frame as it is."""
        whole = packet if isinstance(packet, Ether) else Ether(src=self.mac, dst=to) / packet
        self._socket.send(bytes(whole))

    def wait(self, wanted: Callable[[Packet], bool], timeout_s: float = ANSWER_S) -> Packet | None:
        """Return the first packet that is wanted, from its IP or ARP header on; None when none comes in time."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                break
            frame = Ether(self._socket.recv(65535))
            inner = next((frame[layer] for layer in (IP, IPv6, ARP) if layer in frame), None)
            if inner is not None and wanted(inner):
                return inner
        return None

    def ask(self, packet: Packet, wanted: Callable[[Packet], bool], timeout_s: float = ANSWER_S) -> Packet | None:
        """Send a packet and wait for one that is wanted."""
        self.send(packet)
        return self.wait(wanted, timeout_s)
