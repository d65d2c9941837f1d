"""
How things stand right now, asked when somebody scrapes and not kept up to date in between.

Asked from the thread of the web server while the loop goes on, so everything here is a number somebody else keeps, or a mapping
that is small and keeps its keys; nothing goes through Services or rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from kpx.checking.rota import Counts
from kpx.model.addresses import Family
from kpx.model.findings import Severity

Metric = CounterMetricFamily | GaugeMetricFamily


class Standing(NamedTuple):
    """
    Whom to ask.

    Args:
        families: whether each family keeps up (15.1). eligible: whether load balancers should use this node.
        findings: in force, by severity.
        draining: endpoints that take no new connections and keep those they have.
        lacking: Services without endpoints here, by traffic policy and family (contract section 18).
        heard_at: when a source was last heard of, monotonic seconds, by kind of object.
        listening: addresses that are open, and addresses that cannot be.
        checks: how the health checks of endpoints go.
    """

    families: Callable[[], Mapping[Family, bool]] = dict
    eligible: Callable[[], bool] = lambda: True
    findings: Callable[[], Mapping[Severity, int]] = dict
    draining: Callable[[], int] = lambda: 0
    lacking: Callable[[], Mapping[tuple[str, Family], int]] = dict
    heard_at: Callable[[], Mapping[str, float]] = dict
    listening: Callable[[], tuple[int, int]] = lambda: (0, 0)
    checks: Callable[[], Counts] = lambda: Counts(0, 0, 0, 0, 0, 0)


class StandingCollector(Collector):
    """
    A `Standing` as series.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, standing: Standing, clock: Callable[[], float] = time.monotonic) -> None:
        self._standing = standing
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Yield every series."""
        standing = self._standing
        now = self._clock()
        ages = {kind: max(0.0, now - at) for kind, at in standing.heard_at().items()}
        yield _gauge("kpx_source_age_seconds", "Since the source of a kind of object was last heard of", "kind", ages)
        healthy = {str(family): float(keeps_up) for family, keeps_up in standing.families().items()}
        yield _gauge("kpx_family_healthy", "Whether a family is written in time, as /livez says", "ip_family", healthy)
        yield _gauge("kpx_node_eligible", "Whether load balancers should use this node", "", float(standing.eligible()))
        held = standing.findings()
        findings = {severity.value: float(held.get(severity, 0)) for severity in Severity}
        yield _gauge("kpx_findings", "What is wrong with input or host right now", "severity", findings)
        text = "Endpoints that keep their connections and take no new ones"
        yield _gauge("kpx_draining_endpoints", text, "", float(standing.draining()))
        opened, failing = standing.listening()
        listeners = {"open": float(opened), "failing": float(failing)}
        yield _gauge("kpx_listeners", "Addresses to listen on, that are open and that cannot be", "state", listeners)
        yield _lacking(standing.lacking())
        yield from _checks(standing.checks())


def _gauge(name: str, text: str, label: str, values: float | Mapping[str, float]) -> GaugeMetricFamily:
    if isinstance(values, float):
        return GaugeMetricFamily(name, text, value=values)
    metric = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values.items():
        metric.add_metric([value], number)
    return metric


def _lacking(counts: Mapping[tuple[str, Family], int]) -> GaugeMetricFamily:
    name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
    text = "Services with traffic policy Local that have endpoints and none on this node"
    metric = GaugeMetricFamily(name, text, labels=["ip_family", "traffic_policy"])
    for (policy, family), count in counts.items():
        metric.add_metric([str(family), policy], float(count))
    return metric


def _checks(counts: Counts) -> Iterator[Metric]:
    states = {"passing": float(counts.targets - counts.failing), "failing": float(counts.failing)}
    yield _gauge("kpx_checked_endpoints", "Endpoints whose health the agent checks", "state", states)
    checks = CounterMetricFamily("kpx_endpoint_checks", "Health checks of endpoints", labels=["result"])
    for result, number in (("passed", counts.passed), ("failed", counts.failed), ("unable", counts.unable)):
        checks.add_metric([result], float(number))
    yield checks
