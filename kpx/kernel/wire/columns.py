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

CHUNK = 512
"""Records filled in at a time: what is written in strides should stay in the processor's cache."""


class Field(NamedTuple):
    """A field: its place in the template, its place in a key, its size in bytes."""

    place: int
    start: int
    size: int


def filled(template: bytes, fields: Sequence[Field], keys: Sequence[bytes]) -> bytearray:
    """
    Repeat a template, one for each key, with fields taken from the key.

    Args:
        keys: all of one width.
    """
    stride = len(template)
    result = bytearray(template * len(keys))
    width = len(keys[0]) if keys else 0
    for begin in range(0, len(keys), CHUNK):
        part = b"".join(keys[begin : begin + CHUNK])
        base, limit = begin * stride, (begin + CHUNK) * stride
        for place, start, size in fields:
            for byte in range(size):
                result[base + place + byte : limit : stride] = part[start + byte :: width]
    return result


def number(packed: bytearray, stride: int, place: int, numbers: Iterable[int], order: str = sys.byteorder) -> None:
    """Write a 32-bit number into each of the pieces of `stride` bytes."""
    column = array("I", numbers)
    if order != sys.byteorder:
        column.byteswap()
    values = column.tobytes()
    for byte in range(4):
        packed[place + byte :: stride] = values[byte::4]
