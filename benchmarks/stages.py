"""
The stages of a first sync and of one change, inside one process, and the floor: the same bytes sent by a bare loop.

Only public seams are used: a source, the engine, the data plane. The netlink socket is one that remembers what it sent.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import NamedTuple

import kpx
from benchmarks import manifests
from kpx.agent.engine import Engine
from kpx.cluster.events import Event, Synced, Upsert
from kpx.cluster.view import ClusterView
from kpx.dataplanes.nftables.plane import NftablesDataplane
from kpx.kernel.netlink import Netlink
from kpx.kernel.wire.message import Acknowledgement
from kpx.model.decode import decode_document


class Sent(NamedTuple):
    """A transaction as it went to the kernel."""

    datagram: bytes
    first: int
    last: int


class RecordingNetlink(Netlink):
    """A socket that remembers its transactions, for sending them again."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Sent] = []

    def transact(self, datagram: bytes, first: int, last: int) -> list[Acknowledgement]:
        """Remember and send."""
        self.sent.append(Sent(datagram, first, last))
        return super().transact(datagram, first, last)


class Stages(NamedTuple):
    """Seconds, but for what says otherwise; `changes_s` and `floor_changes_s` are one number a change."""

    read_s: float
    compile_s: float
    sync_s: float
    kernel_floor_s: float
    rows: int
    written_bytes: int
    changes_s: list[float]
    floor_changes_s: list[float]


def measure(directory: Path, services: int, endpoints: int, changes: int) -> Stages:
    """
    Read a directory, put it into the kernel, change one endpoint after another; then do the writing again without kpx.

    The kernel holds no table of kpx before and after.
    """
    gc.disable()  # as the agent does until it is in sync
    started = time.perf_counter()
    read = kpx.read_manifests(directory)
    read_s = time.perf_counter() - started
    assert not read.findings, read.findings[0]
    netlink = RecordingNetlink()
    dataplane = NftablesDataplane(netlink)
    engine = Engine(dataplane, kpx.node_facts(cluster_cidr=manifests.CLUSTER_CIDR, hostname_override="node-0"))
    engine.fold(_events(read.view))
    started = time.perf_counter()
    engine.compile()
    compile_s = time.perf_counter() - started
    started = time.perf_counter()
    done = engine.round()
    sync_s = time.perf_counter() - started
    assert not done.refused, "the kernel refused rows"
    gc.enable()
    gc.collect()
    gc.freeze()
    first_sync = list(netlink.sent)
    netlink.sent.clear()
    changes_s = _change(engine, services, endpoints, changes)
    changing = list(netlink.sent)
    floor_s = [_send_again(dataplane, netlink, first_sync), *_each_again(netlink, changing)]
    dataplane.cleanup()
    dataplane.close()
    return Stages(read_s, compile_s, sync_s, floor_s[0], done.rows, done.written_bytes, changes_s, floor_s[1:])


def _events(view: ClusterView) -> list[Event]:
    slices = [one for name in view.services for one in view.slices_of(name)]
    return [*(Upsert(value) for value in (*view.services.values(), *slices)), Synced()]


def _change(engine: Engine, services: int, endpoints: int, changes: int) -> list[float]:
    """Swap one endpoint of one Service after another, and swap it back; return how long each took from event to kernel."""
    took = []
    for number in range(changes):
        document = manifests.objects((number // 2 * 7919) % services, endpoints, replaced=number % 2 == 0)
        decoded = decode_document(document, "change")
        events = [Upsert(value) for one in decoded.objects for value in one.values]
        started = time.perf_counter()
        engine.fold(events)
        done = engine.round()
        took.append(time.perf_counter() - started)
        assert done.rows, "the change wrote nothing"
    return took


def _send_again(dataplane: NftablesDataplane, netlink: RecordingNetlink, sent: list[Sent]) -> float:
    dataplane.cleanup()
    started = time.perf_counter()
    for one in sent:
        assert not netlink.transact(*one)
    return time.perf_counter() - started


def _each_again(netlink: RecordingNetlink, sent: list[Sent]) -> list[float]:
    took = []
    for one in sent:
        started = time.perf_counter()
        assert not netlink.transact(*one)
        took.append(time.perf_counter() - started)
    return took
