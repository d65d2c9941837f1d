"""
The sysctls IPVS needs to forward Services as promised, and what it means when one cannot be set (contract section 17).

All of net.ipv4.vs belongs to the network namespace and exists once ip_vs is loaded. What kpx wrote stays when it stops: the
virtual servers go on forwarding, and need them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from kpx.errors import CapabilityError
from kpx.host.sysctl import SYS, Settled, Sysctl, settle

CONNTRACK: Final = "net.ipv4.vs.conntrack"
"""Exists only in kernels with CONFIG_IP_VS_NFCT."""

REUSE_SINCE: Final = (4, 1)
"""The kernel conn_reuse_mode came with."""
REUSE_MENDED: Final = (5, 9)
"""The kernel in which f0a5e4d7a594 took the delay of a second out of conn_reuse_mode 1 (D7)."""

NEED_NFCT: Final = (
    "traffic through virtual servers cannot be masqueraded; run a kernel with CONFIG_IP_VS_NFCT, as distributions have"
)


def kernel_numbers(release: str) -> tuple[int, int]:
    """Read the version out of a kernel release, (0, 0) if it begins with none."""
    numbers = re.match(r"(\d+)\.(\d+)", release)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def wanted(kernel: tuple[int, int], run_estimation: bool = True, strict_arp: bool = False) -> tuple[Sysctl, ...]:
    """
    Return the sysctls the ipvs data plane needs, the indispensable one first. Pure.

    Args:
        kernel: version, which decides about conn_reuse_mode (D7).
        run_estimation: False switches the kernel's rates of virtual servers off (D23). True leaves the sysctl alone.
        strict_arp: this host answers ARP only for addresses of the interface that is asked. False leaves it alone (17).
    """
    result = [
        Sysctl(CONNTRACK, "1", "traffic through virtual servers can be masqueraded"),
        Sysctl("net.ipv4.vs.expire_nodest_conn", "1", "connections to an endpoint that is gone end at once (D8)"),
    ]
    if kernel >= REUSE_SINCE:
        why = "a client that uses a port again is sent to an endpoint of today"
        if kernel < REUSE_MENDED:
            why = "a client that uses a port again does not wait for a second"
        result.append(Sysctl("net.ipv4.vs.conn_reuse_mode", "1" if kernel >= REUSE_MENDED else "0", why))
    if not run_estimation:
        result.append(Sysctl("net.ipv4.vs.run_estimation", "0", "the kernel spends no time on rates nobody reads"))
    if strict_arp:
        result.append(
            Sysctl("net.ipv4.conf.all.arp_ignore", "1", "ARP is answered only for addresses of the interface that is asked")
        )
        result.append(
            Sysctl("net.ipv4.conf.all.arp_announce", "2", "ARP requests carry an address of the interface they leave by")
        )
    return tuple(result)


def ensure(sysctls: tuple[Sysctl, ...], root: Path = SYS) -> Settled:
    """
    Set what is not as wanted, and read it back; see `kpx.host.sysctl.settle`.

    run_estimation came with Linux 5.16 and is not missed before.

    Raises:
        CapabilityError: masquerading cannot work here, so ipvs cannot either.
    """
    settled = settle(sysctls, root)
    for unset in settled.unset:
        if unset.sysctl.name == CONNTRACK:
            raise CapabilityError(f"{unset}: {NEED_NFCT}" if unset.found is None else str(unset))
    tolerated = [u for u in settled.unset if not (u.found is None and u.sysctl.name.endswith(".run_estimation"))]
    return Settled(settled.changed, tuple(tolerated))
