"""The data planes by name: a line each."""

from __future__ import annotations

from collections.abc import Callable

from kpx.dataplanes.base import Dataplane
from kpx.dataplanes.nftables.plane import NftablesDataplane
from kpx.errors import ConfigError
from kpx.kernel.netlink import Netlink

FACTORIES: dict[str, Callable[[bool], Dataplane]] = {
    "nftables": lambda kernel: NftablesDataplane(Netlink() if kernel else None),
}
"""Name to a function that opens the data plane; its argument says whether a kernel is wanted or the pure verbs are enough."""


def open_dataplane(name: str, kernel: bool = True) -> Dataplane:
    """
    Open a data plane.

    Raises:
        ConfigError: there is none of that name. CapabilityError: the kernel lacks netfilter netlink.
    """
    if name not in FACTORIES:
        raise ConfigError(f"--proxy-mode: there is no data plane {name!r}; use one of {', '.join(sorted(FACTORIES))}")
    return FACTORIES[name](kernel)
