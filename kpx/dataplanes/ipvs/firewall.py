"""
The rules, in the kernel: compare what `iptables-save` lists with what they must be, restore them, take them away.

One execution of iptables-restore a family writes all of them, and each of its three tables changes as a whole. Nobody else's
chain is changed but for our jumps in the built-in ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from kpx.dataplanes.ipvs.rules import TABLES, Chain, comment, jump, spelled
from kpx.kernel.iptables import Iptables
from kpx.model.addresses import Family

Saved = Mapping[str, Sequence[str]]
"""What iptables-save lists: table to its lines, chains (":NAME ...") and rules ("-A NAME ...")."""

_COMMENT: Final = re.compile(r'--comment (?:"([^"]*)"|(\S+))')
_OURS: Final = re.compile(r"^KPX-[A-Z]+$")


def saved(iptables: Iptables, family: Family) -> Saved:
    """Return the rules of the three tables as they are; one execution for all of them."""
    held = iptables.save(int(family))
    return {table: held.get(table, []) for table in TABLES}


def differences(chains: Sequence[Chain], held: Saved) -> list[str]:
    """Return a sentence for each chain or jump of ours that is not as it must be. Pure."""
    found = []
    for chain in chains:
        lines = held.get(chain.table, ())
        wanted = [comment(words, rule) for words, rule in chain.rules]
        if not any(line.startswith(f":{chain.name} ") for line in lines):
            found.append(f"iptables chain {chain.name} of table {chain.table} is missing")
        elif [_comment(line) for line in lines if line.startswith(f"-A {chain.name} ")] != wanted:
            found.append(f"iptables chain {chain.name} of table {chain.table} has other rules")
        absent = (entrance for entrance in chain.entered_from if not _jumps(lines, entrance, chain.name))
        found += [f"iptables chain {entrance} of table {chain.table} does not jump to {chain.name}" for entrance in absent]
    return found


def restoration(chains: Sequence[Chain], held: Saved) -> str:
    """Return what iptables-restore --noflush must read to make our chains right; nobody else's change. Pure."""
    parts = []
    for table in TABLES:
        mine = [chain for chain in chains if chain.table == table]
        lines = held.get(table, ())
        parts.append(f"*{table}")
        parts += [f":{chain.name} - [0:0]" for chain in mine]
        parts += [f"-A {chain.name} {spelled(words, rule)}" for chain in mine for words, rule in chain.rules]
        for chain in mine:
            parts += [f"-I {e} 1 {jump(chain)}" for e in chain.entered_from if not _jumps(lines, e, chain.name)]
        parts.append("COMMIT")
    return "\n".join(parts) + "\n"


def removal(held: Saved) -> str:
    """Return what iptables-restore --noflush must read to take away our chains and all jumps to them, "" for nothing. Pure."""
    parts = []
    for table in TABLES:
        lines = held.get(table, ())
        names = list(our_chains(lines))
        if not names:
            continue
        parts.append(f"*{table}")
        into_ours = re.compile(rf"-[jg] (?:{'|'.join(map(re.escape, names))})(?: |$)")
        entrances = [line for line in lines if line.startswith("-A ") and line.split()[1] not in names and into_ours.search(line)]
        parts += [f"-D{line[2:]}" for line in entrances]
        parts += [f"-F {name}" for name in names] + [f"-X {name}" for name in names]
        parts.append("COMMIT")
    return "\n".join(parts) + "\n" if parts else ""


def our_chains(lines: Iterable[str]) -> list[str]:
    """Return the chains of a table whose names are ours. Pure."""
    declared = (line[1:].split(" ", 1)[0] for line in lines if line.startswith(":"))
    return [name for name in declared if _OURS.match(name)]


def _jumps(lines: Iterable[str], entrance: str, name: str) -> bool:
    return any(line.startswith(f"-A {entrance} ") and line.endswith(f" -j {name}") for line in lines)


def _comment(line: str) -> str:
    match = _COMMENT.search(line)
    return (match[1] or match[2] or "") if match else ""
