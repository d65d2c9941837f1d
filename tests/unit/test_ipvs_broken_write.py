"""A write to IPVS that breaks off: nobody knows how far it came, and the next try must not disown what it did."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from kpx.dataplanes.ipvs.doors import Doors
from kpx.dataplanes.ipvs.plane import IpvsDataplane
from kpx.dataplanes.ipvs.schema import TABLES
from kpx.errors import KernelError
from kpx.kernel.wire.ipvs import ServerSettings
from kpx.model.addresses import Family
from kpx.reconcile.diff import diff

KEY = bytes((10, 96, 0, 10, 6, 0, 80))
PLAN = diff({}, {
    TABLES[Family.IPV4, "servers"]: {KEY: b""},
    TABLES[Family.IPV4, "virtual-servers"]: {KEY: ServerSettings("rr", 0, 0)},
})  # fmt: skip


class Kernel:
    """Answers as the kernel's doors do; the virtual server is there once it was asked for, answer or not."""

    datagrams = written_bytes = 0

    def __init__(self, breaks: bool) -> None:
        self.breaks = breaks
        self.records: list[bool] = []
        self.there = False

    def sets_write(self, changes: Sequence[Any]) -> list[tuple[int, int, int]]:
        self.records += [adding for _, adding, _ in changes]
        return []

    def ipvs_write(self, messages: Sequence[bytes]) -> list[int]:
        new = messages[0][0] == 1
        there, self.there = self.there, True
        if self.breaks:
            self.breaks = False
            raise KernelError("netlink", errno.ETIMEDOUT, "no answer")
        return [errno.EEXIST if new and there else 0]

    def dataplane(self) -> IpvsDataplane:
        counted = {"datagrams": 0, "written_bytes": 0}
        sets = SimpleNamespace(write=self.sets_write)
        ipvs = SimpleNamespace(write=self.ipvs_write, servers=list, **counted)
        doors: Any = Doors(SimpleNamespace(**counted), sets, ipvs, SimpleNamespace())  # type: ignore[arg-type]
        return IpvsDataplane(doors)


def test_what_an_unanswered_write_made_is_ours_at_the_next_try() -> None:
    kernel = Kernel(breaks=True)
    dataplane = kernel.dataplane()
    outcome = dataplane.apply(PLAN)
    assert {failure.errno for failure in outcome.failures} == {errno.ETIMEDOUT}
    assert outcome.doubtful, "the kernel must be read again"

    assert dataplane.apply(PLAN).failures == ()
    assert all(kernel.records), "the record of a server of ours was taken away"


def test_what_was_there_before_is_somebody_elses_and_loses_its_record() -> None:
    """D18."""
    kernel = Kernel(breaks=False)
    kernel.there = True

    assert {failure.errno for failure in kernel.dataplane().apply(PLAN).failures} == {errno.EEXIST}
    assert kernel.records == [True, False]
