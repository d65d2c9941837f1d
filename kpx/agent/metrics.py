"""
Counters and histograms for Prometheus, in a registry of their own.

A series has kube-proxy's name (`kubeproxy_*`, contract section 18) where it means the same, so that dashboards and the
network programming latency objective go on working; everything else is `kpx_*`. Nothing here goes through all Services: each
series follows a round by what the round changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

import kpx
from kpx.agent.rounds import Round
from kpx.agent.standing import Standing, StandingCollector
from kpx.model.addresses import Family
from kpx.reconcile.rows import Table
from kpx.web.connection import Answer

SYNC_BUCKETS: Final = tuple(0.001 * 2**k for k in range(15))
LATENCY_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
PROGRAMMING_BUCKETS: Final = (0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))
"""As kube-proxy, since the latency objective is computed from them."""

PLAN_BUCKETS: Final = tuple(10**k for k in range(7))
"""Rows."""

SYNC_FAILURES: Final = {"nftables": "nftables_sync_failures", "ipvs": "iptables_restore_failures"}
"""What kube-proxy calls rounds that failed as a whole; for each mode the name its dashboards know."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """
    Kept by the loop, read by HTTP threads.

    Args:
        dataplane: its name.
        wall: seconds since the epoch.
    """

    def __init__(self, dataplane: str, wall: Callable[[], float] = time.time) -> None:
        self.registry = registry = CollectorRegistry()
        self._wall = wall
        self._rows_by_table: dict[Table, int] = {}
        # When a series began is nobody's question, and telling it would double their number.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        ProcessCollector(registry=registry)
        build = Gauge("kpx_build_info", "Version and data plane of the agent", ["version", "dataplane"], registry=registry)
        build.labels(kpx.__version__, dataplane).set(1)
        self._make_kube_proxy_series(registry, dataplane)
        self._make_own_series(registry)
        self._begin_at_zero()

    def _make_kube_proxy_series(self, registry: CollectorRegistry, dataplane: str) -> None:
        sync = "kubeproxy_sync_proxy_rules"

        def histogram(name: str, text: str, buckets: tuple[float, ...] = SYNC_BUCKETS) -> Histogram:
            return Histogram(name, text, ["ip_family"], buckets=buckets, registry=registry)

        def moment(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["ip_family"], registry=registry)

        self._sync = histogram(f"{sync}_duration_seconds", "Rounds")
        self._sync_full = histogram("kubeproxy_sync_full_proxy_rules_duration_seconds", "Rounds that read the kernel")
        self._sync_partial = histogram("kubeproxy_sync_partial_proxy_rules_duration_seconds", "Rounds of changes alone")
        self._last = moment(f"{sync}_last_timestamp_seconds", "Last successful round")
        self._last_queued = moment(f"{sync}_last_queued_timestamp_seconds", "Last request of a round")
        text = "From the change in the cluster, by its annotation, to the kernel"
        self._programming = histogram("kubeproxy_network_programming_duration_seconds", text, PROGRAMMING_BUCKETS)
        self._changes = {}
        self._pending = {}
        for kind in ("endpoint", "service"):
            name = f"{sync}_{kind}_changes"
            self._changes[kind] = Counter(name, f"Changes of {kind}s heard", registry=registry)
            self._pending[kind] = Gauge(f"{name}_pending", f"Changes of {kind}s not yet written", registry=registry)
        failures = f"{sync}_{SYNC_FAILURES.get(dataplane, SYNC_FAILURES['nftables'])}"
        self._failures = Counter(failures, "Rounds that failed as a whole", ["ip_family"], registry=registry)
        deleted = "kubeproxy_conntrack_reconciler_deleted_entries"
        self._flows = Counter(deleted, "Stale UDP flows deleted", ["ip_family"], registry=registry)
        self._sweeps = histogram("kubeproxy_conntrack_reconciler_sync_duration_seconds", "Looks for stale UDP flows")
        self._probes = {
            path: Counter(f"kubeproxy_proxy_{path}", f"Answers of /{path}", ["code"], registry=registry)
            for path in ("healthz", "livez")
        }

    def _make_own_series(self, registry: CollectorRegistry) -> None:
        self._lag = Histogram(
            "kpx_change_to_kernel_seconds", "From input read to rows acknowledged", buckets=LATENCY_BUCKETS, registry=registry
        )
        self._rounds = Counter("kpx_rounds", "Rounds by why they were made", ["reason"], registry=registry)
        self._rounds_failed = Counter(
            "kpx_rounds_failed", "Rounds of which nothing of a family could be written", ["ip_family"], registry=registry
        )
        self._plans = Histogram("kpx_plan_rows", "Rows a round was to write", buckets=PLAN_BUCKETS, registry=registry)
        self._services = Gauge("kpx_services", "Services in force", registry=registry)
        self._rows = Gauge("kpx_rows", "Rows the kernel holds", ["family", "table"], registry=registry)
        self._refused = Gauge("kpx_refused_rows", "Rows the kernel refuses at the moment", registry=registry)
        self._written = Counter("kpx_rows_written", "Rows written", ["operation"], registry=registry)
        self._datagrams = Counter("kpx_kernel_datagrams", "Datagrams sent to the kernel", registry=registry)
        self._bytes = Counter("kpx_kernel_written_bytes", "Bytes sent to the kernel", registry=registry)
        self._errors = Counter("kpx_kernel_errors", "Rows or rounds the kernel refused", registry=registry)
        self._drift = Counter("kpx_drift_repairs", "Times somebody else's changes were undone", registry=registry)
        self._affinity = Counter("kpx_affinity_entries_forgotten", "Affinity entries of endpoints that left", registry=registry)

    def _begin_at_zero(self) -> None:
        """Make the series that alerts watch: a rise from nothing at all is no rise to Prometheus."""
        for family in Family:
            for counter in (self._failures, self._rounds_failed, self._flows):
                counter.labels(str(family))
        for probe in self._probes.values():
            for code in ("200", "503"):
                probe.labels(code)
        for operation in ("add", "change", "remove"):
            self._written.labels(operation)

    def heard(self, kind: str, count: int) -> None:
        """Count changes of a kind, "endpoint" or "service"."""
        self._changes[kind].inc(count)
        self._pending[kind].inc(count)

    def queued(self, families: Iterable[Family]) -> None:
        """Take note that there is something to write."""
        now = self._wall()
        for family in families:
            self._last_queued.labels(str(family)).set(now)

    def round_done(
        self, done: Round, families: Collection[Family], services: int, refused: int, rows: Mapping[Table, int]
    ) -> None:
        """Take note of a round; `services`, `refused` and `rows` are how things are after it."""
        for pending in self._pending.values():
            pending.set(0)
        from_kernel = done.reason not in ("change", "retry")
        for family in families:
            if family in done.failed_families:
                self._count_failure(family)
                continue
            for histogram in (self._sync, self._sync_full if from_kernel else self._sync_partial):
                histogram.labels(str(family)).observe(done.took_s)
            self._last.labels(str(family)).set(self._wall())
        self._rounds.labels(done.reason).inc()
        if done.plan:
            self._plans.observe(len(done.plan.operations))
        if done.lag_s is not None:
            self._lag.observe(done.lag_s)
        self._services.set(services)
        self._refused.set(refused)
        self._show_rows(rows)
        for operation, count in (("add", done.added), ("change", done.changed), ("remove", done.removed)):
            self._written.labels(operation).inc(count)
        self._datagrams.inc(done.datagrams)
        self._bytes.inc(done.written_bytes)
        self._errors.inc(done.refused)
        for sweep in done.sweeps:
            self._sweeps.labels(str(sweep.family)).observe(sweep.took_s)
            self._flows.labels(str(sweep.family)).inc(sweep.deleted)
        self._affinity.inc(done.affinity)
        if done.reason == "drift" and done:
            self._drift.inc()

    def _show_rows(self, rows: Mapping[Table, int]) -> None:
        for table, count in rows.items():
            if self._rows_by_table.get(table) != count:
                self._rows_by_table[table] = count
                self._rows.labels(table.family, table.name).set(count)
        for table in self._rows_by_table.keys() - rows.keys():
            del self._rows_by_table[table]
            self._rows.labels(table.family, table.name).set(0)

    def round_failed(self, families: Iterable[Family]) -> None:
        """Count a round the kernel refused as a whole."""
        self._errors.inc()
        for family in families:
            self._count_failure(family)

    def _count_failure(self, family: Family) -> None:
        self._failures.labels(str(family)).inc()
        self._rounds_failed.labels(str(family)).inc()

    def watch(self, standing: Standing) -> None:
        """Let a scrape ask how things stand; once."""
        self.registry.register(StandingCollector(standing))

    def programmed(self, family: Family, seconds: float) -> None:
        """Take note how long a change took from the cluster to the kernel (E10)."""
        self._programming.labels(str(family)).observe(seconds)

    def counted(self, path: str, answer: Callable[[], Answer]) -> Callable[[], Answer]:
        """Return `answer`, counting what it says; `path` is "healthz" or "livez"."""

        def counting() -> Answer:
            result = answer()
            self._probes[path].labels(str(result.status)).inc()
            return result

        return counting

    def page(self) -> Answer:
        """Answer with all series."""
        return Answer(generate_latest(self.registry).decode(), content_type=CONTENT_TYPE)
