"""
What kube-proxy left behind in this network namespace: finding it. `kpx.host.kube_proxy_removal` removes it when asked to.

kube-proxy takes little away when it stops, and what it leaves goes on forwarding to endpoints of yesterday. Nothing is removed
that is not certainly its: names are compared with those it gives (`kpx.host.kube_proxy_names`), a virtual server has no name at
all and counts as its only if its address is on kube-ipvs0, and those kpx has written down as its own are left out.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from kpx.errors import CapabilityError, KernelError, PermissionDenied
from kpx.host import kube_proxy_names as names
from kpx.host.kube_proxy_names import DEVICE, TableLeftovers
from kpx.host.modules import program_path
from kpx.host.node import PROC
from kpx.kernel.ipset import IpSets
from kpx.kernel.iptables import Iptables
from kpx.kernel.ipvs import Ipvs
from kpx.kernel.links import link_exists
from kpx.kernel.netlink import Netlink
from kpx.kernel.netlink_addresses import interface_addresses
from kpx.kernel.wire import nft
from kpx.kernel.wire.ipvs import ServerKey
from kpx.model.addresses import Address, format_address
from kpx.model.names import Protocol

TABLE: Final = "kube-proxy"
NFT_FAMILIES: Final = {nft.NFPROTO_IPV4: "ip", nft.NFPROTO_IPV6: "ip6"}
OUR_RECORDS: Final = ("KPX-SERVERS", "KPX6-SERVERS")
"""The ipsets in which the ipvs data plane writes down its own virtual servers."""


class RuleLeftovers(NamedTuple):
    """What is left in one iptables table, and the programs that show and change it; `family` is the IP version, 4 or 6."""

    tools: Iptables
    family: int
    found: TableLeftovers

    @property
    def program(self) -> str:
        """What people type to see them."""
        return self.tools.name(self.family)


class Leftovers(NamedTuple):
    """
    What kube-proxy left behind.

    Args:
        rules: one entry for each iptables table with something in it.
        sets: names of ipsets. device: kube-ipvs0 is there. tables: nftables families with a table kube-proxy.
        servers: virtual servers on addresses of kube-ipvs0.
        doubtful: other virtual servers that are not kpx's; looked for only beside kube-ipvs0.
    """

    rules: tuple[RuleLeftovers, ...] = ()
    sets: tuple[str, ...] = ()
    device: bool = False
    tables: tuple[int, ...] = ()
    servers: tuple[ServerKey, ...] = ()
    doubtful: tuple[ServerKey, ...] = ()

    def __bool__(self) -> bool:
        return any(rules.found.chains for rules in self.rules) or bool(self.sets or self.device or self.tables)

    def counted(self) -> str:
        """Say what there is, in numbers: "2 ipsets, the interface kube-ipvs0"."""
        chains = sum(len(rules.found.chains) for rules in self.rules)
        counts = ((chains, "iptables chain"), (len(self.sets), "ipset"), (len(self.servers), "virtual server"))
        parts = [f"{count} {what}{'s' if count > 1 else ''}" for count, what in counts if count]
        parts += [f"the interface {DEVICE}"] if self.device else []
        return ", ".join([*parts, *(f"the nftables table {NFT_FAMILIES[family]} {TABLE}" for family in self.tables)])

    def staying(self) -> list[str]:
        """Say what looks like kube-proxy's and is not removed, and why."""
        said = []
        for rules in self.rules:
            where = f"{rules.program} table {rules.found.table}"
            if rules.found.kubelet:
                said.append(f"{where}: {', '.join(rules.found.kubelet)}: the kubelet's")
            if rules.found.kept:
                said.append(f"{where}: {', '.join(rules.found.kept)}: rules of somebody else use them")
        said += [f"virtual server {server_text(key)}: not on {DEVICE}, so it may be anybody's" for key in self.doubtful]
        return said


def find() -> Leftovers:
    """
    Look for what kube-proxy left in this network namespace; nothing is changed.

    Raises:
        PermissionDenied: without CAP_NET_ADMIN.
    """
    tables, sets = _tables_and_sets()
    device = link_exists(DEVICE)
    # Asking for IPVS may load it, so that is only done where kube-proxy's ipvs mode has been.
    servers, doubtful = _servers(sets) if device else ((), ())
    return Leftovers(tuple(_rules()), names.sets(sets), device, tables, servers, doubtful)


