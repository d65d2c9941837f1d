"""
Rules as values: the words people read and the expressions the kernel runs.

A rule's comment is its words and a digest of its expressions. That is how a restarted agent, or one that is told somebody
touched the table, knows whether a rule is the one it would write: an edited, missing or foreign rule has another comment.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from kpx.kernel.wire import nft_expression as x
from kpx.kernel.wire.nft import BaseHook
from kpx.model.addresses import Family


class Rule(NamedTuple):
    """One rule of a chain."""

    words: str
    expressions: tuple[bytes, ...]

    @property
    def comment(self) -> str:
        """The words and a digest of what the rule does."""
        digest = hashlib.blake2s(b"\0".join(self.expressions), digest_size=4).hexdigest()
        return f"{self.words} #{digest}"


class Chain(NamedTuple):
    """A chain, its rules and, for a base chain, where the kernel calls it."""

    name: str
    rules: tuple[Rule, ...]
    hook: BaseHook | None = None

    @property
    def comments(self) -> tuple[str, ...]:
        """What stands for the rules in a row."""
        return tuple(rule.comment for rule in self.rules)


class Words:
    """
    The fragments rules are made of, for one family.

    Words count registers of four bytes: an address takes `width` of them, everything else one.
    """

    def __init__(self, family: Family) -> None:
        self.width = 1 if family == Family.IPV4 else 4
        self.bytes = self.width * 4
        self.source_offset, self.destination_offset = (12, 16) if family == Family.IPV4 else (8, 24)
        self.ct_destination = x.CT_DST_IP if family == Family.IPV4 else x.CT_DST_IP6
        self.nfproto = 2 if family == Family.IPV4 else 10

    def source(self, word: int) -> bytes:
        """`ip saddr`."""
        return x.payload(x.PAYLOAD_NETWORK, self.source_offset, self.bytes, word)

    def destination(self, word: int) -> bytes:
        """`ip daddr`."""
        return x.payload(x.PAYLOAD_NETWORK, self.destination_offset, self.bytes, word)

    def protocol(self, word: int) -> bytes:
        """`meta l4proto`."""
        return x.meta(x.META_L4PROTO, word)

    def port(self, word: int) -> bytes:
        """`th dport`."""
        return x.payload(x.PAYLOAD_TRANSPORT, 2, 2, word)

    def source_port(self, word: int) -> bytes:
        """`th sport`."""
        return x.payload(x.PAYLOAD_TRANSPORT, 0, 2, word)

    def original_destination(self, word: int) -> bytes:
        """`ct original ip daddr`."""
        return x.ct(self.ct_destination, word, x.CT_DIR_ORIGINAL)

    def original_port(self, word: int) -> bytes:
        """`ct original proto-dst`."""
        return x.ct(x.CT_PROTO_DST, word, x.CT_DIR_ORIGINAL)

    def frontend(self) -> tuple[bytes, ...]:
        """`ip daddr . meta l4proto . th dport`, from word 0."""
        return (self.destination(0), self.protocol(self.width), self.port(self.width + 1))

    def original_frontend(self) -> tuple[bytes, ...]:
        """`ct original ip daddr . meta l4proto . ct original proto-dst`, from word 0."""
        return (self.original_destination(0), self.protocol(self.width), self.original_port(self.width + 1))

    def node_port(self) -> tuple[bytes, ...]:
        """`meta l4proto . th dport`, from word 0."""
        return (self.protocol(0), self.port(1))

    def dnat(self) -> bytes:
        """Send the flow to the address and port in the registers from word 0."""
        return x.dnat(self.nfproto, 0, self.width)
