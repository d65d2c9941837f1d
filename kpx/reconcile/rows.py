"""
Rows: the kernel seen as a small database.

A `Table` names one table of one data plane; a row is a key and a value, both hashable and opaque to this room. `Rows` maps
tables to their rows. A data plane's schema says, for each table, its `rank`: rows of a lower rank must exist before rows of
a higher rank may point at them.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable
from typing import Final, NamedTuple


class Table(NamedTuple):
    """
    One table of a data plane.

    Args:
        family: "ip" or "ip6" (an independent half: what fails in one never stops the other, P1), or "" for both.
        name: as the kernel knows it ("frontends").
        rank: dependency rank; additions go up the ranks, removals go down.
        shared: rows may be wanted by several owners at once, so they are counted.
    """

    family: str
    name: str
    rank: int
    shared: bool = False


class Absent(enum.Enum):
    """The type of `ABSENT`."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT
"""Stands where a value would stand when there is no row; None will not do, since the rows of a set may have None as value."""

Key = Hashable
Value = Hashable
Rows = dict[Table, dict[Key, Value]]
