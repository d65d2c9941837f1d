"""
Whether this node may be trusted with traffic: /livez and /healthz (15.1), and /readyz, which kube-proxy has not.

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

from kpx.model.addresses import Family
from kpx.web.connection import Answer

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

    def set_sync_period(self, seconds: float) -> None:
        """Let this be the sync period a request may wait for `WINDOW_PERIODS` of."""
        with self._lock:
            self._window_s = WINDOW_PERIODS * seconds

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

    def is_healthy(self) -> bool:
        """Tell whether all families keep up, whatever becomes of the node (H3)."""
        return all(self.families().values())

    def families(self) -> dict[Family, bool]:
        """Tell of each family whether it keeps up."""
        now = self._clock()
        with self._lock:
            return self._healthy(now)

    @property
    def eligible(self) -> bool:
        """Tell whether the node is fit for external traffic."""
        return self._eligible

    def livez(self) -> Answer:
        """Answer whether the agent does its work."""
        return self._answer(with_node=False)

    def healthz(self) -> Answer:
        """Answer whether load balancers should send traffic to this node."""
        return self._answer(with_node=True)

    def readyz(self) -> Answer:
        """Answer whether the kernel was made equal to what the source says, since this start, and is kept so."""
        with self._lock:
            waiting = [str(family) for family, at in sorted(self._updated.items()) if at is None]
        if waiting:
            return Answer(f"the first sync of {' and '.join(waiting)} is yet to come\n", 503)
        return Answer("ok\n") if self.is_healthy() else Answer("the kernel has not been written in time; see /livez\n", 503)

    def _answer(self, *, with_node: bool) -> Answer:
        now, wall = self._clock(), self._wall()
        with self._lock:
            healthy = self._healthy(now)
            updated, eligible = dict(self._updated), self._eligible
        good = all(healthy.values()) and (eligible or not with_node)
        last = wall if good else max((at for at in updated.values() if at is not None), default=None)
        body: dict[str, object] = {"lastUpdated": _time(last), "currentTime": _time(wall)}
        if with_node:
            body["nodeEligible"] = eligible
        body["healthy"] = good
        body["status"] = {str(f): {"lastUpdated": _time(updated[f]), "healthy": healthy[f]} for f in sorted(updated)}
        return Answer(json.dumps(body) + "\n", 200 if good else 503, "application/json")

    def _healthy(self, now: float) -> dict[Family, bool]:
        return {family: now - self._queued.get(family, now) < self._window_s for family in sorted(self._updated)}


def _time(seconds: float | None) -> str:
    """
    Print a time as Go's RFC3339Nano does: no zeros at the end of the fraction, and no fraction of zeros.

    Never is Go's zero time, as consumers of kube-proxy's answer expect.
    """
    if seconds is None:
        return "0001-01-01T00:00:00Z"
    whole, _, fraction = dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}Z" if fraction else f"{whole}Z"
