"""
Can this host run kpx: one `Check` a question, each with what was found and what to do about it.

Each function answers one question from what it is given, so it can be asked about any host; nothing is changed, and no module is
loaded but those the kernel loads by itself when their sockets are opened.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from kpx.errors import CapabilityError, KernelError, PermissionDenied
from kpx.host.node import PROC
from kpx.host.sysctl import read_sysctl
from kpx.model.addresses import Family

OLDEST_KERNEL: Final = (5, 10)
OLDEST_PYTHON: Final = (3, 11)

CAP_NET_ADMIN: Final = 12
"""linux/capability.h."""

CROWDED: Final = 0.9
"""Part of the limit on tracked flows from which on there is something to say."""


class Check(NamedTuple):
    """
    The answer to one question about the host.

    Args:
        name: the question, in a few words.
        ok: False: kpx cannot run. None: it can, but something may not be as wanted.
        found: what there is.
        remedy: what to do, a command where one helps; "" when all is well.
    """

    name: str
    ok: bool | None
    found: str
    remedy: str = ""


def python_version(version: tuple[int, ...]) -> Check:
    """Check the interpreter."""
    found = ".".join(map(str, version[:3]))
    if version[:2] >= OLDEST_PYTHON:
        return Check("Python", True, found)
    return Check("Python", False, found, f"install Python {'.'.join(map(str, OLDEST_PYTHON))} or later")


def kernel_version(release: str) -> Check:
    """Check the kernel's version; what counts in the end is whether the rules are taken."""
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers and tuple(map(int, numbers.groups())) >= OLDEST_KERNEL:
        return Check("kernel version", True, release)
    wanted = ".".join(map(str, OLDEST_KERNEL))
    return Check("kernel version", None, release, f"run Linux {wanted} or later; older ones are not tested")


def net_admin(proc: Path = PROC) -> Check:
    """Check for CAP_NET_ADMIN among the effective capabilities."""
    name = "CAP_NET_ADMIN"
    with contextlib.suppress(OSError):
        for line in (proc / "self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                if int(line.split()[1], 16) >> CAP_NET_ADMIN & 1:
                    return Check(name, True, "held")
                return Check(name, False, "not held", "run as root (sudo), or grant CAP_NET_ADMIN as systemd/kpx.service does")
    return Check(name, None, f"{proc}/self/status cannot be read", "mount /proc")


def nf_tables(read: Callable[[], object]) -> Check:
    """Check that nf_tables answers; `read` opens and reads it."""
    name = "nf_tables"
    try:
        read()
    except PermissionDenied as error:
        return Check(name, False, str(error), "run as root (sudo) of this network namespace's user namespace")
    except (CapabilityError, KernelError) as error:
        return Check(name, False, str(error), "modprobe nf_tables; or run a kernel with CONFIG_NF_TABLES")
    return Check(name, True, "answers")


def expressions(probe: Callable[[], Iterable[str]]) -> Check:
    """Check that the kernel takes the rules; `probe` tells which it does not."""
    name = "nf_tables rules"
    try:
        missing = list(probe())
    except (CapabilityError, KernelError) as error:
        return Check(name, False, str(error), "see the check of nf_tables")
    if not missing:
        return Check(name, True, "the kernel takes all of them")
    modules = "modprobe -a nft_chain_nat nft_nat nft_masq nft_ct nft_fib_inet nft_numgen nft_reject_inet"
    return Check(name, False, "; ".join(missing), modules)


def conntrack(proc: Path = PROC) -> Check:
    """Check for connection tracking, and for room in it; its module comes with the first rule that needs it."""
    name = "connection tracking"
    count, most = (read_sysctl(f"net.netfilter.nf_conntrack_{which}", proc / "sys") for which in ("count", "max"))
    if most is None:
        return Check(name, None, "not loaded yet", "modprobe nf_conntrack; otherwise the first rule loads it")
    found = f"{count or 0} of at most {most} flows"
    if int(count or 0) < int(most) * CROWDED:
        return Check(name, True, found)
    remedy = "raise net.netfilter.nf_conntrack_max (--conntrack-max-per-core); when it is full, new connections are dropped"
    return Check(name, None, found, remedy)


def forwarding(family: Family, proc: Path = PROC) -> Check:
    """Check that the host forwards packets of a family."""
    sysctl = "net.ipv4.ip_forward" if family == Family.IPV4 else "net.ipv6.conf.all.forwarding"
    value = read_sysctl(sysctl, proc / "sys")
    name = f"{family} forwarding"
    if value == "1":
        return Check(name, True, f"{sysctl} = 1")
    found = "no such sysctl here" if value is None else f"{sysctl} = {value}"
    return Check(name, None, found, f"sysctl -w {sysctl}=1; without it packets reach endpoints on this host only from this host")


def reverse_path(proc: Path = PROC) -> Check:
    """Check that no interface drops packets for coming in where their answer would not go out."""
    name = "reverse path filter"
    everywhere = read_sysctl("net.ipv4.conf.all.rp_filter", proc / "sys") or "0"
    strict = []
    with contextlib.suppress(OSError):
        for interface in sorted(path.name for path in (proc / "sys/net/ipv4/conf").iterdir()):
            own = read_sysctl(f"net/ipv4/conf/{interface}/rp_filter", proc / "sys") or "0"
            if interface not in ("all", "default", "lo") and max(own, everywhere) == "1":
                strict.append(interface)
    if not strict:
        return Check(name, True, "nowhere strict")
    remedy = "if clients reach this host by one way and are answered by another: sysctl -w net.ipv4.conf.all.rp_filter=2"
    return Check(name, None, f"strict on {', '.join(strict)}", remedy)


def families(supported: tuple[Family, ...]) -> Check:
    """Check which families can be programmed (P2)."""
    found = " and ".join(map(str, supported))
    if Family.IPV6 in supported:
        return Check("families", True, found)
    return Check("families", None, found, "for IPv6 Services: sysctl -w net.ipv6.conf.all.disable_ipv6=0")


def other_agent(pid: int | None) -> Check:
    """Check that no agent serves this network namespace; `pid` as `kpx.agent.lock.holder` returns it."""
    if pid is None:
        return Check("other agent", True, "none")
    who = f"pid {pid}" if pid else "its pid cannot be told from here"
    return Check("other agent", None, f"an agent runs here ({who})", "nothing, if that is the one you want")


def kube_proxy(pid: int | None, left: str) -> Check:
    """
    Check that no kube-proxy forwards the same Services.

    Args:
        pid: of one that runs in this network namespace, None without. left: what one left behind, in words; "" for nothing.
    """
    if pid is not None:
        remedy = "stop it, or let it leave kpx's Services alone: label them service.kubernetes.io/service-proxy-name"
        return Check("kube-proxy", None, f"runs here (pid {pid})", remedy)
    if left:
        return Check("kube-proxy", None, f"left behind: {left}", "if it is gone for good: kpx cleanup --kube-proxy")
    return Check("kube-proxy", True, "nothing of it is here")


def port_free(option: str, address: tuple[str, int]) -> Check:
    """Check that an address the agent serves HTTP on can be bound."""
    host, port = address
    name = f"{option} {port}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server does: a connection that just ended does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            number = error.errno or 0
            taken = "kube-proxy, another kpx? see: ss -ltnp" if number == errno.EADDRINUSE else "no such address here?"
            return Check(name, None, os.strerror(number), f"{taken}; or choose another {option}")
    return Check(name, True, "free")
