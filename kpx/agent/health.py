"""
Whether this node may be trusted with traffic: /livez and /healthz (15.1).

A family is unhealthy when a request to write has waited for twice the sync period. Nothing queued is healthy, and so is a
start. A node that is being removed stays alive and is no longer healthy, so that load balancers leave it first.
"""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

from kpx.agent.web import Answer
from kpx.model.addresses import Family

WINDOW_PERIODS: Final = 2
"""Sync periods a request may wait."""


class Health:
    """
    Kept by the loop, read by HTTP threads.

    Args:
        families: those the node programs.
        sync_period_s: see `Config`.
        clock: monotonic seconds. wall: seconds since the epoch.
    """

    def __init__(
        self,
        families: Iterable[Family],
        sync_period_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._lock = threading.Lock()
        self._window_s = WINDOW_PERIODS * sync_period_s
        self._clock = clock
        self._wall = wall
        self._queued: dict[Family, float] = {}
        self._updated: dict[Family, float | None] = dict.fromkeys(families)
        self._eligible = True

    def set_families(self, families: Collection[Family]) -> None:
        """Let these be the families the node programs; what is known of those that stay is kept."""
        with self._lock:
            self._updated = {family: self._updated.get(family) for family in families}
            self._queued = {family: since for family, since in self._queued.items() if family in self._updated}

    def queued(self) -> None:
        """Take note that there is something to write; the oldest request counts."""
        now = self._clock()
        with self._lock:
            for family in self._updated:
                self._queued.setdefault(family, now)

    def written(self, failed: Collection[Family] = ()) -> None:
        """Take note that everything queued was written, but for the failed families."""
        now = self._wall()
        with self._lock:
            for family in self._updated:
                if family not in failed:
                    self._queued.pop(family, None)
                    self._updated[family] = now

    def set_eligible(self, eligible: bool) -> None:
        """Let the node be fit for external traffic or not; it is when nobody says otherwise."""
        with self._lock:
            self._eligible = eligible

    def livez(self) -> Answer:
        """Answer whether the agent does its work."""
        return self._answer(with_node=False)

    def healthz(self) -> Answer:
        """Answer whether load balancers should send traffic to this node."""
        return self._answer(with_node=True)

    def _answer(self, *, with_node: bool) -> Answer:
        now, wall = self._clock(), self._wall()
        with self._lock:
            healthy = {f: now - self._queued.get(f, now) < self._window_s for f in self._updated}
            updated, eligible = dict(self._updated), self._eligible
        good = all(healthy.values()) and (eligible or not with_node)
        last = wall if good else max((at for at in updated.values() if at is not None), default=None)
        body: dict[str, object] = {"lastUpdated": _time(last), "currentTime": _time(wall)}
        if with_node:
            body["nodeEligible"] = eligible
        body["healthy"] = good
        body["status"] = {str(f): {"lastUpdated": _time(updated[f]), "healthy": healthy[f]} for f in sorted(updated)}
        return Answer(json.dumps(body) + "\n", 200 if good else 503, "application/json")


def _time(seconds: float | None) -> str:
    """Print a time as RFC 3339; never is Go's zero time, as consumers of kube-proxy's answer expect."""
    if seconds is None:
        return "0001-01-01T00:00:00Z"
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat().replace("+00:00", "Z")
