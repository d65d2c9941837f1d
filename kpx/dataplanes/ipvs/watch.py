"""
Notice when somebody takes rules away, where iptables is a front of nf_tables (iptables-nft), which tells of it.

The older iptables tells nobody, and nor do ipsets and IPVS; these are audited. A notification says only that something in one of
the three tables was deleted; whether it was ours, a look at the rules tells.
"""

from __future__ import annotations

import os

from kpx.dataplanes.ipvs.rules import TABLES
from kpx.errors import CapabilityError
from kpx.kernel.notifications import Notifications, nftables_notifications
from kpx.kernel.wire import nft
from kpx.kernel.wire.attr import text, walk
from kpx.kernel.wire.message import NFGENMSG_BYTES, messages

_DELETIONS = frozenset((nft.DELTABLE, nft.DELCHAIN, nft.DELRULE))


class Watch:
    """A subscription to nf_tables of this network namespace, or to nothing where the kernel has none."""

    def __init__(self) -> None:
        self._notifications: Notifications | None = None
        self._never = -1
        try:
            self._notifications = nftables_notifications(None)
        except CapabilityError:
            self._never = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when anybody changes nf_tables."""
        return self._never if self._notifications is None else self._notifications.fileno()

    def stirred(self) -> bool:
        """Tell whether something in a table of iptables may have been deleted since the last call."""
        if self._notifications is None:
            return False
        datagrams, lost = self._notifications.drain()
        return lost or any(_deletes(datagram) for datagram in datagrams)

    def close(self) -> None:
        """Unsubscribe."""
        if self._notifications is not None:
            self._notifications.close()
        else:
            os.close(self._never)


def _deletes(datagram: bytes) -> bool:
    for item in messages(datagram):
        if item.kind >> 8 != nft.NFNL_SUBSYS_NFTABLES or item.kind & 0xFF not in _DELETIONS:
            continue
        _, first, last = next(iter(walk(datagram, item.start + NFGENMSG_BYTES, item.end)), (0, 0, 0))
        if text(datagram[first:last]) in TABLES:
            return True
    return False
