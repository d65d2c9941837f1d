"""
The way from events to differing rows: fold, find what is dirty, compile it, render it, tell the delta table.

No I/O and no clock in here. What one change costs depends on the Services it touches and never on how many there are: the rows
a Service had are rendered again from the program it had, so nobody has to store them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kpx.cluster.events import Event, Upsert
from kpx.cluster.view import ClusterView
from kpx.dataplanes.base import Dataplane
from kpx.model.facts import NodeFacts
from kpx.model.names import ObjectName
from kpx.model.node import ServiceCIDR
from kpx.policy.admission import admitted, concerned, same_but_for_admission
from kpx.policy.claims import Claims
from kpx.policy.compile import compile_service
from kpx.policy.desired import ServiceProgram
from kpx.reconcile.delta import DeltaTable
from kpx.reconcile.rows import Rows


class Change(NamedTuple):
    """What became of one Service: its program before and after, None where it has none."""

    before: ServiceProgram | None
    after: ServiceProgram | None


Changes = dict[ObjectName, Change]


def joined(earlier: Changes, later: Changes) -> Changes:
    """Return both as one: of a Service that changed twice, what it was at first and is at last."""
    merged = {name: Change(earlier[name].before, change.after) for name, change in later.items() if name in earlier}
    return {**earlier, **later, **merged}


class Compiler:
    """
    The cluster as heard, the programs made of it, and the rows they ask for.

    Attributes:
        view: what has been heard. claims: who owns which frontend. delta: desired rows, and where the kernel differs.
        programs: of every Service in the view, as of the last `compile`.
        facts: this node, in force from the next `compile` on.
    """

    def __init__(self, dataplane: Dataplane, facts: NodeFacts) -> None:
        self.view = ClusterView()
        self.claims = Claims()
        self.delta = DeltaTable()
        self.programs: dict[ObjectName, ServiceProgram] = {}
        self.facts = facts
        self._dataplane = dataplane
        self._rendered_facts = facts
        self._rendered_cidrs: tuple[ServiceCIDR, ...] | None = None
        self._reread: frozenset[ObjectName] = frozenset()

    def fold(self, events: Iterable[Event]) -> None:
        """Take note of events; nothing is computed yet."""
        for event in events:
            self.view.fold(event)

    def reread(self, events: Iterable[Event]) -> None:
        """Forget everything heard and hear this instead; what is the same afterwards is no change."""
        self._reread |= self.view.services.keys() | self.programs.keys()
        # What was found out about endpoints is not the source's to take back.
        health = tuple(self.view.health.values())
        self.view = ClusterView()
        self.fold(map(Upsert, health))
        self.fold(events)

    def compile(self) -> Changes:
        """
        Bring programs and desired rows up to date; return the Services whose program or rows changed.

        Before the view is synced this does nothing at all, and forgets nothing (S9).
        """
        if not self.view.synced:
            return {}
        dirty = self.view.take_dirty()
        names = set(dirty.services | self._reread)
        everything = not same_but_for_admission(self._rendered_facts, self.facts)
        if everything:
            names |= self.view.services.keys()
        elif self.facts is not self._rendered_facts:
            names |= concerned(self.view.services, self._rendered_facts, self.facts)
        # Every claim must be known before the first Service is compiled, since a winner may be compiled after a loser.
        for name in sorted(names):
            service = self.view.services.get(name)
            names |= self.claims.update(name, service and admitted(service, self.facts))
        changes: Changes = {}
        # In order, so that what belongs together lies together in memory: a large cluster is planned in half the time.
        for name in sorted(names):
            change = self._compile_one(name)
            if everything or change.before != change.after:
                changes[name] = change
        self._render_node(everything or dirty.cidrs or bool(self._reread))
        for name, change in changes.items():
            self._replace(name, change)
        self._rendered_facts = self.facts
        self._reread = frozenset()
        return changes

    def _compile_one(self, name: ObjectName) -> Change:
        service = self.view.services.get(name)
        if service is None:
            return Change(self.programs.get(name), None)
        slices, health = self.view.slices_of(name), self.view.health.get(name)
        return Change(self.programs.get(name), compile_service(service, slices, self.facts, self.claims, health=health))

    def _replace(self, name: ObjectName, change: Change) -> None:
        self.delta.replace(self._rows(change.before, self._rendered_facts), self._rows(change.after, self.facts))
        if change.after is None:
            self.programs.pop(name, None)
        else:
            self.programs[name] = change.after

    def _rows(self, program: ServiceProgram | None, facts: NodeFacts) -> Rows:
        return {} if program is None else self._dataplane.render_service(program, facts)

    def _render_node(self, dirty: bool) -> None:
        """Render the rows that belong to no Service, when what they are made of may have changed."""
        held = self._rendered_cidrs
        if held is not None and not dirty:
            return
        cidrs = tuple(self.view.service_cidrs.values())
        old = {} if held is None else self._dataplane.render_node(self._rendered_facts, held)
        self.delta.replace(old, self._dataplane.render_node(self.facts, cidrs))
        self._rendered_cidrs = cidrs
