"""Notice when somebody else changes our table: nf_tables notifications, read just far enough to see whose table it is."""

from __future__ import annotations

from kpx.dataplanes.nftables.schema import TABLE
from kpx.kernel.netlink import Netlink
from kpx.kernel.notifications import nftables_notifications
from kpx.kernel.wire import nft
from kpx.kernel.wire.attr import text, walk
from kpx.kernel.wire.message import NFGENMSG_BYTES, messages

_WORDS = {
    nft.NEWTABLE: "table added",
    nft.DELTABLE: "table deleted",
    nft.NEWCHAIN: "chain added or changed",
    nft.DELCHAIN: "chain deleted",
    nft.NEWRULE: "rule added",
    nft.DELRULE: "rule deleted",
    nft.NEWSET: "set added",
    nft.DELSET: "set deleted",
    nft.NEWSETELEM: "elements added",
    nft.DELSETELEM: "elements deleted",
}


class Watch:
    """
    A subscription to nf_tables of this network namespace.

    What our own socket commits is dropped in the kernel. Of what others do, only the first attribute is read, which is always the
    table's name; nothing is asked of the kernel.
    """

    def __init__(self, netlink: Netlink) -> None:
        self._notifications = nftables_notifications(netlink.port)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when anybody else commits."""
        return self._notifications.fileno()

    def touched(self) -> list[str]:
        """Return a sentence for each kind of thing others did to our table; [] when it was none of ours."""
        datagrams, lost = self._notifications.drain()
        found = dict.fromkeys(sentence for datagram in datagrams for sentence in _about_us(datagram))
        return (["notifications were lost; anything may have changed"] if lost else []) + list(found)

    def close(self) -> None:
        """Unsubscribe."""
        self._notifications.close()


def _about_us(datagram: bytes) -> list[str]:
    found = []
    for item in messages(datagram):
        words = _WORDS.get(item.kind & 0xFF) if item.kind >> 8 == nft.NFNL_SUBSYS_NFTABLES else None
        if words is None:
            continue
        _, first, last = next(iter(walk(datagram, item.start + NFGENMSG_BYTES, item.end)), (0, 0, 0))
        if text(datagram[first:last]) == TABLE:
            family = {nft.NFPROTO_IPV4: "ip", nft.NFPROTO_IPV6: "ip6"}.get(datagram[item.start], "?")
            found.append(f"table {family} {TABLE}: {words}")
    return found
