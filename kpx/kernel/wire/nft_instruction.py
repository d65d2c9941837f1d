"""
nf_tables expressions read back: the instructions of a rule as values, whoever wrote them.

`nft_expression` packs them; nothing here knows what it meant to say, so that a walk through rules goes by what the kernel gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kpx.kernel.wire.attr import attrs, text

_REGISTERS: Mapping[str, tuple[int, ...]] = {
    "payload": (1,),
    "meta": (1,),
    "ct": (1,),
    "fib": (1,),
    "numgen": (1,),
    "cmp": (1,),
    "range": (1,),
    "bitwise": (1, 2),
    "immediate": (1,),
    "lookup": (2, 3),
    "dynset": (4, 5),
    "nat": (3, 5),
}
"""By expression, the attributes that hold a register: the source, then the result, or address and port of a translation."""

VERDICT = -1
"""Stands for the verdict register."""


class Instruction(NamedTuple):
    """
    One expression.

    Args:
        name: the kernel's ("payload", "cmp", ...).
        registers: the words of the registers it names, in the order of the kernel's attributes; `VERDICT` for the verdict.
        fields: its attributes by number, packed, those of registers included.
    """

    name: str
    registers: tuple[int, ...]
    fields: Mapping[int, bytes]

    def number(self, attribute: int, default: int = 0) -> int:
        """Return an attribute that is a number in network order."""
        packed = self.fields.get(attribute)
        return default if packed is None else int.from_bytes(packed, "big")

    def word(self, attribute: int) -> str:
        """Return an attribute that is text."""
        return text(self.fields[attribute])

    def data(self, attribute: int) -> bytes:
        """Return the value in an attribute of data."""
        return attrs(self.fields[attribute])[1]

    def verdict(self, attribute: int) -> tuple[int, str]:
        """Return the verdict in an attribute of data: its code, and the chain it leads to."""
        parts = attrs(attrs(self.fields[attribute])[2])
        return int.from_bytes(parts[1], "big", signed=True), text(parts.get(2, b""))


def read(expression: bytes) -> Instruction:
    """Read one packed expression."""
    outer = attrs(expression)
    name, fields = text(outer[1]), attrs(outer.get(2, b""))
    numbered = (fields[attribute] for attribute in _REGISTERS.get(name, ()) if attribute in fields)
    return Instruction(name, tuple(_word(int.from_bytes(packed, "big")) for packed in numbered), fields)


def _word(register: int) -> int:
    """Return the word a register starts at: 1..4 are the old ones of 16 bytes, from 8 on each is a word."""
    if register == 0:
        return VERDICT
    return register - 8 if register >= 8 else (register - 1) * 4
