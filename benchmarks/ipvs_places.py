"""
Where it is measured, network namespaces, and what people measure with: ipvsadm and ipset, fed the same rows.

A namespace each, because the kernel keeps a destination that was deleted for two minutes, and looks through all of those for
each new one: a namespace that was emptied is not an empty one. Those that were measured stay until the end, since taking one
down is work that would disturb the next.
"""

from __future__ import annotations

import contextlib
import gc
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import NamedTuple

from kpx.dataplanes.ipvs.schema import shapes
from kpx.dataplanes.registry import open_dataplane
from kpx.kernel.ipset import IpSets
from kpx.kernel.netlink import Netlink
from kpx.model.facts import NodeFacts
from kpx.reconcile.plan import Plan
from tests.lab.netns import Namespace


class Places:
    """Network namespaces, made one after another and kept until the end."""

    def __init__(self) -> None:
        self._made: list[Namespace] = []

    def fresh(self, title: str) -> Namespace:
        """Make one; those before it do no more work of their own."""
        for namespace in self._made:
            # From Linux 5.19 on; before, the kernel goes on looking at their counters every two seconds.
            with contextlib.suppress(OSError):
                namespace.sysctl(ipv4__vs__run_estimation=0)
        self._made.append(Namespace(title))
        return self._made[-1]

    def close(self) -> None:
        """Give them up."""
        for namespace in self._made:
            namespace.close()


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Do without garbage collection, as the agent does until it is in sync."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def make_sets(facts: NodeFacts) -> None:
    """Make the sets of the data plane, empty."""
    netlink = Netlink()
    sets = IpSets(netlink)
    for family in facts.families:
        for shape in shapes(family):
            sets.create(shape)
    netlink.close()


class Tools(NamedTuple):
    """How long the two programs took, seconds; `change` is both of them, fed a plan of one endpoint."""

    ipvsadm: float
    ipset: float
    change: float


def tools(places: Places, facts: NodeFacts, plan: Plan, added: Plan) -> Tools | None:
    """Let ipvsadm and ipset write the same rows into sets and an IPVS that are empty; None where they are not installed."""
    if not (shutil.which("ipvsadm") and shutil.which("ipset")):
        return None
    with places.fresh("tools").entered():
        make_sets(facts)
        return Tools(*_feed(plan), sum(_feed(added)))


def _feed(plan: Plan) -> tuple[float, float]:
    dataplane = open_dataplane("ipvs", kernel=False)
    lines: dict[str, list[str]] = {"ipvsadm": [], "ipset": []}
    for _, table, key, _, value in plan.operations:
        program, _, line = dataplane.row_command(table, key, value).partition(" ")
        if program in lines:
            lines[program].append(line)
    return _run(["ipvsadm", "-R"], lines["ipvsadm"]), _run(["ipset", "restore"], lines["ipset"])


def _run(command: list[str], lines: list[str]) -> float:
    text = "\n".join(lines) + "\n"
    if not lines:
        return 0.0
    started = time.perf_counter()
    subprocess.run(command, input=text, text=True, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started
