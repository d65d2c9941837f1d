"""
The stages of a first sync and of one change, inside one process, and the floor: the same bytes sent by a bare loop.

Only public seams are used: a source, the engine, the data plane. The netlink socket is one that remembers what it sent.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import kpx
from benchmarks.manifests import CLUSTER_CIDR, Cluster
from kpx.agent.engine import Engine
from kpx.cluster.events import Event, Synced, Upsert
from kpx.cluster.view import ClusterView
from kpx.dataplanes.nftables.plane import NftablesDataplane
from kpx.kernel.netlink import Netlink
from kpx.kernel.wire.message import Acknowledgement, messages
from kpx.kernel.wire.nft import NFNL_MSG_BATCH_BEGIN
from kpx.model.decode import decode_document
from kpx.model.facts import NodeFacts
from kpx.reconcile.plan import Plan

NODE = "node-0"


class Sent(NamedTuple):
    """A transaction as it went to the kernel."""

    datagram: bytes
    first: int
    last: int


class Took(NamedTuple):
    """How long a stage took, and the processor time this process used in it, seconds; the rest of the time others had it."""

    wall_s: float
    cpu_s: float


class RecordingNetlink(Netlink):
    """A socket that remembers its transactions, for sending them again, and counts what it sends that writes."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Sent] = []
        self.writes = 0
        self.transacting = Took(0.0, 0.0)

    def transact(self, datagram: bytes, first: int, last: int) -> list[Acknowledgement]:
        """Remember and send."""
        self.sent.append(Sent(datagram, first, last))
        before, wall, cpu = self.transacting, time.perf_counter(), time.process_time()
        try:
            return super().transact(datagram, first, last)
        finally:
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            self.transacting = Took(before.wall_s + wall, before.cpu_s + cpu)

    def _send(self, datagram: bytes | bytearray) -> None:
        # Everything that changes nf_tables is a batch; what only reads is not.
        self.writes += next(messages(datagram)).kind == NFNL_MSG_BATCH_BEGIN
        super()._send(datagram)


class Stages(NamedTuple):
    """
    Seconds, but for what says otherwise; lists have a number a change or a round.

    Args:
        took: by stage of a first sync, in the order they come.
        apply_s, floor_s: processor time of the plan of the first sync on an empty kernel, and of the same bytes by a bare loop,
            in turn; the kernel works in the time of who sends.
        adoption: a second engine on the same kernel. adoption_writes: what it sent that writes.
    """

    took: dict[str, Took]
    rows: int
    written_bytes: int
    apply_s: list[float]
    floor_s: list[float]
    changes_s: list[float]
    floor_changes_s: list[float]
    change_bytes: float
    adoption: Took
    adoption_writes: int


def measure(directory: Path, cluster: Cluster, changes: int, rounds: int) -> Stages:
    """
    Read a directory, put it into the kernel, change one endpoint after another; then do the writing again without kpx.

    The kernel holds no table of kpx before and after.
    """
    took: dict[str, Took] = {}
    gc.disable()  # as the agent does until it is in sync
    with _timed(took, "read and decode the files"):
        read = kpx.read_manifests(directory)
    assert not read.findings, read.findings[0]
    facts = kpx.node_facts(cluster_cidr=CLUSTER_CIDR, hostname_override=NODE)
    netlink = RecordingNetlink()
    dataplane = NftablesDataplane(netlink)
    engine, plan = _first_sync(dataplane, netlink, facts, read.view, took)
    gc.enable()
    gc.collect()
    gc.freeze()
    first_sync, written = list(netlink.sent), sum(len(one.datagram) for one in netlink.sent)
    netlink.sent.clear()
    changes_s, changing = _change(engine, netlink, cluster, changes)
    floor_changes_s = _each_again(netlink, changing)
    adoption, writes = _adopt(dataplane, netlink, facts, engine.view)
    apply_s, floor_s = _in_turn(dataplane, netlink, facts, plan, first_sync, rounds)
    dataplane.cleanup()
    dataplane.close()
    change_bytes = sum(len(one.datagram) for each in changing for one in each) / len(changing)
    rows = len(plan.operations)
    return Stages(took, rows, written, apply_s, floor_s, changes_s, floor_changes_s, change_bytes, adoption, writes)


def _first_sync(
    dataplane: NftablesDataplane, netlink: RecordingNetlink, facts: NodeFacts, view: ClusterView, took: dict[str, Took]
) -> tuple[Engine, Plan]:
    engine = Engine(dataplane, facts)
    engine.fold(_events(view))
    with _timed(took, "compile and render"):
        engine.compile()
    with _timed(took, "rows to kernel"):
        done = engine.round()
    assert not done.refused, "the kernel refused rows"
    took["  of it in the kernel"] = netlink.transacting
    return engine, done.plan


@contextlib.contextmanager
def _timed(took: dict[str, Took], stage: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    took[stage] = Took(time.perf_counter() - wall, time.process_time() - cpu)


def _events(view: ClusterView) -> list[Event]:
    slices = [one for name in view.services for one in view.slices_of(name)]
    return [*(Upsert(value) for value in (*view.services.values(), *slices)), Synced()]


def _change(engine: Engine, netlink: RecordingNetlink, cluster: Cluster, changes: int) -> tuple[list[float], list[list[Sent]]]:
    """Swap one endpoint of one Service after another, and back; return how long each took, and what it sent."""
    took, sent = [], []
    for number in range(changes):
        netlink.sent.clear()
        decoded = decode_document(cluster.changed_slice(number), "change")
        events = [Upsert(value) for one in decoded.objects for value in one.values]
        started = time.perf_counter()
        engine.fold(events)
        done = engine.round()
        took.append(time.perf_counter() - started)
        assert done.rows, "the change wrote nothing"
        sent.append(list(netlink.sent))
    return took, sent


def _adopt(dataplane: NftablesDataplane, netlink: RecordingNetlink, facts: NodeFacts, view: ClusterView) -> tuple[Took, int]:
    """Let a new engine find what another one left; return how long that took, and how often it wrote."""
    took: dict[str, Took] = {}
    before = netlink.writes
    engine = Engine(dataplane, facts)
    engine.fold(_events(view))
    with _timed(took, "adoption"):
        engine.round()
    return took["adoption"], netlink.writes - before


def _in_turn(
    dataplane: NftablesDataplane, netlink: RecordingNetlink, facts: NodeFacts, plan: Plan, sent: list[Sent], rounds: int
) -> tuple[list[float], list[float]]:
    """Carry the plan out and send its bytes again, in turn, each time on an empty kernel."""
    apply_s, floor_s = [], []
    for _ in range(rounds):
        dataplane.cleanup()
        dataplane.prepare(facts)
        netlink.sent.clear()
        gc.disable()
        started = time.process_time()
        outcome = dataplane.apply(plan)
        apply_s.append(time.process_time() - started)
        gc.enable()
        assert not outcome.failures
        dataplane.cleanup()
        started = time.process_time()
        for one in sent:
            assert not Netlink.transact(netlink, *one)
        floor_s.append(time.process_time() - started)
    return apply_s, floor_s


def _each_again(netlink: RecordingNetlink, changes: list[list[Sent]]) -> list[float]:
    """Send what each change sent; return how long each took."""
    took = []
    for sent in changes:
        started = time.perf_counter()
        for one in sent:
            assert not Netlink.transact(netlink, *one)
        took.append(time.perf_counter() - started)
    return took
