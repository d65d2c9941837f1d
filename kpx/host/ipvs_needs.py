"""
What the ipvs data plane needs of this host, need by need, each with what is there and what to do about it.

A need is asked for by using it in a way that changes nothing. That makes the kernel load the module that has it, where it is
permitted to. Where it did not, modprobe may be tried as well; after that it matters whether there is no such module, or one that
may not be loaded from here, or one that nobody has loaded yet.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from kpx.errors import CapabilityError, PermissionDenied
from kpx.host.features import Check
from kpx.host.ipvs_sysctls import CONNTRACK
from kpx.host.modules import Module, load, may_load, module, program_path
from kpx.host.sysctl import SYS, may_be_set, read_sysctl
from kpx.kernel.extensions import has_match, has_nf_tables, has_set_type
from kpx.kernel.ipset import IpSets
from kpx.kernel.iptables import Iptables
from kpx.kernel.ipvs import Ipvs
from kpx.kernel.netlink import Netlink
from kpx.kernel.wire.ipvs import probe_scheduler_message
from kpx.model.addresses import Family

SET_TYPES: Final = ("hash:ip,port", "hash:ip", "hash:net", "hash:net,net", "hash:ip,port,ip")
"""The types of ipsets the data plane uses."""

MATCH: Final = ("set", 1)
"""The iptables match that looks into ipsets, and its oldest revision that can do what our rules ask of it."""

CARRIERS: Final = {Family.IPV4: "ip_tables", Family.IPV6: "ip6_tables"}
"""The modules that answer for the matches of legacy iptables; for those of the other it is nft_compat."""

PROGRAMS: Final = {
    Family.IPV4: ("iptables-save", "iptables-restore"),
    Family.IPV6: ("ip6tables-save", "ip6tables-restore"),
}

AS_ROOT: Final = "run kpx as root, for example with sudo"
WHY_NF_TABLES: Final = "ipvs leaves session affinity, Local policies and source ranges to it"
KERNEL_PACKAGE: Final = "install the modules of this kernel (such as linux-image-amd64, kernel-modules), or run one that has it"


def ask(families: Sequence[Family], loading: bool) -> Iterator[Check]:
    """
    Ask for everything ipvs needs, and yield the answers.

    Args:
        families: those to be programmed.
        loading: try modprobe for what the kernel did not load by itself.
    """
    virtual_servers = need("ip_vs", lambda: _missing("ip_vs", lambda: Ipvs().close()), loading)
    yield virtual_servers
    if virtual_servers.ok:
        yield tracked_connections()
        if Family.IPV6 in families:
            with contextlib.closing(Ipvs()) as ipvs:
                yield ipv6(ipvs.write([probe_scheduler_message("rr")])[0])
    tools = programs(families)
    yield tools
    door = need("netfilter netlink", lambda: _missing("nfnetlink", lambda: Netlink().close()), loading)
    if not door.ok:
        yield door
        return
    with contextlib.closing(Netlink()) as netlink:
        tables = need("nf_tables", lambda: [] if has_nf_tables(netlink) else ["nf_tables"], loading)
        yield tables if tables.ok else tables._replace(found=f"{tables.found}; {WHY_NF_TABLES}")
        sets = need("ip_set", lambda: _missing("ip_set", lambda: IpSets(netlink)), loading)
        yield sets
        if sets.ok:
            yield need("ipset types", lambda: _missing_set_types(netlink, families), loading)
        if sets.ok and tools.ok:
            yield raw_sockets()
            legacy = Iptables().legacy
            yield need("iptables match set", lambda: _missing_match(netlink, families, legacy), loading)


def need(name: str, missing: Callable[[], list[str]], loading: bool) -> Check:
    """
    Ask for what modules bring.

    Args:
        name: of the need, for the answer.
        missing: returns the modules whose part does not answer, [] when everything does.
        loading: try modprobe for them, and ask again.
    """
    try:
        absent = missing()
        loadable = [one for one in absent if module(one) is Module.LOADABLE] if loading and may_load() else []
        refusals = [why for why in map(load, loadable) if why]
        absent = missing() if loadable else absent
    except PermissionDenied as error:
        return Check(name, False, os.strerror(error.errno), AS_ROOT)
    return answer(name, {one: module(one) for one in absent}, may_load(), "; ".join(refusals))


def answer(name: str, absent: dict[str, Module], permitted: bool, refusal: str = "") -> Check:
    """
    Say what it means that parts of the kernel do not answer. Pure.

    Args:
        absent: what there is of the module that should bring each part; {} when all of them answer.
        permitted: this process may load modules. refusal: what came of an attempt to, "" for no attempt.
    """
    if not absent:
        return Check(name, True, "answers")
    # What is loaded and does not answer may only be waiting for the others.
    absent = {one: state for one, state in absent.items() if state not in (Module.LOADED, Module.BUILT_IN)} or absent
    found = ", ".join(f"{one} {state.value}" for one, state in absent.items()) + (f" ({refusal})" if refusal else "")
    by_hand = f"modprobe -a {' '.join(absent)}" if len(absent) > 1 else f"modprobe {next(iter(absent))}"
    states = set(absent.values())
    if Module.ABSENT in states:
        return Check(name, False, found, KERNEL_PACKAGE)
    if Module.UNKNOWN in states:
        return Check(name, False, found, f"on the host, as root: {by_hand}; or run a kernel that has it")
    if Module.LOADABLE in states and permitted and not refusal:
        return Check(name, None, found, f"nothing: kpx run loads what it needs; or, as root: {by_hand}")
    if Module.LOADABLE in states:
        return Check(name, False, f"{found}, and may not be loaded from here", f"on the host, as root: {by_hand}")
    return Check(
        name, False, f"{found}, but does not answer in this network namespace", "see dmesg; or run kpx on the host itself"
    )


def tracked_connections(root: Path = SYS) -> Check:
    """Check that virtual servers and connection tracking work together, without which there is no masquerading."""
    name, value = "tracked IPVS connections", read_sysctl(CONNTRACK, root)
    if value is None:
        return Check(name, False, f"there is no {CONNTRACK}", "run a kernel with CONFIG_IP_VS_NFCT")
    if value != "1" and not may_be_set(CONNTRACK, root):
        return Check(name, False, f"{CONNTRACK} is {value} and cannot be set from here", f"sysctl -w {CONNTRACK}=1 on the host")
    return Check(name, True, f"{CONNTRACK} exists")


def ipv6(number: int) -> Check:
    """Check for IPv6 virtual servers; `number` is the errno of asking for one that cannot be (`probe_scheduler_message`)."""
    if number == errno.EAFNOSUPPORT:
        remedy = "run a kernel with CONFIG_IP_VS_IPV6, or switch IPv6 off: sysctl -w net.ipv6.conf.all.disable_ipv6=1"
        return Check("IPv6 virtual servers", False, os.strerror(number), remedy)
    return Check("IPv6 virtual servers", True, "known to ip_vs")


def programs(families: Iterable[Family], path: str | None = None) -> Check:
    """Check for the programs that write iptables rules; `path` as the variable PATH, None for that of this process."""
    missing = [name for family in families for name in PROGRAMS[family] if program_path(name, path) is None]
    if not missing:
        return Check("iptables programs", True, "installed")
    return Check("iptables programs", False, f"no {', '.join(missing)}", "apt-get install iptables, or dnf install iptables-nft")


def raw_sockets() -> Check:
    """Check for CAP_NET_RAW: the match `set` of iptables asks the kernel about sets by a raw socket (libxt_set.h)."""
    name = "raw sockets"
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).close()
    except PermissionError as error:
        return Check(name, False, os.strerror(error.errno or errno.EPERM), f"give kpx CAP_NET_RAW; or {AS_ROOT}")
    return Check(name, True, "iptables may open them")


def _missing(name: str, use: Callable[[], object]) -> list[str]:
    try:
        use()
    except CapabilityError:
        return [name]
    return []


def _missing_set_types(netlink: Netlink, families: Sequence[Family]) -> list[str]:
    absent = [kind for kind in SET_TYPES if not all(has_set_type(netlink, int(family), kind) for family in families)]
    return ["ip_set_" + kind.replace(":", "_").replace(",", "") for kind in absent]


def _missing_match(netlink: Netlink, families: Sequence[Family], legacy: bool) -> list[str]:
    name, revision = MATCH
    if all(has_match(netlink, int(family), name, revision, legacy) for family in families):
        return []
    carriers = [CARRIERS[family] for family in families] if legacy else ["nft_compat"]
    return [*carriers, f"xt_{name}"]
