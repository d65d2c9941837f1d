"""
How old a change was when it reached the kernel, by the time the cluster wrote into the slice (E10).

Feeds kube-proxy's network programming latency. Wall-clock times of another machine are compared with ours, as there.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable

from kpx.cluster.events import Delete, Event, Upsert
from kpx.model.addresses import Family
from kpx.model.endpointslice import EndpointSlice
from kpx.model.names import ObjectName


class Triggers:
    """
    The changes heard and not yet written, by the time stated in their slices.

    Args:
        since: wall-clock seconds; what happened before is not this process's latency.
    """

    def __init__(self, since: float) -> None:
        self._since = since
        self._stated: dict[ObjectName, str] = {}
        self._waiting: list[tuple[Family, float]] = []

    def hear(self, events: Iterable[Event]) -> None:
        """Take note of events; a slice whose stated time is the same as before is no new change."""
        for event in events:
            if isinstance(event, Upsert) and isinstance(event.object, EndpointSlice):
                self._hear_slice(event.object)
            elif isinstance(event, Delete) and event.kind is EndpointSlice:
                self._stated.pop(event.name, None)

    def _hear_slice(self, heard: EndpointSlice) -> None:
        stated = heard.trigger_time
        if not stated or heard.family is None or self._stated.get(heard.name) == stated:
            return
        self._stated[heard.name] = stated
        with contextlib.suppress(ValueError):
            at = dt.datetime.fromisoformat(stated)
            seconds = (at if at.tzinfo else at.replace(tzinfo=dt.UTC)).timestamp()
            if seconds > self._since:
                self._waiting.append((heard.family, seconds))

    def written(self, now: float) -> list[tuple[Family, float]]:
        """Return the ages, seconds, of the changes written by `now`, wall-clock seconds; they are done with."""
        ages = [(family, max(0.0, now - at)) for family, at in self._waiting]
        self._waiting.clear()
        return ages
