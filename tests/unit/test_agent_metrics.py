"""Series: kube-proxy's names where the meaning is the same, and numbers that follow the rounds."""

from __future__ import annotations

from agent_builders import Clock
from prometheus_client import CollectorRegistry

from kpx.agent.connections import Sweep
from kpx.agent.metrics import Metrics
from kpx.agent.rounds import Round
from kpx.agent.standing import Standing, StandingCollector
from kpx.checking.rota import Counts
from kpx.model.addresses import Family
from kpx.model.findings import Severity
from kpx.reconcile.plan import Operation, Plan, Verb
from kpx.reconcile.rows import Table
from kpx.web.server import Answer

BOTH = (Family.IPV4, Family.IPV6)
TABLE = Table("ip", "frontends", 2)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_names_of_kube_proxy_are_there() -> None:
    metrics = Metrics("nftables")
    metrics.watch(Standing())
    page = metrics.page().body

    for name in (
        "sync_proxy_rules_duration_seconds",
        "sync_full_proxy_rules_duration_seconds",
        "sync_partial_proxy_rules_duration_seconds",
        "sync_proxy_rules_last_timestamp_seconds",
        "sync_proxy_rules_last_queued_timestamp_seconds",
        "network_programming_duration_seconds",
        "sync_proxy_rules_endpoint_changes_pending",
        "sync_proxy_rules_endpoint_changes_total",
        "sync_proxy_rules_service_changes_pending",
        "sync_proxy_rules_service_changes_total",
        "sync_proxy_rules_nftables_sync_failures_total",
        "proxy_healthz_total",
        "proxy_livez_total",
        "sync_proxy_rules_no_local_endpoints_total",
        "conntrack_reconciler_sync_duration_seconds",
        "conntrack_reconciler_deleted_entries_total",
    ):
        assert f"# TYPE kubeproxy_{name} " in page, name


def test_two_agents_in_one_process_do_not_share_series() -> None:
    one, other = Metrics("nftables"), Metrics("nftables")
    one.heard("service", 3)

    assert value(other, "kubeproxy_sync_proxy_rules_service_changes_total") == 0


def test_round_is_counted() -> None:
    metrics = Metrics("nftables", Clock(50.0))
    metrics.heard("endpoint", 2)
    metrics.queued(BOTH)
    done = Round("change", 1, 3, 2, 1, refused=4, datagrams=1, written_bytes=300, took_s=0.01, lag_s=0.02, flows=5, affinity=6)
    done = done._replace(sweeps=(Sweep(Family.IPV4, 5, 0.003), Sweep(Family.IPV6, 0, 0.0005)))
    metrics.round_done(done, BOTH, services=7, refused=8, rows={TABLE: 9})

    assert value(metrics, "kubeproxy_sync_proxy_rules_endpoint_changes_pending") == 0
    assert value(metrics, "kubeproxy_sync_proxy_rules_endpoint_changes_total") == 2
    assert value(metrics, "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", ip_family="IPv4") == 50
    assert value(metrics, "kubeproxy_sync_proxy_rules_last_timestamp_seconds", ip_family="IPv6") == 50
    assert value(metrics, "kubeproxy_sync_partial_proxy_rules_duration_seconds_count", ip_family="IPv4") == 1
    assert value(metrics, "kubeproxy_sync_full_proxy_rules_duration_seconds_count", ip_family="IPv4") is None
    assert value(metrics, "kpx_rows_written_total", operation="add") == 3
    assert value(metrics, "kpx_rows_written_total", operation="remove") == 1
    assert value(metrics, "kpx_rows", family="ip", table="frontends") == 9
    assert value(metrics, "kpx_services") == 7
    assert value(metrics, "kpx_refused_rows") == 8
    assert value(metrics, "kpx_kernel_errors_total") == 4
    assert value(metrics, "kpx_change_to_kernel_seconds_bucket", le="0.02") == 1
    assert value(metrics, "kpx_change_to_kernel_seconds_bucket", le="0.01") == 0
    flows = "kubeproxy_conntrack_reconciler"
    assert value(metrics, f"{flows}_deleted_entries_total", ip_family="IPv4") == 5
    assert value(metrics, f"{flows}_deleted_entries_total", ip_family="IPv6") == 0
    assert value(metrics, f"{flows}_sync_duration_seconds_bucket", ip_family="IPv4", le="0.004") == 1
    assert value(metrics, f"{flows}_sync_duration_seconds_bucket", ip_family="IPv4", le="0.002") == 0
    assert value(metrics, "kpx_rounds_total", reason="change") == 1


