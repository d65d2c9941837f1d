"""Network interfaces by name: is one there, and removing it. kpx makes none."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct

from kpx.errors import KernelError
from kpx.kernel.netlink import NETLINK_ROUTE, Netlink
from kpx.kernel.wire.message import NLM_F_ACK, NLM_F_REQUEST, message

RTM_DELLINK = 17
_IFINFOMSG = struct.Struct("=BxHiII")
"""struct ifinfomsg (include/uapi/linux/rtnetlink.h): family, type, index, flags, change."""


def link_exists(name: str) -> bool:
    """Tell whether this network namespace has an interface of that name."""
    return _index(name) is not None


def delete_link(name: str) -> bool:
    """
    Remove an interface with its addresses; tell whether it was there.

    Raises:
        PermissionDenied: without CAP_NET_ADMIN. KernelError: it cannot be removed.
    """
    index = _index(name)
    if index is None:
        return False
    with contextlib.closing(Netlink(NETLINK_ROUTE)) as netlink:
        (sequence,) = netlink.sequences(1)
        # By its number: a name could mean another interface by now.
        asked = message(RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK, sequence, _IFINFOMSG.pack(0, 0, index, 0, 0))
        try:
            netlink.request(asked, sequence, f"remove interface {name}")
        except KernelError as error:
            if error.errno != errno.ENODEV:
                raise
            return False
    return True


def _index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None
