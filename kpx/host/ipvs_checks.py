"""What on this host gets in the way of the ipvs data plane once it runs, and what it will change: one `Check` a question."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from kpx.host.features import Check
from kpx.host.ipvs_sysctls import CONNTRACK
from kpx.host.node import PROC
from kpx.host.sysctl import SYS, Sysctl, different, may_be_set, read_sysctl


def sysctls(wanted: Iterable[Sysctl], root: Path = SYS) -> Check:
    """Check the sysctls ipvs wants; those that differ are no obstacle as long as kpx may set them."""
    name = "ipvs sysctls"
    differing = [(sysctl, found) for sysctl, found in different(wanted, root) if found is not None]
    if not differing:
        return Check(name, True, "as wanted")
    found = ", ".join(f"{sysctl.name} = {value}" for sysctl, value in differing)
    by_hand = "sysctl -w " + " ".join(f"{sysctl.name}={sysctl.value}" for sysctl, _ in differing)
    stuck = [sysctl.name for sysctl, _ in differing if not may_be_set(sysctl.name, root)]
    if not stuck:
        return Check(name, None, found, f"nothing: kpx run sets them; or {by_hand}")
    # Without it nothing can be masqueraded, and kpx run refuses to start.
    return Check(
        name, False if CONNTRACK in stuck else None, f"{found}; may not be set from here", f"on the host, as root: {by_hand}"
    )


def source_marks(proc: Path = PROC) -> Check:
    """
    Check that no interface looks up where packets come from by their mark.

    With src_valid_mark the kernel asks for the way back to the client with the mark the packet carries. For a steered packet
    every address then is local, the client's too, and what comes from a local address is dropped unless accept_local permits
    it (__fib_validate_source() in net/ipv4/fib_frontend.c). wg-quick(8), for one, switches it on for all interfaces.
    """
    directory = proc / "sys/net/ipv4/conf"
    dropping = []
    with contextlib.suppress(OSError):
        for interface in sorted(path.name for path in directory.iterdir()):
            looked_up = _is_on(proc, interface, "src_valid_mark") and not _is_on(proc, interface, "accept_local")
            if looked_up and interface not in ("all", "default", "lo"):
                dropping.append(interface)
    if not dropping:
        return Check("source addresses and marks", True, "looked up without the mark")
    remedy = "sysctl -w net.ipv4.conf.all.src_valid_mark=0 (and that of each interface); where WireGuard needs it: accept_local=1"
    found = f"src_valid_mark is on for {', '.join(dropping)}: IPv4 packets to Services that come in there are dropped"
    return Check("source addresses and marks", None, found, remedy)


def contested(sentences: Sequence[str]) -> Check:
    """Check that nobody else uses what the data plane puts its own things into; `sentences` as it tells them."""
    name = "policy routing"
    if not sentences:
        return Check(name, True, "nobody else uses the priority and the table of kpx")
    return Check(name, None, "; ".join(sentences), "move theirs elsewhere (see ip rule); kpx does not touch it")


def _is_on(proc: Path, interface: str, what: str) -> bool:
    """Tell whether a switch is on for an interface: its own, or that of all (IN_DEV_ORCONF in include/linux/inetdevice.h)."""
    return any(read_sysctl(f"net/ipv4/conf/{one}/{what}", proc / "sys") not in (None, "0") for one in (interface, "all"))
