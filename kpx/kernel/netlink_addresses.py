"""The addresses of this network namespace, as pyroute2 lists them."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from kpx.errors import KernelError
from kpx.kernel.legible import legible

DUMPS_MAX = 5
"""How often addresses are listed again because they changed meanwhile."""


class InterfaceAddress(NamedTuple):
    """An address of a network interface; scope as in rtnetlink: 0 global, 253 link, 254 host."""

    interface: str
    address: bytes
    prefix_length: int
    scope: int


def interface_addresses() -> list[InterfaceAddress]:
    """
    List the addresses of all interfaces of this network namespace, in the kernel's order: interfaces by age.

    Raises:
        KernelError: they cannot be read, or change all the while.
    """
    for _ in range(DUMPS_MAX):
        with contextlib.suppress(NetlinkDumpInterrupted):
            return _read_addresses()
    raise KernelError("list addresses", errno.EINTR, f"they changed during each of {DUMPS_MAX} attempts")


def _read_addresses() -> list[InterfaceAddress]:
    try:
        with legible("list addresses"), IPRoute() as route:
            return addresses_in(route.get_links(), route.get_addr())
    except NetlinkDumpInterrupted:
        raise
    except NetlinkError as error:
        raise KernelError("list addresses", error.code) from error
    except OSError as error:
        raise KernelError("list addresses", error.errno or errno.EIO) from error


def addresses_in(links: Iterable[Any], addresses: Iterable[Any]) -> list[InterfaceAddress]:
    """Return what rtnetlink's messages say, as pyroute2 reads them; raises what `legible` catches."""
    names = {link["index"]: str(link.get("ifname")) for link in links}
    found: list[InterfaceAddress] = []
    for item in addresses:
        text = item.get("local") or item.get("address")
        family = socket.AF_INET if item["family"] == socket.AF_INET else socket.AF_INET6
        packed = socket.inet_pton(family, text)
        found.append(InterfaceAddress(names.get(item["index"], "?"), packed, item["prefixlen"], item["scope"]))
    return found
