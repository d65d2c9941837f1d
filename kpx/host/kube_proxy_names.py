"""
Which iptables chains and ipsets are kube-proxy's, and what of a table can be taken out. Pure.

"KUBE-" is no owner: kubelet, kube-router and others use it as well. So names are compared with those kube-proxy gives (pkg/proxy
in Kubernetes 1.36, and what older ones gave), and everything else is left alone, whatever it begins with.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

DEVICE: Final = "kube-ipvs0"
"""The interface on which its mode ipvs puts the addresses of Services."""

CHAINS: Final = frozenset(
    (
        "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-FORWARD",
        "KUBE-PROXY-FIREWALL", "KUBE-PROXY-CANARY", "KUBE-NODE-PORT", "KUBE-LOAD-BALANCER", "KUBE-SOURCE-RANGES-FIREWALL",
        "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER",
    )
)  # fmt: skip
"""The chains of its iptables and ipvs modes that have fixed names."""

NUMBERED: Final = re.compile(r"KUBE-(?:SVC|SVL|EXT|XLB|FW|SEP)-[A-Z2-7]{16}")
"""Its chains of one Service or endpoint: base 32 of a hash."""

KUBELET: Final = frozenset(("KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-MARK-DROP", "KUBE-IPTABLES-HINT"))
"""Chains the kubelet makes, and makes again when they are gone."""

BUILT_IN: Final = frozenset(("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"))

SET_NAMES: Final = (
    "LOOP-BACK", "CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL", "LOAD-BALANCER", "LOAD-BALANCER-LOCAL", "LOAD-BALANCER-FW",
    "LOAD-BALANCER-SOURCE-CIDR", "LOAD-BALANCER-SOURCE-IP", "NODE-PORT-TCP", "NODE-PORT-UDP", "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-TCP", "NODE-PORT-LOCAL-UDP", "NODE-PORT-LOCAL-SCTP-HASH", "HEALTH-CHECK-NODE-PORT", "IPVS-IPS",
)  # fmt: skip

SET_NAME_MAX: Final = 31
"""The longest name of an ipset; kube-proxy cuts longer ones."""

SETS: Final = frozenset(f"{prefix}{name}"[:SET_NAME_MAX] for prefix in ("KUBE-", "KUBE-6-") for name in SET_NAMES)

_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_LEADS_TO: Final = re.compile(r" (?:-j|-g) (\S+)")


class TableLeftovers(NamedTuple):
    """
    What kube-proxy left in one iptables table.

    Args:
        chains: its chains that can go.
        jumps: the rules of other chains that lead there, as iptables-save prints them.
        kept: its chains that must stay, since rules of somebody else need them.
        kubelet: chains that look alike and are the kubelet's.
    """

    table: str
    chains: tuple[str, ...] = ()
    jumps: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    kubelet: tuple[str, ...] = ()


def is_chain(name: str) -> bool:
    """Tell whether a chain is kube-proxy's."""
    return name in CHAINS or NUMBERED.fullmatch(name) is not None


def sets(names: Iterable[str]) -> tuple[str, ...]:
    """Return those ipsets that are kube-proxy's, sorted."""
    return tuple(sorted(SETS.intersection(names)))


def table_leftovers(table: str, chains: Collection[str], rules: Sequence[str]) -> TableLeftovers:
    """
    Find what kube-proxy left in a table.

    A chain of its that somebody else's own chain uses stays, with all it leads to: portmap, for one, is often told to mark
    packets through KUBE-MARK-MASQ, which is nothing without KUBE-POSTROUTING. Jumps from the built-in chains are kube-proxy's.

    Args:
        chains: names of all chains. rules: all rules, in the form `-A CHAIN ...` of iptables-save.
    """
    mine = {name for name in chains if is_chain(name)}
    kubelet = tuple(sorted(KUBELET.intersection(chains)))
    if not mine:
        return TableLeftovers(table, kubelet=kubelet)
    leads = [(rule, *ends) for rule in rules if "KUBE-" in rule and (ends := _ends(rule))[1] in mine]
    foreign = {target for _, chain, target in leads if chain not in mine and chain not in BUILT_IN and chain not in KUBELET}
    kept = _reached(foreign, [(chain, target) for _, chain, target in leads], mine)
    jumps = tuple(rule for rule, chain, target in leads if chain not in mine and target not in kept)
    return TableLeftovers(table, tuple(sorted(mine - kept)), jumps, tuple(sorted(kept)), kubelet)


def removal(leftovers: TableLeftovers) -> str:
    """Return what iptables-restore --noflush has to read to take out what can go; "" when nothing can."""
    if not leftovers.chains:
        return ""
    lines = [f"*{leftovers.table}", *(f":{chain} - [0:0]" for chain in leftovers.chains)]
    lines += [f"-D{rule.removeprefix('-A')}" for rule in leftovers.jumps]
    lines += [f"-X {chain}" for chain in leftovers.chains]
    return "\n".join([*lines, "COMMIT", ""])


def _ends(rule: str) -> tuple[str, str]:
    """Return the chain a rule is in and the one it leads to, "" for none; a comment may say anything."""
    found = _LEADS_TO.search(_QUOTED.sub('""', rule))
    return rule.split(" ", 2)[1], found[1] if found else ""


def _reached(start: Iterable[str], leads: Sequence[tuple[str, str]], mine: Collection[str]) -> set[str]:
    """Return the chains that rules get to from `start`, and what those need to mean anything."""
    reached: set[str] = set()
    waiting = list(start)
    while waiting:
        chain = waiting.pop()
        if chain in reached:
            continue
        reached.add(chain)
        waiting += [target for source, target in leads if source == chain]
        if chain == "KUBE-MARK-MASQ" and "KUBE-POSTROUTING" in mine:
            waiting.append("KUBE-POSTROUTING")
    return reached
