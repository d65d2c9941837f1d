"""
Many messages that differ in a few bytes, packed together: the first one repeated, and what differs written column by column.

A first sync is some hundred thousand messages. Packing each by itself takes several times as long as the kernel takes to carry it
out; a byte of all of them is one strided assignment.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Field(NamedTuple):
    """A field: its place in the template, its place in a key, its size in bytes."""

    place: int
    start: int
    size: int


def filled(template: bytes, fields: Sequence[Field], keys: Sequence[bytes]) -> bytearray:
    """
    Repeat a template, one for each key, with fields taken from the key.

    Args:
        keys: at least one, all of one width.
    """
    stride = len(template)
    result = bytearray(template)
    result *= len(keys)
    joined = b"".join(keys)
    width = len(joined) // len(keys)
    for place, start, size in fields:
        for byte in range(size):
            result[place + byte :: stride] = joined[start + byte :: width]
    return result


def number(packed: bytearray, stride: int, place: int, numbers: Iterable[int], *, big_endian: bool = False) -> None:
    """Write a 32-bit number into each of the pieces of `stride` bytes, at a place; both are multiples of four."""
    column = array("I", numbers)
    if big_endian and sys.byteorder == "little":
        column.byteswap()
    with memoryview(packed) as view, view.cast("I") as words:
        words[place // 4 :: stride // 4] = memoryview(column)
