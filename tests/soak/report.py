"""What a run found: rows of a table, and whether anything was lost."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.lab import dataplane


class Line(NamedTuple):
    """
    What one part of a run saw.

    Args:
        title: what happened meanwhile, and how often.
        answered: questions on established connections that were answered. lost, reset: connections.
        made, failed: new connections to the unchanged Service. slow: those of which a segment had to be sent again.
    """

    title: str
    times: int
    took_s: float
    answered: int
    lost: int
    reset: int
    made: int
    failed: int
    slow: int

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, and there was something that could have been."""
        return not (self.lost or self.reset or self.failed) and self.answered > 0 and self.made > 0


class Check(NamedTuple):
    """Something that must hold, whether it does, and what was found."""

    title: str
    is_good: bool
    found: str


class Report(NamedTuple):
    """A whole run; `connections` is how many were established."""

    connections: int
    took_s: float
    lines: tuple[Line, ...]
    checks: tuple[Check, ...]

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost and everything holds that must."""
        return all(each.is_good for each in (*self.lines, *self.checks))

    def as_json(self) -> str:
        """For programs."""
        head: dict[str, Any] = {"good": self.is_good, "connections": self.connections, "seconds": round(self.took_s, 1)}
        head |= {"kernel": platform.release(), "dataplane": dataplane.CHOSEN}
        head["lines"] = [each._asdict() | {"took_s": round(each.took_s, 1)} for each in self.lines]
        head["checks"] = [each._asdict() for each in self.checks]
        return json.dumps(head, indent=2)

    def as_table(self) -> str:
        """For people."""
        what = f"{self.connections:,} TCP connections" if self.connections else "no connections"
        rows = [
            (
                each.title, f"{each.times:,}", f"{each.took_s:.0f} s", f"{each.answered:,}", f"{each.lost:,}", f"{each.reset:,}",
                f"{each.made:,}", f"{each.failed:,}", f"{each.slow:,}",
            )
            for each in self.lines
        ]  # fmt: skip
        lines = [f"{what}, {dataplane.CHOSEN}, Linux {platform.release()}, {self.took_s:.0f} s", ""]
        head = ("", "times", "took", "answered", "lost", "reset", "new", "failed", "slow")
        lines += aligned([head, *rows]) if rows else []
        lines += ["", *(f"{'ok  ' if each.is_good else 'BAD '} {each.title}: {each.found}" for each in self.checks)]
        return "\n".join([*lines, "", "nothing lost" if self.is_good else "SOMETHING IS LOST OR WRONG"])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Put columns below each other, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
