"""The data planes by name: how to open each, and what may have been in its place before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from kpx.dataplanes.base import Dataplane
from kpx.dataplanes.composed import Composed
from kpx.dataplanes.ipvs.doors import open_doors
from kpx.dataplanes.ipvs.plane import IpvsDataplane
from kpx.dataplanes.nftables.plane import NftablesDataplane
from kpx.errors import ConfigError
from kpx.kernel.netlink import Netlink


def _nftables(kernel: bool) -> NftablesDataplane:
    return NftablesDataplane(Netlink() if kernel else None)


def _ipvs(kernel: bool) -> IpvsDataplane:
    return IpvsDataplane(open_doors() if kernel else None)


FACTORIES: dict[str, Callable[[bool], Dataplane]] = {
    "nftables": _nftables,
    "ipvs": lambda kernel: Composed(_ipvs(kernel), _nftables(kernel)),
}
"""Name to a function that opens the data plane; its argument says whether a kernel is wanted or the pure verbs are enough."""

FORMER: Mapping[str, Mapping[str, Callable[[], Dataplane]]] = {"nftables": {"ipvs": lambda: _ipvs(True)}, "ipvs": {}}
"""
By the name of a data plane, what else may be in place when it begins and must retire, and how to open it.

Of what nftables wrote ipvs uses the same tables; that it has fewer rows there is a difference like others.
"""

IP_VS: Final = Path("/proc/thread-self/net/ip_vs")
"""There when the module is loaded; reading it loads nothing, other than asking the kernel for IPVS."""


def may_be_present(name: str) -> bool:
    """Tell, without loading any module, whether objects of a data plane can be in this network namespace."""
    return name != "ipvs" or IP_VS.exists()


def open_dataplane(name: str, kernel: bool = True) -> Dataplane:
    """
    Open a data plane.

    Raises:
        ConfigError: there is none of that name. CapabilityError: the kernel or the host lacks what it needs.
    """
    if name not in FACTORIES:
        raise ConfigError(f"--proxy-mode: there is no data plane {name!r}; use one of {', '.join(sorted(FACTORIES))}")
    return FACTORIES[name](kernel)
