"""
Flows of Services past a firewall that drops what nobody accepts (`--accept-forwarded`).

In iptables the first rule of FORWARD and INPUT that decides, decides. So a chain of ours is entered first and accepts what was
sent to an endpoint on this host: flows whose destination was translated (connection tracking knows, in both directions), and
with ipvs what is on its way to a virtual server, and flows that exist, whose answers bear no sign of IPVS. It accepts no more
than that, and a firewall's own rules judge everything else.

In nftables that cannot be done for somebody else: there a packet passes every base chain of a hook, and a drop in any of them
is final, whatever others accept. Such a firewall needs a rule of its own (`ct status dnat accept`, which firewalld has).
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from kpx.errors import CapabilityError, KernelError
from kpx.kernel.iptables import Iptables
from kpx.kernel.netlink import Netlink
from kpx.kernel.wire import nft
from kpx.model.addresses import Family

CHAIN: Final = "KPX-ACCEPT-FLOWS"
ENTRANCES: Final = ("FORWARD", "INPUT")
LEGACY_TABLES: Final = {Family.IPV4: Path("/proc/net/ip_tables_names"), Family.IPV6: Path("/proc/net/ip6_tables_names")}
"""The tables that iptables-legacy has in use; reading these loads nothing."""


def rules(steering_bit: int = 0) -> tuple[str, ...]:
    """
    Return the rules of our chain, without the chain. Pure.

    Args:
        steering_bit: of packet marks, what the ipvs data plane sends to a virtual server; 0 without that data plane.
    """
    said = [("flows sent to an endpoint, both ways", "-m conntrack --ctstate DNAT -j ACCEPT")]
    if steering_bit:
        bit = f"{steering_bit:#x}/{steering_bit:#x}"
        said.append(("on the way to a virtual server", f"-m mark --mark {bit} -m conntrack ! --ctstate INVALID -j ACCEPT"))
        said.append(("answers that IPVS translates", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"))
    return tuple(f'-m comment --comment "{_comment(words, rule)}" {rule}' for words, rule in said)


def mending(wanted: Sequence[str], held: Iterable[str]) -> str:
    """
    Return what iptables-restore --noflush must read so that our chain is as wanted and is entered first; "" when it is. Pure.

    Args:
        wanted: rules of our chain, () for no chain at all.
        held: the filter table as iptables-save has it.
    """
    lines = list(held)
    mine = [line for line in lines if line.startswith(f"-A {CHAIN} ")]
    jumps = [line for line in lines if line.startswith("-A ") and line.endswith(f"-j {CHAIN}")]
    there = any(line.startswith(f":{CHAIN} ") for line in lines)
    commands: list[str] = []
    if wanted:
        if not there or [_said(line) for line in mine] != [_said(rule) for rule in wanted]:
            commands += [f":{CHAIN} - [0:0]", *(f"-A {CHAIN} {rule}" for rule in wanted)]
        missing = [entrance for entrance in ENTRANCES if not any(line.startswith(f"-A {entrance} ") for line in jumps)]
        commands += [f"-I {entrance} 1 -m comment --comment kpx -j {CHAIN}" for entrance in missing]
    elif there:
        commands += [*(f"-D{line[2:]}" for line in jumps), f"-F {CHAIN}", f"-X {CHAIN}"]
    return "\n".join(["*filter", *commands, "COMMIT", ""]) if commands else ""


def ensure(families: Iterable[Family], wanted: Sequence[str]) -> list[str]:
    """
    Let our chain be as wanted in these families, () for not at all; idempotent. Returns a sentence for each family it changed.

    Raises:
        CapabilityError: there is no iptables. KernelError, PermissionDenied: it refuses.
    """
    iptables, done = Iptables(), []
    for family in families:
        if not wanted and not is_there(family):
            continue
        text = mending(wanted, iptables.save(int(family), ("filter",))["filter"])
        if text:
            iptables.restore(int(family), text)
            done.append(f"iptables chain {CHAIN} ({family})")
    return done


def is_there(family: Family) -> bool:
    """Tell whether our chain may be there, without running or loading anything: most hosts never had it."""
    try:
        if "filter" in LEGACY_TABLES[family].read_text().split():
            return True
    except OSError:
        pass  # no iptables-legacy in use, or not ours to see: then not ours to change either
    proto = nft.NFPROTO_IPV4 if family == Family.IPV4 else nft.NFPROTO_IPV6
    try:
        with closing(Netlink()) as netlink:
            (sequence,) = netlink.sequences(1)
            netlink.request(nft.get_chain(sequence, proto, "filter", CHAIN), sequence, f"look for chain {CHAIN}")
            return True
    except CapabilityError:
        return False
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            return False
        raise


def _comment(words: str, rule: str) -> str:
    """Return words for people and a hash of the rule, which tells whether it is as we would write it."""
    return f"kpx: {words} #{hashlib.blake2s(rule.encode(), digest_size=4).hexdigest()}"


def _said(line: str) -> str:
    return line.partition('--comment "')[2].partition('"')[0]
