"""
The objects of one kind that are in force, and the events that lead from what was held to what the server says. Pure.

A full account (a list, or the initial events of a WatchList) is compared with what is held while it comes in: what is equal makes
no event, and what it did not mention is gone once it is complete, never before. So an account that breaks off loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kpx.cluster.events import Delete, Event, Object, Upsert
from kpx.model.decode import Decoded
from kpx.model.findings import Finding
from kpx.model.names import ObjectName
from kpx.model.node import Node
from kpx.sources.kubernetes.answers import Line
from kpx.sources.kubernetes.kinds import Kind


class Holdings:
    """What is in force of one kind."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._held: dict[ObjectName, Object] = {}
        self._findings: dict[str, tuple[Finding, ...]] = {}
        self._mentioned: set[ObjectName] = set()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, name: ObjectName) -> Object | None:
        """Return the object in force, None when there is none."""
        return self._held.get(name)

    def objects(self) -> Iterable[Object]:
        """Return all objects in force."""
        return self._held.values()

    def findings(self) -> list[Finding]:
        """Return what is wrong with objects now."""
        return [finding for found in self._findings.values() for finding in found]

    def begin_account(self) -> None:
        """Begin a full account; one that was begun before and not completed is forgotten."""
        self._mentioned = set()

    def complete_account(self) -> list[Event]:
        """Return what makes everything go that the account did not mention."""
        mentioned = self._mentioned
        self._mentioned = set()
        gone = [name for name in self._held if name not in mentioned]
        stale = self._findings.keys() - {self._place(name) for name in mentioned}
        for place in stale:
            del self._findings[place]
        return [event for name in gone for event in self.take_away(name)]

    def take(self, decoded: Decoded) -> list[Event]:
        """
        Take in objects as they are now; one that could not be decoded keeps its last good version.

        An object of another kind than this one is left out; only a server that is none would send it.
        """
        events: list[Event] = []
        self._note(decoded)
        for _, name in decoded.failed:
            self._mentioned.add(name)
        for found in decoded.objects:
            if found.kind != self._kind.name:
                continue
            self._mentioned.add(found.name)
            for value in found.values:
                if self._held.get(found.name) != value:
                    self._held[found.name] = value
                    events.append(Upsert(value))
        return events

    def fold(self, line: Line) -> list[Event]:
        """Take in what an event of a watch says about an object; a bookmark is about none."""
        if line.name is None:
            return []
        return self.take_away(line.name) if line.type == "DELETED" else self.take(line.objects)

    def take_away(self, name: ObjectName) -> list[Event]:
        """Take in that an object is gone; nothing when it never was (E7)."""
        self._mentioned.discard(name)
        self._findings.pop(self._place(name), None)
        held = self._held.get(name)
        if held is None:
            return []
        if self._kind.outlives and isinstance(held, Node):
            # What is known of the own Node stays in force; but load balancers shall leave this node (15.1, 16.10).
            kept = msgspec.structs.replace(held, eligible=False)
            self._held[name] = kept
            return [] if kept == held else [Upsert(kept)]
        del self._held[name]
        return [Delete(self._kind.type, name)]

    def _note(self, decoded: Decoded) -> None:
        """Replace the findings about the objects that were decoded, or not."""
        if self._findings:
            for found in decoded.objects:
                self._findings.pop(self._place(found.name), None)
            for _, name in decoded.failed:
                self._findings.pop(self._place(name), None)
        fresh: dict[str, list[Finding]] = {}
        failed = {self._place(name) for _, name in decoded.failed}
        for finding in decoded.findings:
            kept = "; its last good version stays in force" if finding.where in failed and self._is_held(finding.where) else ""
            fresh.setdefault(finding.where, []).append(finding._replace(message=finding.message + kept))
        for place, findings in fresh.items():
            self._findings[place] = tuple(findings)

    def _is_held(self, place: str) -> bool:
        namespace, _, name = place.removeprefix(f"{self._kind.name} ").rpartition("/")
        return ObjectName(namespace, name) in self._held

    def _place(self, name: ObjectName) -> str:
        """Return what `decode_document` calls an object in its findings."""
        return f"{self._kind.name} {name}"
