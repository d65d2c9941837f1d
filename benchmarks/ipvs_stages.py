"""
The stages of a first sync and of changes on the ipvs data plane, and the floor: what was sent, sent again by a bare loop.

Only public seams are used: a source, the engine, the data plane, and sockets that remember what they sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import kpx
from benchmarks import manifests
from benchmarks.ipvs_places import Places, Tools, make_sets, no_collection, tools
from benchmarks.recording import BareLoop, Sent, Traffic, recording_doors, spelled, traffic
from kpx.agent.engine import Engine
from kpx.cluster.events import Event, Synced, Upsert
from kpx.cluster.view import ClusterView
from kpx.dataplanes.composed import Composed
from kpx.dataplanes.ipvs.doors import open_doors
from kpx.dataplanes.ipvs.plane import IpvsDataplane
from kpx.dataplanes.nftables.plane import NftablesDataplane
from kpx.kernel.netlink import Netlink
from kpx.model.decode import decode_document
from kpx.model.facts import NodeFacts
from kpx.reconcile.plan import Plan, Verb

DELETIONS = 3
"""How often a deletion after draining is measured; each waits a second for the data plane to look."""


class Applied(NamedTuple):
    """One plan carried out: how long it took, and where in what was sent its datagrams are."""

    plan: Plan
    took_s: float
    start: int
    end: int


class WatchedDataplane(Composed):
    """The data plane; remembers how long each plan took, and what was sent to IPVS and ipsets when it is to record."""

    def __init__(self, *, record: bool) -> None:
        self.sent: list[Sent] = []
        self.applied: list[Applied] = []
        doors = recording_doors(self.sent) if record else open_doors()
        super().__init__(IpvsDataplane(doors), NftablesDataplane(Netlink()))

    def apply(self, plan: Plan) -> Any:
        """Carry the plan out and remember."""
        start = len(self.sent)
        started = time.perf_counter()
        outcome = super().apply(plan)
        self.applied.append(Applied(plan, time.perf_counter() - started, start, len(self.sent)))
        assert not outcome.failures, outcome.failures[0]
        return outcome


class Change(NamedTuple):
    """
    One kind of change, measured several times; the lists have a number, in seconds, for each time.

    Args:
        words: what was sent, the same each time.
        events_s: from the event to the kernel. apply_s: rows to kernel. floor_s: the same datagrams from a bare loop.
    """

    name: str
    words: tuple[str, ...]
    sent: dict[str, Traffic]
    events_s: list[float]
    apply_s: list[float]
    floor_s: list[float]


class Numbers(NamedTuple):
    """
    Of one size of cluster; seconds.

    Args:
        apply_s, floor_s: rows to kernel and the same datagrams from a bare loop, one number a round.
        tools: the programs people know.
    """

    services: int
    endpoints: int
    rows: int
    sent: dict[str, Traffic]
    compile_s: float
    prepare_s: float
    observe_s: float
    apply_s: list[float]
    floor_s: list[float]
    tools: Tools | None
    changes: list[Change]


class Cluster:
    """One kpx on one namespace, and the changes that are made to it."""

    def __init__(self, view: ClusterView, facts: NodeFacts, endpoints: int) -> None:
        self.dataplane = WatchedDataplane(record=True)
        self.engine = Engine(self.dataplane, facts)
        self._endpoints = endpoints
        self.engine.fold(_events(view))

    def change(self, service: int, edit: Callable[[dict[str, Any]], None] = lambda _: None, *, replaced: bool = False) -> float:
        """Let a Service's endpoints be others; return seconds from the event to the kernel."""
        document = manifests.Cluster(1, self._endpoints).document(service, replaced=replaced)
        edit(document)
        decoded = decode_document(document, "change")
        events = [Upsert(value) for one in decoded.objects for value in one.values]
        started = time.perf_counter()
        self.engine.fold(events)
        done = self.engine.round()
        took = time.perf_counter() - started
        assert done.rows, "the change wrote nothing"
        return took

    def tend(self) -> float:
        """Wait until destinations that drain are due, let them be deleted, return how long the deleting took."""
        deadline = self.engine.tend_deadline()
        assert deadline is not None, "nothing drains"
        time.sleep(max(0.0, deadline - time.monotonic()) + 0.01)
        start = len(self.dataplane.sent)
        started = time.perf_counter()
        deleted = self.engine.tend()
        took = time.perf_counter() - started
        assert deleted, "nothing was deleted"
        self.dataplane.applied.append(Applied(Plan(), took, start, len(self.dataplane.sent)))
        return took


def _events(view: ClusterView) -> list[Event]:
    slices = [one for name in view.services for one in view.slices_of(name)]
    return [*(Upsert(value) for value in (*view.services.values(), *slices)), Synced()]


