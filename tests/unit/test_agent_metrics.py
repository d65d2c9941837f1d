"""Series: kube-proxy's names where the meaning is the same, and numbers that follow the rounds."""

from __future__ import annotations

from agent_builders import Clock

from kpx.agent.metrics import Metrics
from kpx.agent.rounds import Round
from kpx.agent.web import Answer
from kpx.model.addresses import Family
from kpx.reconcile.rows import Table

BOTH = (Family.IPV4, Family.IPV6)
TABLE = Table("ip", "frontends", 2)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_names_of_kube_proxy_are_there() -> None:
    page = Metrics("nftables").page().body

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
    assert value(metrics, "kubeproxy_conntrack_reconciler_deleted_entries_total") == 5


def test_family_that_failed_did_not_succeed() -> None:
    metrics = Metrics("nftables", Clock(50.0))
    metrics.round_done(Round("start", failed_families=frozenset({Family.IPV6})), BOTH, 0, 1, {})

    assert value(metrics, "kubeproxy_sync_proxy_rules_nftables_sync_failures_total", ip_family="IPv6") == 1
    assert value(metrics, "kubeproxy_sync_proxy_rules_last_timestamp_seconds", ip_family="IPv6") is None
    assert value(metrics, "kubeproxy_sync_full_proxy_rules_duration_seconds_count", ip_family="IPv4") == 1


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
