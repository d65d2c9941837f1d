"""The data planes by name: a line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from kpx.dataplanes.base import Dataplane
from kpx.dataplanes.ipvs.doors import open_doors
from kpx.dataplanes.ipvs.plane import IpvsDataplane
from kpx.dataplanes.nftables.plane import NftablesDataplane
from kpx.errors import ConfigError
from kpx.kernel.netlink import Netlink

FACTORIES: dict[str, Callable[[bool], Dataplane]] = {
    "nftables": lambda kernel: NftablesDataplane(Netlink() if kernel else None),
    "ipvs": lambda kernel: IpvsDataplane(open_doors() if kernel else None),
}
"""Name to a function that opens the data plane; its argument says whether a kernel is wanted or the pure verbs are enough."""

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
