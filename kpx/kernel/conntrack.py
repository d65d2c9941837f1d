"""Connection-tracking entries of UDP flows: list them, delete the ones that are named. Nothing else is ever deleted."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from kpx.errors import KernelError
from kpx.kernel.legible import legible
from kpx.kernel.netlink import Netlink
from kpx.kernel.wire import conntrack as wire

DUMPS_MAX = 3
"""How often a dump is repeated because the table changed under it."""


class ConntrackFlows:
    """
    The flows the kernel tracks, through one netlink socket.

    Attributes:
        missed: the table changed under every dump of the last `udp`, so that it may lack flows.
    """

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink
        self.missed = False

    @legible("list tracked flows")
    def udp(self, family: int) -> list[wire.Flow]:
        """
        List UDP flows of an IP family (4 or 6).

        A dump during which the table changed may miss flows, so it is asked for again, a few times on a busy host; what any of
        them told is returned (U9). A flow that is gone meanwhile does no harm: `delete` deletes the very entry or nothing.
        """
        flows: dict[wire.Flow, None] = {}
        for _ in range(DUMPS_MAX):
            (sequence,) = self._netlink.sequences(1)
            read: bytes = b""
            for datagram, _ in self._netlink.dump(wire.dump_request(family, sequence), sequence, "list tracked flows"):
                if datagram is not read:  # one datagram holds many messages
                    flows.update(dict.fromkeys(wire.parse_flows(datagram)))
                    read = datagram
            self.missed = self._netlink.interrupted
            if not self.missed:
                break
        return list(flows)

    def delete(self, flows: Iterable[wire.Flow]) -> int:
        """Delete exactly these entries; return how many were still there."""
        count = 0
        for flow in flows:
            (sequence,) = self._netlink.sequences(1)
            try:
                self._netlink.request(wire.delete_request(flow, sequence), sequence, f"forget flow {flow}")
                count += 1
            except KernelError as error:
                if error.errno != errno.ENOENT:
                    raise
        return count