def test_family_that_failed_did_not_succeed() -> None:
    metrics = Metrics("nftables", Clock(50.0))
    metrics.round_done(Round("start", failed_families=frozenset({Family.IPV6})), BOTH, 0, 1, {})

    assert value(metrics, "kubeproxy_sync_proxy_rules_nftables_sync_failures_total", ip_family="IPv6") == 1
    assert value(metrics, "kubeproxy_sync_proxy_rules_last_timestamp_seconds", ip_family="IPv6") is None
    assert value(metrics, "kubeproxy_sync_full_proxy_rules_duration_seconds_count", ip_family="IPv4") == 1


def test_failed_rounds_have_the_name_that_the_mode_has_in_kube_proxy() -> None:
    for mode, name in (("nftables", "nftables_sync_failures"), ("ipvs", "iptables_restore_failures")):
        metrics = Metrics(mode)
        metrics.round_failed(BOTH)

        assert value(metrics, f"kubeproxy_sync_proxy_rules_{name}_total", ip_family="IPv4") == 1
        assert value(metrics, "kpx_rounds_failed_total", ip_family="IPv6") == 1


def test_alerts_can_see_the_first_failure() -> None:
    """A rise from nothing at all is no rise to Prometheus."""
    metrics = Metrics("nftables")

    assert value(metrics, "kpx_rounds_failed_total", ip_family="IPv4") == 0
    assert value(metrics, "kubeproxy_proxy_healthz_total", code="503") == 0


def test_plans_are_counted_by_size() -> None:
    metrics = Metrics("nftables")
    write = Operation(Verb.ADD, TABLE, 1, None, 2)
    for done in (Round("change"), Round("change", plan=Plan((write,) * 11))):
        metrics.round_done(done, BOTH, 0, 0, {})

    assert value(metrics, "kpx_plan_rows_count") == 1
    assert (value(metrics, "kpx_plan_rows_bucket", le="10.0"), value(metrics, "kpx_plan_rows_bucket", le="100.0")) == (0, 1)


def test_page_tells_values_and_no_times_of_making() -> None:
    assert "_created" not in Metrics("nftables").page().body


def test_scrape_asks_how_things_stand() -> None:
    clock = Clock(1000.0)
    registry = CollectorRegistry()
    findings, heard_at = {Severity.ERROR: 2}, {"Service": 990.0, "Node": 1001.0}
    standing = Standing(
        families=lambda: {Family.IPV4: True, Family.IPV6: False},
        eligible=lambda: False,
        findings=lambda: findings,
        draining=lambda: 3,
        lacking=lambda: {("external", Family.IPV4): 4},
        heard_at=lambda: heard_at,
        listening=lambda: (5, 6),
        checks=lambda: Counts(targets=7, failing=2, waiting=1, passed=30, failed=4, unable=3),
    )
    registry.register(StandingCollector(standing, clock))

    def now(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert (now("kpx_family_healthy", ip_family="IPv4"), now("kpx_family_healthy", ip_family="IPv6")) == (1, 0)
    assert (now("kpx_node_eligible"), now("kpx_draining_endpoints")) == (0, 3)
    assert (now("kpx_findings", severity="error"), now("kpx_findings", severity="warning")) == (2, 0)
    assert (now("kpx_listeners", state="open"), now("kpx_listeners", state="failing")) == (5, 6)
    assert (now("kpx_checked_endpoints", state="passing"), now("kpx_checked_endpoints", state="failing")) == (5, 2)
    results = {result: now("kpx_endpoint_checks_total", result=result) for result in ("passed", "failed", "unable")}
    assert results == {"passed": 30, "failed": 4, "unable": 3}
    lacking = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
    assert now(lacking, traffic_policy="external", ip_family="IPv4") == 4
    assert (now("kpx_source_age_seconds", kind="Service"), now("kpx_source_age_seconds", kind="Node")) == (10, 0)
    findings.clear()
    heard_at["Service"] = clock.now
    assert (now("kpx_findings", severity="error"), now("kpx_source_age_seconds", kind="Service")) == (0, 0)


def test_only_repairs_that_mended_something_are_repairs() -> None:
    metrics = Metrics("nftables")
    metrics.round_done(Round("drift"), BOTH, 0, 0, {})
    metrics.round_done(Round("drift", added=1), BOTH, 0, 0, {})

    assert value(metrics, "kpx_drift_repairs_total") == 1


def test_table_that_is_gone_has_no_rows() -> None:
    metrics = Metrics("nftables")
    metrics.round_done(Round("change"), BOTH, 0, 0, {TABLE: 4})
    metrics.round_done(Round("change"), BOTH, 0, 0, {})

    assert value(metrics, "kpx_rows", family="ip", table="frontends") == 0


def test_probes_are_counted_by_their_answers() -> None:
    metrics = Metrics("nftables")
    answer = metrics.counted("healthz", lambda: Answer("", 503))
    answer()
    answer()

    assert value(metrics, "kubeproxy_proxy_healthz_total", code="503") == 2
