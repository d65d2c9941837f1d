"""The dashboard, the alerts and the pages about them speak of series, options and messages that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from kpx.agent.health import Health
from kpx.agent.metrics import SYNC_FAILURES, Metrics
from kpx.agent.slis import Slis
from kpx.agent.standing import Standing
from kpx.model.addresses import Family

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "kpx.json").read_text())
ALERTS = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
METRICS = (ROOT / "docs" / "metrics.md").read_text()

OF_PROMETHEUS = {"up"}
SHOWN = (
    "kpx_change_to_kernel_seconds_bucket",
    "kubeproxy_network_programming_duration_seconds_bucket",
    "kpx_rounds_total",
    "kpx_rows",
    "kpx_refused_rows",
    "kpx_drift_repairs_total",
    "kpx_family_healthy",
    "kpx_source_age_seconds",
    "kpx_draining_endpoints",
)
QUOTED = (
    "round failed, trying again",
    "the kernel refuses rows",
    "somebody touched the tables of kpx",
    "row differs",
    "no longer: ",
    "cannot listen on",
    "there is no Node named",
    "FailedToStartProxierHealthcheck",
    "FailedToStartMetricServer",
    "FailedToStartServiceHealthcheck",
)
SERIES = re.compile(r"\b(?:kpx|kubeproxy|process|kubernetes)_\w+|\bup\b(?=\{)")


def registries() -> Iterator[CollectorRegistry]:
    for mode in SYNC_FAILURES:
        metrics = Metrics(mode)
        metrics.watch(Standing())
        yield metrics.registry
    slis = Slis(Health((Family.IPV4,)), "")
    slis.page()
    yield slis.registry


def described() -> dict[str, tuple[str, str]]:
    """Return type and labels of every series in the tables of docs/metrics.md, by name."""
    lines = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", METRICS, re.MULTILINE)
    return {name: (kind, labels.strip()) for name, kind, labels in lines}


def existing() -> dict[str, str]:
    """Return the type of every series, by the name it is exposed with."""
    found = {}
    for registry in registries():
        for family in registry.collect():
            found[f"{family.name}_total" if family.type == "counter" else family.name] = family.type
    return found


def names() -> set[str]:
    """Return everything a query may name: of a histogram its three parts."""
    parts = ("_bucket", "_sum", "_count")
    return {
        name for base, kind in existing().items() for name in ([base + part for part in parts] if kind == "histogram" else [base])
    }


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", variable["query"]["query"]
    for rule in RULES:
        yield f"alert {rule['alert']}", rule["expr"]


def test_metrics_page_names_every_series_and_no_other() -> None:
    assert {name: kind for name, (kind, _) in described().items()} == existing()


def test_metrics_page_names_the_labels() -> None:
    """Where a series has labels at once; the others begin when there is something to count."""
    for registry in registries():
        for family in registry.collect():
            for sample in family.samples:
                name = f"{family.name}_total" if family.type == "counter" else family.name
                labels = {label for label in sample.labels if label != "le"}
                assert labels == set(re.findall(r"`(\w+)`", described()[name][1])), name


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_queries_name_series_that_exist(where: str, expression: str) -> None:
    asked = set(SERIES.findall(expression))

    assert asked, where
    assert asked - names() - OF_PROMETHEUS == set()


def test_queries_use_labels_that_exist() -> None:
    known = {label for _, labels in described().values() for label in re.findall(r"`(\w+)`", labels)} | {"job", "instance", "le"}
    for where, expression in expressions():
        used = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", expression))
        used |= {label.strip() for text in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in text.split(",")}
        assert used <= known, where


def test_dashboard_can_be_imported_anywhere() -> None:
    """Its data source is a variable, its panels have ids of their own and do not overlap."""
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    sources = {one["datasource"]["uid"] for panel in panels for one in (panel, *panel["targets"])}
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert sources == {"${datasource}"}
    assert "id" not in DASHBOARD
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


def test_dashboard_shows_what_is_asked_of_it() -> None:
    shown = " ".join(expression for where, expression in expressions() if where.startswith("panel"))

    for name in SHOWN:
        assert re.search(rf"\b{name}\b", shown), name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_alert_says_what_and_has_a_section_that_helps(rule: dict[str, Any]) -> None:
    notes = rule["annotations"]
    section = OPERATIONS.partition(f"\n## {rule['alert']}\n")[2].partition("\n## ")[0]

    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert notes["summary"]
    assert notes["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
    assert [part for part in ("**Means:**", "**Look:**", "**Do:**") if part not in section] == []


def test_alerts_and_sections_are_the_same() -> None:
    assert re.findall(r"^## (Kpx\w+)$", OPERATIONS, re.MULTILINE) == [rule["alert"] for rule in RULES]


def test_operator_gets_the_same_rules() -> None:
    rule = yaml.safe_load((PROMETHEUS / "prometheusrule.yaml").read_text())

    assert (rule["kind"], rule["spec"]["groups"]) == ("PrometheusRule", ALERTS["groups"])


def test_job_of_the_alerts_is_the_one_that_is_scraped() -> None:
    scrape = yaml.safe_load((PROMETHEUS / "scrape.yaml").read_text())
    monitor = yaml.safe_load((PROMETHEUS / "podmonitor.yaml").read_text())["spec"]
    (daemon,) = yaml.safe_load_all((ROOT / "deploy/kubernetes/base/daemonset.yaml").read_text())
    labels = daemon["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in daemon["spec"]["template"]["spec"]["containers"][0]["ports"]}
    jobs = {job for rule in RULES for job in re.findall(r'job="(\w+)"', rule["expr"])}

    assert jobs == {scrape["scrape_configs"][0]["job_name"]} == {labels[monitor["jobLabel"]]}
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} <= ports
    assert scrape["rule_files"] == ["alerts.yaml"]


def test_operations_page_quotes_lines_that_are_logged() -> None:
    source = "\n".join(path.read_text() for path in sorted((ROOT / "kpx").rglob("*.py")))
    assert [text for text in QUOTED if text not in OPERATIONS or text not in source] == []
