"""The doors to the kernel that the ipvs data plane uses, opened together."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from kpx.kernel.ipset import IpSets
from kpx.kernel.iptables import Iptables
from kpx.kernel.ipvs import Ipvs
from kpx.kernel.netlink import Netlink


class Doors(NamedTuple):
    """
    What speaks to the kernel.

    Args:
        netlink: netfilter netlink, for the ipsets.
    """

    netlink: Netlink
    sets: IpSets
    ipvs: Ipvs
    iptables: Iptables


def open_doors() -> Doors:
    """
    Open them all; nothing is changed.

    Raises:
        CapabilityError: the kernel has no IPVS or no ipsets, or iptables is not installed; the message says what to do.
    """
    with contextlib.ExitStack() as undo:
        ipvs = undo.enter_context(contextlib.closing(Ipvs()))
        netlink = undo.enter_context(contextlib.closing(Netlink()))
        doors = Doors(netlink, IpSets(netlink), ipvs, Iptables())
        undo.pop_all()
    return doors


def close_doors(doors: Doors) -> None:
    """Close the sockets; forwarding stays as it is."""
    doors.ipvs.close()
    doors.netlink.close()
