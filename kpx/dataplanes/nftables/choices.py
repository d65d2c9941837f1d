"""
Choices: how many endpoints a verdict of a frontend chooses among, and in which slots they are.

Where outsiders have a pool of their own (externalTrafficPolicy Local), it has slots of its own in the same table, from `OUTSIDE`
on.
"""

from __future__ import annotations

import re
import sys
from typing import Final, NamedTuple

OUTSIDE: Final = 1 << 24
"""The first slot of a pool for outsiders only; no Service has as many endpoints."""

_NAME: Final = re.compile(r"^(nodeport-)?(?:pick|stick)-([0-9]+)(-outside)?(?:-[0-9a-f]{16})?$")


class Choice(NamedTuple):
    """
    A choice among the endpoints of a frontend.

    Args:
        node_port: the frontend is a node port. size: how many endpoints there are.
        outside: among those that are for outsiders only.
    """

    node_port: bool
    size: int
    outside: bool = False

    @classmethod
    def of(cls, verdict: str) -> Choice | None:
        """Return the choice a verdict, or the name of its chain, stands for; None when it is none of ours."""
        match = _NAME.match(verdict.removeprefix("goto "))
        return cls(bool(match[1]), int(match[2]), bool(match[3])) if match else None

    @property
    def first_slot(self) -> int:
        """The first of the slots, which follow each other."""
        return OUTSIDE if self.outside else 0

    @property
    def pick_name(self) -> str:
        """The name of the chain that chooses at random."""
        return self._name("pick")

    @property
    def stick_name(self) -> str:
        """The name of the chain that sends clients back where they went before."""
        return self._name("stick")

    def _name(self, verb: str) -> str:
        return f"{'nodeport-' if self.node_port else ''}{verb}-{self.size}{'-outside' if self.outside else ''}"


_SLOTS: Final = {first: [(first + slot).to_bytes(4, sys.byteorder) for slot in range(1024)] for first in (0, OUTSIDE)}


def slots(choice: Choice) -> list[bytes]:
    """Return the slots of a choice as keys have them; maybe some more."""
    known = _SLOTS[choice.first_slot]
    if choice.size <= len(known):
        return known
    return [(choice.first_slot + slot).to_bytes(4, sys.byteorder) for slot in range(choice.size)]
