"""
Checking endpoints: which Services want to know of which endpoints, and what the engine is told (docs/health-checks.md).

What was found out goes the way of everything that is heard: as events, whole Services at a time, so that policy stays a function
of what is known.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from kpx import log
from kpx.checking.rota import Checked, Counts, Rota
from kpx.checking.state import NOT_SEEN, SUSPECT, targets
from kpx.cluster.events import Delete, Event, Upsert
from kpx.dataplanes.base import KernelFrontend
from kpx.model.addresses import format_endpoint
from kpx.model.health_check import EndpointHealth, Failing
from kpx.model.names import ObjectName
from kpx.policy.desired import Backend, ServiceProgram

logger = logging.getLogger(__name__)

SAID_AT_ONCE: Final = 20
"""So many endpoints are named in the log when many change at once; the rest is counted."""


class Checking:
    """
    Checks the endpoints of the Services that ask for it.

    Args:
        clock, chance: see `Rota`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random) -> None:
        self._rota = Rota(self._note, clock, chance)
        self._services: dict[ObjectName, dict[Backend, Checked]] = {}
        self._changed: dict[Checked, None] = {}
        self._untold: set[ObjectName] = set()
        self._told: dict[ObjectName, EndpointHealth] = {}

    def fileno(self) -> int:
        """Return the descriptor that is readable when some endpoint answered."""
        return self._rota.fileno()

    def close(self) -> None:
        """End all checks; idempotent."""
        self._rota.close()

    @property
    def counts(self) -> Counts:
        """Return how it goes."""
        return self._rota.counts

    def deadline(self) -> float | None:
        """Return when `act` has something to do, monotonic seconds, None while nothing is checked."""
        return 0.0 if self._untold else self._rota.deadline()

    def act(self) -> list[Event]:
        """Do what is due, and return what has been found out since the last call."""
        self._rota.act()
        return self.take()

    def health(self) -> list[EndpointHealth]:
        """Return what is known of every Service that is checked, sorted by name."""
        return [self._health_of(name) for name in sorted(self._services)]

    def follow(self, name: ObjectName, program: ServiceProgram | None) -> None:
        """
        Check the endpoints of a Service as it is now, and no others; None when it is gone.

        What is known of an endpoint stays known as long as it is asked the same. Asked in another way, one that failed is
        left out until it passes.
        """
        is_checked = program is not None and program.check is not None
        if not is_checked and name not in self._services:
            return
        held = self._services.pop(name, {})
        found: dict[Backend, Checked] = {}
        for backend, target in targets(program).items() if program is not None else ():
            before = held.get(backend)
            if before is not None and before.target == target:
                found[backend] = before
            else:
                suspected = NOT_SEEN if before is not None and before.streak.why else ""
                found[backend] = self._rota.join(target, (name, backend), suspected)
        for backend, before in held.items():
            if found.get(backend) is not before:
                self._rota.leave(before, (name, backend))
        if is_checked:
            self._services[name] = found
        if found != held or not is_checked:
            self._untold.add(name)

    def adopt(self, programs: Mapping[ObjectName, ServiceProgram], frontends: Iterable[KernelFrontend]) -> None:
        """
        Leave out what an agent before us left out, until it passes once: endpoints missing from frontends the kernel has.

        The kernel is all the memory there is of what former checks found out. An endpoint that is new since then is left out
        for one check, too, as nothing tells the two apart.
        """
        in_kernel = {held.frontend: frozenset(held.backends) for held in frontends}
        for name, endpoints in self._services.items():
            for _, frontend in programs[name].frontends():
                held = in_kernel.get(frontend.frontend)
                pools = [] if held is None else [verdict.pool for verdict in frontend.verdicts() if verdict.pool is not None]
                wanted = {backend for pool in pools for backend in pool.backends}
                for checked in (endpoints[backend] for backend in wanted - (held or set()) if backend in endpoints):
                    self._rota.suspect(checked, SUSPECT)
                    self._tell(checked)

    @property
    def any(self) -> bool:
        """Tell whether any Service is checked."""
        return bool(self._services)

    def take(self) -> list[Event]:
        """Return what has been found out since the last call."""
        if self._changed:
            self._say()
        if not self._untold:
            return []
        names, self._untold = sorted(self._untold), set()
        return [event for name in names for event in self._events(name)]

    def _note(self, checked: Checked) -> None:
        self._changed[checked] = None
        self._tell(checked)

    def _tell(self, checked: Checked) -> None:
        self._untold.update(name for name, _ in checked.users)

    def _health_of(self, name: ObjectName) -> EndpointHealth:
        streak = ((backend, checked.streak) for backend, checked in self._services[name].items())
        return EndpointHealth(name, tuple(sorted(Failing(*backend, each.why) for backend, each in streak if each.why)))

    def _events(self, name: ObjectName) -> Iterator[Event]:
        """Yield what has to be said of a Service; that nothing fails goes without saying."""
        if name not in self._services:
            if self._told.pop(name, None) is not None:
                yield Delete(EndpointHealth, name)
            return
        now = self._health_of(name)
        if now != self._told.get(name, EndpointHealth(name)):
            self._told[name] = now
            yield Upsert(now)

    def _say(self) -> None:
        """Name the endpoints that changed in the log."""
        for checked in itertools.islice(self._changed, SAID_AT_ONCE):
            why = checked.streak.why
            names = sorted({str(name) for name, _ in checked.users})
            told = {"endpoint": format_endpoint(checked.target.address, checked.target.port), "services": ",".join(names)}
            if why:
                log.event(logger, logging.WARNING, "endpoint failed its health check", **told, why=why)
            else:
                log.event(logger, logging.INFO, "endpoint passes its health check again", **told)
        if len(self._changed) > SAID_AT_ONCE:
            log.event(logger, logging.WARNING, "more endpoints changed", endpoints=len(self._changed) - SAID_AT_ONCE)
        self._changed.clear()
