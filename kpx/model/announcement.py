"""What is worth an event on an object, as a value: made by the agent, posted by a source that has a place for it."""

from __future__ import annotations

from typing import Final, NamedTuple

from kpx.model.names import ObjectName

LONGEST_NOTE: Final = 1000
"""Bytes of a note; an API server takes 1024 (pkg/apis/core/validation/events.go)."""


class About(NamedTuple):
    """The object an event is on; `kind` as the API spells it."""

    kind: str
    name: ObjectName

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Announcement(NamedTuple):
    """
    Something that happened to an object; equal ones are the same thing happening again.

    Args:
        reason: CamelCase, at most 128 characters. note: one line.
        action: what was being done, in one word. warning: otherwise it is how things should be.
        shared: every node sees the same and one event is enough for all of them.
    """

    about: About
    reason: str
    note: str
    action: str = "Program"
    warning: bool = True
    shared: bool = False


class Occurrences(NamedTuple):
    """How often something happened, from first to last; seconds since the epoch."""

    times: int
    first_at: float
    last_at: float


def note_of(text: str) -> str:
    """Return a text as a note: one line, not longer than a server takes."""
    line = " ".join(text.split())
    data = line.encode()
    return line if len(data) <= LONGEST_NOTE else data[: LONGEST_NOTE - 3].decode(errors="ignore") + "..."
