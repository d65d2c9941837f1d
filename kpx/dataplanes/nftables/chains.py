"""
Chains made on demand: one for each size of a pool in use, each list of source ranges, each way of remembering clients.

The name of a chain, with its comments, determines its rules, so these chains are rows like all else: any agent that sees the
row knows what to write, and equal needs make equal chains.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from kpx.dataplanes.nftables import remembering
from kpx.dataplanes.nftables.choices import Choice
from kpx.dataplanes.nftables.rules import Chain, Rule, Words
from kpx.kernel.wire import nft_expression as x
from kpx.kernel.wire.nft import NF_DROP, NFT_GOTO
from kpx.model.addresses import Family, Prefix, family_of, parse_prefix

_RANGES: Final = re.compile(r"^ranges-[0-9a-f]+$")
_RANGE: Final = re.compile(r"^from (\S+) #[0-9a-f]+$")


def pick_chain(family: Family, choice: Choice) -> Chain:
    """Choose one of the slots at random, evenly, and send the flow to the endpoint in it (6.5)."""
    w = Words(family)
    key = w.node_port() if choice.node_port else w.frontend()
    slot = 2 if choice.node_port else w.width + 2
    table = "nodeport-endpoints" if choice.node_port else "endpoints"
    number = x.random_below(choice.size, slot, choice.first_slot)
    return Chain(choice.pick_name, (Rule(f"one of {choice.size} endpoints", (*key, number, x.map_value(table, 0, 0), w.dnat())),))


def ranges_chain(ranges: Iterable[Prefix]) -> Chain:
    """Let clients in one of the ranges of a family come to the frontend's choice, drop others (F3); not for an empty list."""
    rules = (*map(_range_rule, ranges), Rule("everybody else is kept out", (x.verdict(NF_DROP),)))
    digest = hashlib.blake2s("\n".join(rule.comment for rule in rules).encode(), digest_size=8).hexdigest()
    return Chain(f"ranges-{digest}", rules)


def _range_rule(prefix: Prefix) -> Rule:
    bits = len(prefix.address) * 8
    source = Words(family_of(prefix.address)).source(0)
    ones = ((1 << prefix.length) - 1) << (bits - prefix.length)
    masked = (x.mask(ones.to_bytes(bits // 8, "big"), 0),) if prefix.length < bits else ()
    inside = (source, *masked, x.compare(x.CMP_EQ, prefix.address, 0))
    return Rule(f"from {prefix}", (*inside, x.verdict(NFT_GOTO, "ranged-choice")))


def ranges_of(comments: Iterable[str]) -> tuple[Prefix, ...]:
    """Return the ranges a chain lets in, by the comments of its rules."""
    return tuple(parse_prefix(match[1]) for match in map(_RANGE.match, comments) if match)


def chain_of(family: Family, name: str, comments: tuple[str, ...]) -> Chain:
    """
    Return the chain a row stands for.

    Raises:
        ValueError: no chain of this data plane has that name.
    """
    choice = Choice.of(name)
    if choice is not None and name == choice.pick_name:
        return pick_chain(family, choice)
    if choice is not None:
        return remembering.stick_chain(family, choice, remembering.restriction_of(comments))
    if _RANGES.match(name):
        return ranges_chain(ranges_of(comments))
    return remembering.record_chain_of(family, name, comments)
