"""
The virtual servers of a network namespace: write messages, list what is there.

IPVS knows no transactions and sends no notifications. So many messages go in one datagram, each is refused or done by itself, and
what others changed is seen by listing only.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TypeVar

from kpx.errors import CapabilityError, KernelError
from kpx.kernel.legible import legible
from kpx.kernel.netlink import NETLINK_GENERIC, Netlink
from kpx.kernel.wire import ipvs as wire
from kpx.kernel.wire import ipvs_config
from kpx.kernel.wire.generic import GENL_ID_CTRL, family_request, read_family
from kpx.kernel.wire.ipvs_columns import AlikeMessages
from kpx.kernel.wire.message import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, Message, message

DUMPS_MAX = 5
"""How often a dump is asked for again because something changed under it."""

DATAGRAM_MESSAGES = 1024
"""Some 100 kB to send, small enough for memory that is used again; should all be refused, the answers fit the receive buffer."""

_T = TypeVar("_T")


class Ipvs:
    """IPVS of the network namespace this was made in, through a generic netlink socket of its own."""

    def __init__(self, netlink: Netlink | None = None) -> None:
        """
        Open the socket; the kernel loads the module `ip_vs` by itself where that is permitted.

        Args:
            netlink: a generic netlink socket instead of a fresh one; it is closed with this.

        Raises:
            CapabilityError: there is no IPVS here. PermissionDenied: IPVS wants CAP_NET_ADMIN in the initial user namespace.
        """
        self._netlink = netlink or Netlink(NETLINK_GENERIC)
        try:
            self._family = self._find_family()
            self._version = self._ask(ipvs_config.get_info(), ipvs_config.read_version, "ask IPVS for its version")
        except BaseException:
            self._netlink.close()
            raise

    @legible("look for IPVS")
    def _find_family(self) -> int:
        (sequence,) = self._netlink.sequences(1)
        asked = message(GENL_ID_CTRL, NLM_F_REQUEST | NLM_F_ACK, sequence, family_request(wire.FAMILY))
        try:
            answer = self._netlink.ask(asked, sequence, "look for IPVS")
        except KernelError as error:
            if error.errno == errno.ENOENT:
                raise CapabilityError("this kernel has no IPVS: run `modprobe ip_vs`, or choose --proxy-mode nftables") from error
            raise
        return read_family(*answer)

    @property
    def datagrams(self) -> int:
        """Datagrams sent so far."""
        return self._netlink.datagrams

    @property
    def written_bytes(self) -> int:
        """Bytes sent so far."""
        return self._netlink.written_bytes

    def write(self, messages: Sequence[bytes]) -> list[int]:
        """
        Write messages of `kpx.kernel.wire.ipvs` in their order, none waiting for the one before it to succeed.

        Args:
            messages: `AlikeMessages` are the fastest.

        Returns:
            One errno for each message, 0 where it was done: EEXIST for a new object that is there, ESRCH for a virtual server
            and ENOENT for a destination or a scheduler that is not.
        """
        errnos = [0] * len(messages)
        for start in range(0, len(messages), DATAGRAM_MESSAGES):
            part = messages[start : start + DATAGRAM_MESSAGES]
            sequences = self._netlink.sequences(len(part))
            first, last = sequences[0], sequences[-1]
            datagram = part.datagram(self._family, sequences) if isinstance(part, AlikeMessages) else self._join(part, sequences)
            for _, _, answer in self._netlink.complaints(datagram, first, last):
                errnos[start + answer.sequence - first] = answer.errno
        return errnos

    def _join(self, bodies: Sequence[bytes], sequences: range) -> bytes:
        family = self._family
        packed = [message(family, NLM_F_REQUEST, number, body) for number, body in zip(sequences, bodies, strict=True)]
        packed[-1] = message(family, NLM_F_REQUEST | NLM_F_ACK, sequences[-1], bodies[-1])
        return b"".join(packed)

    def servers(self) -> list[tuple[wire.ServerKey, wire.ServerSettings]]:
        """List all virtual servers, whosever they are."""
        return self._dump(wire.dump_servers(), wire.read_server, "list virtual servers")

    def destinations(self, key: wire.ServerKey) -> list[tuple[wire.Destination, wire.DestinationState]]:
        """List the destinations of a virtual server; none when the server is not there."""
        return self._dump(wire.dump_destinations(key), wire.read_destination, "list destinations")

    def has_scheduler(self, name: str) -> bool:
        """
        Tell whether the kernel has a scheduler; its module is loaded by the kernel where that is permitted.

        An IPVS without IPv6 cannot be asked without making a virtual server, so there the answer is always yes.
        """
        (found,) = self.write([wire.probe_scheduler_message(name)])
        if found not in (errno.EINVAL, errno.ENOENT, errno.EAFNOSUPPORT):
            raise KernelError(f"look for IPVS scheduler {name}", found)
        return found != errno.ENOENT

    def version(self) -> tuple[int, int, int]:
        """Return the version of IPVS, (1, 2, 1) for twenty years."""
        return self._version

    def timeouts(self) -> ipvs_config.Timeouts:
        """Return the idle timeouts of connections."""
        return self._ask(ipvs_config.get_config(), ipvs_config.read_timeouts, "read IPVS timeouts")

    def set_timeouts(self, tcp_s: int, tcp_fin_s: int, udp_s: int) -> None:
        """Set idle timeouts of connections in seconds; 0 leaves one as it is."""
        (refused,) = self.write([ipvs_config.set_timeouts(tcp_s, tcp_fin_s, udp_s)])
        if refused:
            raise KernelError("set IPVS timeouts", refused)

    def close(self) -> None:
        """Close the socket; nothing in the kernel changes."""
        self._netlink.close()

    @legible("ask IPVS")
    def _ask(self, body: bytes, read: Callable[[bytes, Message], _T], what: str) -> _T:
        (sequence,) = self._netlink.sequences(1)
        asked = message(self._family, NLM_F_REQUEST | NLM_F_ACK, sequence, body)
        return read(*self._netlink.ask(asked, sequence, what))

    @legible("list virtual servers or destinations")
    def _dump(self, body: bytes, read: Callable[[bytes, Message], _T], what: str) -> list[_T]:
        """Dump once, and again while the kernel says that something changed meanwhile; what the last dump told is returned."""
        found: list[_T] = []
        for _ in range(DUMPS_MAX):
            (sequence,) = self._netlink.sequences(1)
            asked = message(self._family, NLM_F_REQUEST | NLM_F_DUMP, sequence, body)
            found = [read(*answer) for answer in self._netlink.dump(asked, sequence, what)]
            if not self._netlink.interrupted:
                break
        return found