def running(proc: Path = PROC) -> int | None:
    """Return the pid of a kube-proxy that serves this network namespace, None when none can be seen from here."""
    here = _namespace(proc / "thread-self")
    for directory in sorted(proc.glob("[0-9]*")):
        with contextlib.suppress(OSError):
            if (directory / "comm").read_text().strip() == "kube-proxy" and _namespace(directory) == here:
                return int(directory.name)
    return None


def server_text(key: ServerKey) -> str:
    """Write a virtual server as people do: 10.96.0.1:80/TCP."""
    if key.fwmark:
        return f"fwmark {key.fwmark:#x}"
    address = format_address(Address(key.address))
    protocol = Protocol(key.protocol).name if key.protocol in set(Protocol) else str(key.protocol)
    return f"[{address}]:{key.port}/{protocol}" if key.family == 6 else f"{address}:{key.port}/{protocol}"


def _rules() -> Iterator[RuleLeftovers]:
    """Yield what is in tables of iptables, those of its other variant too, which may have been kube-proxy's."""
    for tools in _tools():
        for family in (4, 6):
            try:
                saved = tools.save(family)
            except CapabilityError:
                continue
            except PermissionDenied:
                # Of the other variant: /proc/net/ip_tables_names is for root alone, which an agent need not be.
                if tools.variant != "legacy":
                    raise
                continue
            for table, lines in saved.items():
                chains = [line[1:].split(" ", 1)[0] for line in lines if line.startswith(":")]
                found = names.table_leftovers(table, chains, [line for line in lines if line.startswith("-A ")])
                if found != TableLeftovers(table):
                    yield RuleLeftovers(tools, family, found)


def _tools() -> Iterator[Iptables]:
    """Yield the programs whose rules may be in force here: the system's, and those of the other variant if installed."""
    usual = Iptables()
    try:
        other = Iptables("nft" if usual.legacy else "legacy")
    except CapabilityError:
        return
    yield usual
    if program_path(f"{other.name(4)}-save") is not None:
        yield other


def _has_table(netlink: Netlink, family: int) -> bool:
    (sequence,) = netlink.sequences(1)
    return _done(lambda: netlink.request(nft.get_table(sequence, family, TABLE), sequence, f"look for table {TABLE}"))


def _servers(sets: list[str]) -> tuple[tuple[ServerKey, ...], tuple[ServerKey, ...]]:
    """Return the virtual servers that are certainly kube-proxy's, and those that may be anybody's; none without ip_vs."""
    try:
        ipvs = Ipvs()
    except CapabilityError:
        return (), ()
    with contextlib.closing(ipvs):
        every = [key for key, _ in ipvs.servers()]
    bound = {entry.address for entry in interface_addresses() if entry.interface == DEVICE}
    ours = _recorded(sets)
    others = sorted(key for key in every if (key.address, key.protocol, key.port) not in ours)
    certain = tuple(key for key in others if not key.fwmark and key.address in bound)
    return certain, tuple(key for key in others if key not in certain)


def _recorded(sets: list[str]) -> set[tuple[bytes, int, int]]:
    """Return address, protocol and port of the virtual servers that kpx has written down as its own."""
    with contextlib.closing(Netlink()) as netlink:
        records = [IpSets(netlink).elements(name) for name in OUR_RECORDS if name in sets]
        return {(element.address, element.protocol, element.port) for elements in records for element in elements}


def _tables_and_sets() -> tuple[tuple[int, ...], list[str]]:
    """Return the nftables families that have kube-proxy's table, and the names of all ipsets; a kernel without has none."""
    tables: tuple[int, ...] = ()
    with contextlib.suppress(CapabilityError), contextlib.closing(Netlink()) as netlink:
        tables = tuple(family for family in NFT_FAMILIES if _has_table(netlink, family))
        return tables, IpSets(netlink).names()
    return tables, []


def _done(ask: Callable[[], object]) -> bool:
    """Ask the kernel for something that may not be there."""
    try:
        ask()
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL):
            return False
        raise
    return True


def _namespace(process: Path) -> tuple[int, int]:
    status = os.stat(process / "ns/net")
    return status.st_dev, status.st_ino
