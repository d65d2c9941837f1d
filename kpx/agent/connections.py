"""
What must be forgotten after a write: affinity to endpoints that left (A4, A5), and UDP flows pinned to them (section 11).

Both come after the rows are in place, since otherwise a packet in between would make the old entry anew. TCP flows live on
(U7, G1). What could not be done is owed, and done with the next round.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple
from typing import Protocol as Interface

from kpx import log
from kpx.agent.compiler import Change, Changes
from kpx.dataplanes.base import AffinityEntry, Dataplane
from kpx.dataplanes.stale import needs_flush, stale_flows
from kpx.errors import KernelError
from kpx.kernel.wire.conntrack import Flow
from kpx.model.addresses import Address, Family, family_of
from kpx.model.facts import NodeFacts
from kpx.model.names import ObjectName, Protocol
from kpx.policy.desired import Backend, Frontend, PortProgram, ServiceProgram

logger = logging.getLogger(__name__)


REPEATS: Final = 5
"""How often flows are looked at again, a second apart, because not all may have been seen; a busy table may never keep still."""


class Flows(Interface):
    """
    The flows the kernel tracks.

    Attributes:
        missed: the last `udp` may lack flows, since the table changed all the while (U9).
    """

    missed: bool

    def udp(self, family: int) -> Sequence[Flow]:
        """Return the UDP flows of an IP family, 4 or 6."""

    def delete(self, flows: Iterable[Flow]) -> int:
        """Delete exactly these; return how many were still there."""


class Sweep(NamedTuple):
    """One look at the UDP flows of a family: how many were deleted, and how long it took, seconds."""

    family: Family
    deleted: int
    took_s: float


class Forgotten(NamedTuple):
    """How many affinity entries were deleted, and the sweeps of flows that were made."""

    affinity: int = 0
    sweeps: tuple[Sweep, ...] = ()

    @property
    def flows(self) -> int:
        """How many flows were deleted."""
        return sum(sweep.deleted for sweep in self.sweeps)


class Connections:
    """
    What is owed to connections, and the paying of it.

    Args:
        dataplane: keeps the affinity entries.
        flows: None leaves UDP flows alone.
        clock: monotonic seconds.
    """

    def __init__(self, dataplane: Dataplane, flows: Flows | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._dataplane = dataplane
        self._flows = flows
        self._clock = clock
        self._owed_affinity: Changes = {}
        self._owed_flows: Changes = {}
        self._everything_affinity = True
        self._everything_flows = True
        self._former: frozenset[Frontend] = frozenset()
        self._repeats_left = REPEATS

    def owe(self, changes: Changes) -> None:
        """Take note of what changed; of several changes of one Service the first `before` and the last `after` count."""
        for owed in (self._owed_affinity, self._owed_flows):
            for name, change in changes.items():
                earlier = owed.get(name)
                owed[name] = Change(earlier.before, change.after) if earlier else change

    def owe_all_flows(self, former: frozenset[Frontend] = frozenset()) -> None:
        """Look at all UDP flows with the next `settle`: rows were not in place for a while, or `former` frontends left (U5)."""
        self._everything_flows = True
        self._former |= former

    @property
    def owing(self) -> bool:
        """Tell whether an earlier `settle` could not do everything."""
        return bool(self._owed_affinity or self._owed_flows or self._everything_affinity or self._everything_flows)

    def settle(self, programs: Mapping[ObjectName, ServiceProgram], facts: NodeFacts, host: frozenset[Address]) -> Forgotten:
        """
        Forget what is owed; the first time, whatever entry does not fit the programs (16.2).

        `host` is all addresses of the host. An error of the kernel is logged, and what it prevented stays owed.
        """
        affinity = 0
        sweeps: tuple[Sweep, ...] = ()
        try:
            affinity = self._forget_affinity(programs)
        except KernelError as error:
            log.event(logger, logging.WARNING, "affinity entries could not be forgotten", error=error)
        try:
            sweeps = self._flush_udp(programs, facts, host)
        except KernelError as error:
            log.event(logger, logging.WARNING, "stale UDP flows could not be deleted", error=error)
        return Forgotten(affinity, sweeps)

    def _forget_affinity(self, programs: Mapping[ObjectName, ServiceProgram]) -> int:
        gone = gone_from_all(programs.values()) if self._everything_affinity else gone_with(self._owed_affinity.values())
        count = self._dataplane.forget_affinity(gone) if gone else 0
        self._everything_affinity = False
        self._owed_affinity.clear()
        return count

    def _flush_udp(
        self, programs: Mapping[ObjectName, ServiceProgram], facts: NodeFacts, host: frozenset[Address]
    ) -> tuple[Sweep, ...]:
        sweeps: list[Sweep] = []
        missed = False
        failure = None
        if self._flows is not None:
            before = list(udp_ports(change.before for change in self._owed_flows.values()))
            changed = programs.values() if self._everything_flows else [change.after for change in self._owed_flows.values()]
            after = list(udp_ports(changed))
            for family in Family:
                try:
                    sweep = self._flush_family(family, before, after, facts, host)
                except KernelError as error:
                    failure = error  # the other family is none the worse (P1)
                    continue
                if sweep is not None:
                    sweeps.append(sweep)
                    missed |= self._flows.missed
        if failure is not None:
            raise failure
        if missed and self._repeats_left:
            self._repeats_left -= 1
        else:
            self._repeats_left = REPEATS
            self._everything_flows = False
            self._former = frozenset()
            self._owed_flows.clear()
        return tuple(sweeps)

    def _flush_family(
        self, family: Family, before: list[PortProgram], after: list[PortProgram], facts: NodeFacts, host: frozenset[Address]
    ) -> Sweep | None:
        assert self._flows is not None
        before = [port for port in before if port.family == family]
        after = [port for port in after if port.family == family]
        former = [frontend for frontend in self._former if frontend.family == family and frontend.protocol is Protocol.UDP]
        if not (before or after or former) or not (self._everything_flows or needs_flush(before, after)):
            return None
        started = self._clock()

        def is_node_address(address: Address) -> bool:
            if family_of(address) in facts.node_port_any:
                return address in host
            return address in facts.node_port_addresses

        stale = stale_flows(self._flows.udp(int(family)), before, after, is_node_address, former)
        deleted = self._flows.delete(stale) if stale else 0
        return Sweep(family, deleted, self._clock() - started)


def udp_ports(programs: Iterable[ServiceProgram | None]) -> Iterator[PortProgram]:
    """Yield the UDP ports of programs."""
    for program in programs:
        if program is not None:
            yield from (port for port in program.ports if port.name.protocol is Protocol.UDP)


def gone_with(changes: Iterable[Change]) -> Callable[[AffinityEntry], bool] | None:
    """
    Return the test for entries void after changes (A4, A5), None when no sticky frontend lost anything.

    A frontend that moved to another Service in the same round is judged by its new owner.
    """
    suspects: set[Frontend] = set()
    allowed: dict[Frontend, frozenset[Backend]] = {}
    for before, after in changes:
        held, now = sticky_frontends(before), sticky_frontends(after)
        allowed.update(now)
        suspects.update(frontend for frontend, backends in held.items() if not backends <= now.get(frontend, frozenset()))
    if not suspects:
        return None
    return lambda entry: entry.frontend in suspects and entry.backend not in allowed.get(entry.frontend, ())


def gone_from_all(programs: Iterable[ServiceProgram]) -> Callable[[AffinityEntry], bool]:
    """Return the test for entries that fit none of the programs."""
    allowed: dict[Frontend, frozenset[Backend]] = {}
    for program in programs:
        allowed.update(sticky_frontends(program))
    return lambda entry: entry.backend not in allowed.get(entry.frontend, ())


def sticky_frontends(program: ServiceProgram | None) -> dict[Frontend, frozenset[Backend]]:
    """Return the frontends with session affinity, each with every endpoint its service port may send to (A1: shared)."""
    result: dict[Frontend, frozenset[Backend]] = {}
    for port in program.ports if program else ():
        sticky = [frontend for frontend in port.frontends if frontend.affinity_timeout_s is not None]
        if sticky:
            pools = {verdict.pool for frontend in sticky for verdict in frontend.verdicts() if verdict.pool is not None}
            backends = frozenset(backend for pool in pools for backend in pool.backends)
            result.update((frontend.frontend, backends) for frontend in sticky)
    return result
