"""
What the rows of this data plane make of a packet, hook by hook: chains and their rules, jumps and returns. Pure.

A row of a chain stands for its rules by their comments; what each of them is, `skeleton` and `chains` say, as they do when the
rules are written. A rule with a comment of somebody else's is stepped over, and the walk says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache

from kpx.dataplanes.nftables.chains import chain_of
from kpx.dataplanes.nftables.machine import NEXT_RULE, REJECT, Ended, Machine, Running
from kpx.dataplanes.nftables.rules import Chain, Rule
from kpx.dataplanes.nftables.schema import CHAINS
from kpx.dataplanes.nftables.sets import Sets
from kpx.dataplanes.nftables.skeleton import HOOKS, skeleton
from kpx.dataplanes.way import Hook, Place, Traveller, Turn
from kpx.kernel.wire.nft import NF_ACCEPT, NF_DROP, NFT_GOTO, NFT_JUMP, NFT_RETURN
from kpx.kernel.wire.nft_instruction import Instruction, read
from kpx.model.addresses import Address, Family, is_loopback
from kpx.model.facts import NodeFacts
from kpx.reconcile.rows import Rows

_TURNS = {NF_ACCEPT: Turn.ON, NFT_RETURN: Turn.ON, NF_DROP: Turn.DROP, REJECT: Turn.REJECT}


def hooks_of(rows: Rows, facts: NodeFacts, host: Collection[Address]) -> Iterator[Hook]:
    """Yield what the base chains that are there do."""
    for family in Family:
        for name, hook in HOOKS.items():
            if name in rows.get(CHAINS[family], {}):
                place = Place(hook.hook)
                passes = _Chains(rows, facts, family, host, place).entering(name)
                yield Hook(place, hook.priority, family, hook.type == "nat", passes)


@lru_cache(maxsize=8)
def _constant(facts: NodeFacts, family: Family) -> dict[str, Chain]:
    return {chain.name: chain for chain in skeleton(facts, family)}


@lru_cache(maxsize=4096)
def _instructions(rule: Rule) -> tuple[Instruction, ...]:
    return tuple(map(read, rule.expressions))


class _Chains:
    """The chains of a family, as packets of one hook find them."""

    def __init__(self, rows: Rows, facts: NodeFacts, family: Family, host: Collection[Address], place: Place) -> None:
        self._known = _constant(facts, family)
        self._rows = rows.get(CHAINS[family], {})
        self._family, self._place = family, place
        self._machine = Machine(Sets(rows, family), lambda address: address in host or is_loopback(address))

    def entering(self, name: str) -> Callable[[Traveller], Iterable[tuple[Traveller, Turn]]]:
        """Return what becomes of packets that enter a base chain; its policy is to accept."""

        def passes(packet: Traveller) -> Iterator[tuple[Traveller, Turn]]:
            for after, code in self._chain(name, packet):
                yield after, _TURNS[code]

        return passes

    def _chain(self, name: str, packet: Traveller) -> Iterator[tuple[Traveller, int | str]]:
        """Yield all ends of a chain: a final verdict, or NFT_RETURN at its end."""
        if name not in self._rows:
            yield packet.meets(self._place, name, "the chain is missing"), NFT_RETURN
            return
        comments = self._rows[name]
        yield from self._rules(name, comments if isinstance(comments, tuple) else (), packet)

    def _rules(self, chain: str, comments: Sequence[str], packet: Traveller) -> Iterator[tuple[Traveller, int | str]]:
        if not comments:
            yield packet, NFT_RETURN
            return
        rule = self._rule(chain, comments[0])
        if rule is None:
            foreign = packet.meets(
                self._place, chain, f"stepped over a rule that kpx did not write: {comments[0] or 'no comment'}"
            )
            yield from self._rules(chain, comments[1:], foreign)
            return
        for running, ended in self._machine.run(_instructions(rule), Running(packet)):
            after = self._met(chain, rule, packet, running, ended)
            if ended.code == NFT_JUMP:
                for back, code in self._chain(ended.chain, after):
                    yield from self._rules(chain, comments[1:], back) if code == NFT_RETURN else ((back, code),)
            elif ended.code == NFT_GOTO:
                yield from self._chain(ended.chain, after)
            elif ended.code == NEXT_RULE:
                yield from self._rules(chain, comments[1:], after)
            else:
                yield after, ended.code

    def _met(self, chain: str, rule: Rule, before: Traveller, running: Running, ended: Ended) -> Traveller:
        """Note a rule that had a say: one that gave a verdict, or wrote something."""
        if ended.code == NEXT_RULE and running.packet == before:
            return before
        return running.packet.meets(self._place, chain, rule.words, ", ".join(running.rows))

    def _rule(self, chain: str, comment: str) -> Rule | None:
        known = self._known.get(chain)
        if known is None:
            return _made(self._family, chain, self._rows[chain]).get(comment)
        return next((rule for rule in known.rules if rule.comment == comment), None)


@lru_cache(maxsize=4096)
def _made(family: Family, name: str, comments: object) -> dict[str, Rule]:
    """Return the rules of a chain that was made on demand, by their comments; none when kpx makes no chain of that name."""
    try:
        made = chain_of(family, name, comments if isinstance(comments, tuple) else ())
    except ValueError:
        return {}
    return {rule.comment: rule for rule in made.rules}