def measure(directory: Path, services: int, endpoints: int, changes: int, rounds: int) -> Numbers:
    """
    Sync a directory's Services into an empty kernel, change one endpoint after another, and do the writing again without kpx.

    Args:
        changes: how many times each kind of change is made. rounds: how often the first sync and its floor are measured.
    """
    read = kpx.read_manifests(directory)
    assert not read.findings, read.findings[0]
    places = Places()
    try:
        return _measure(places, read.view, services, endpoints, changes, rounds)
    finally:
        places.close()


def _measure(places: Places, view: ClusterView, services: int, endpoints: int, changes: int, rounds: int) -> Numbers:
    with places.fresh("kpx").entered(), no_collection():
        facts = kpx.node_facts(proxy_mode="ipvs", cluster_cidr=manifests.CLUSTER_CIDR, hostname_override="node-0")
        cluster = Cluster(view, facts, endpoints)
        compile_s = _timed(cluster.engine.compile)
        prepare_s = _timed(lambda: cluster.dataplane.prepare(facts))
        observe_s = _timed(cluster.engine.difference)
        cluster.engine.round()
    first, sent = cluster.dataplane.applied[0], cluster.dataplane.sent
    assert first.plan.counts()[Verb.ADD] > services * endpoints, "the first sync wrote too little"
    first_sync = sent[first.start : first.end]
    marks = _changes(cluster, services, changes)
    loop, floor_first = _floor(places, facts, first_sync)
    apply_s, floor_s = [first.took_s], [floor_first]
    floors = [loop.send(sent[applied.start : applied.end]) for applied in cluster.dataplane.applied[1:]]
    for _ in range(rounds - 1):
        apply_s.append(_apply_again(places, facts, first.plan))
        floor_s.append(_floor(places, facts, first_sync)[1])
    compared = tools(places, facts, first.plan, _added(cluster, marks))
    kinds = [_kind(name, indices, cluster, events, floors) for name, indices, events in marks]
    stages = (compile_s, prepare_s, observe_s, apply_s, floor_s, compared)
    return Numbers(services, endpoints, len(first.plan.operations), traffic(first_sync), *stages, kinds)


def _timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


Marks = list[tuple[str, list[int], list[float]]]
"""Of each kind of change: its name, its indices in `applied`, and seconds from event to kernel."""


def _changes(cluster: Cluster, services: int, changes: int) -> Marks:
    def one_more(document: dict[str, Any]) -> None:
        extra = manifests.Cluster(1, 1).document(services, replaced=True)["items"][1]["endpoints"]
        document["items"][1]["endpoints"] += extra

    def one_less(document: dict[str, Any]) -> None:
        document["items"][1]["endpoints"].pop()

    steps: tuple[tuple[str, Callable[[int], float]], ...] = (
        ("one endpoint more", lambda service: cluster.change(service, one_more)),
        ("one less: it drains", cluster.change),
        ("one replaced: the old one drains", lambda service: cluster.change(service, replaced=True)),
        ("back again: the old one drains no longer, the new one does", cluster.change),
    )
    applied = cluster.dataplane.applied
    del applied[1:]
    marks: Marks = [(name, [], []) for name, _ in steps]
    for number in range(changes):
        for (_, act), (_, indices, events) in zip(steps, marks, strict=True):
            events.append(act(number * 7919 % services))
            indices.append(len(applied) - 1)
    deletions: tuple[str, list[int], list[float]] = ("one that has drained is deleted", [], [])
    cluster.tend()
    for number in range(DELETIONS):
        cluster.change(number * 7919 % services, one_less)
        deletions[2].append(cluster.tend())
        deletions[1].append(len(applied) - 1)
    return [*marks, deletions]


def _kind(name: str, indices: list[int], cluster: Cluster, events: list[float], floors: list[float]) -> Change:
    sent, applied = cluster.dataplane.sent, cluster.dataplane.applied
    each = [sent[applied[index].start : applied[index].end] for index in indices]
    words = {spelled(one) for one in each}
    assert len(words) == 1, f"{name}: not each time the same was sent: {words}"
    apply_s = [applied[index].took_s for index in indices]
    return Change(name, words.pop(), traffic(each[0]), events, apply_s, [floors[index - 1] for index in indices])


def _added(cluster: Cluster, marks: Marks) -> Plan:
    """Return the plan of the first change that added an endpoint."""
    return cluster.dataplane.applied[marks[0][1][0]].plan


def _floor(places: Places, facts: NodeFacts, sent: Sequence[Sent]) -> tuple[BareLoop, float]:
    with places.fresh("floor").entered(), no_collection():
        make_sets(facts)
        loop = BareLoop()
        return loop, loop.send(sent)


def _apply_again(places: Places, facts: NodeFacts, plan: Plan) -> float:
    with places.fresh("kpx").entered(), no_collection():
        # Memory that is remembered is not used again, so recording costs a little.
        dataplane = WatchedDataplane(record=False)
        dataplane.prepare(facts)
        dataplane.observe()
        dataplane.apply(plan)
        dataplane.close()
        return dataplane.applied[0].took_s
