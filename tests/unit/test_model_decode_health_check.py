"""The annotations about health checks (docs/health-checks.md): what can be said, and what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest

from kpx.model.decode import Decoded, decode_document
from kpx.model.findings import Severity
from kpx.model.health_check import CheckKind, HealthCheck
from kpx.model.service import Service

TCP = {"name": "a", "port": 80}
UDP = {"name": "b", "port": 53, "protocol": "UDP"}


def decode(annotations: dict[str, Any], *ports: dict[str, Any]) -> tuple[HealthCheck | None, list[tuple[str, str]]]:
    """Return the check of a Service with these annotations, and each finding's field and message."""
    document = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop", "annotations": annotations},
        "spec": {"clusterIP": "10.96.0.10", "ports": list(ports) or [TCP]},
    }  # fmt: skip
    decoded: Decoded = decode_document(document, "x.yaml")
    (service,) = decoded.objects[0].values
    assert isinstance(service, Service)
    return service.health_check, [(found.field, found.message) for found in decoded.findings]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp", HealthCheck(CheckKind.TCP)),
        (" tcp ", HealthCheck(CheckKind.TCP)),
        ("tcp://:8081", HealthCheck(CheckKind.TCP, 8081)),
        ("http", HealthCheck(CheckKind.HTTP, 0, "/")),
        ("http://:8080", HealthCheck(CheckKind.HTTP, 8080, "/")),
        ("http://:8080/healthz?full=1", HealthCheck(CheckKind.HTTP, 8080, "/healthz?full=1")),
        ("http:///ready", HealthCheck(CheckKind.HTTP, 0, "/ready")),
        ("https://:8443/", HealthCheck(CheckKind.HTTPS, 8443, "/")),
        ("tcp interval=2s timeout=250ms rise=1 fall=3 panic=50%", HealthCheck(CheckKind.TCP, 0, "", "", 2, 0.25, 1, 3, 50)),
        ("http://:1/ host=shop.example:8080 interval=1m", HealthCheck(CheckKind.HTTP, 1, "/", "shop.example:8080", 60.0)),
        ("tcp interval=0.2", HealthCheck(CheckKind.TCP, interval_s=0.2, timeout_s=0.2)),
        ("", None),
        ("none", None),
        (None, None),
    ],
)
def test_what_can_be_written(text: str | None, expected: HealthCheck | None) -> None:
    assert decode({"kpx.io/health-check": text}) == (expected, [])


def test_options_have_annotations_of_their_own() -> None:
    """YAML makes numbers of them when nobody quotes them."""
    options = {"interval": "500ms", "timeout": 0.3, "rise": 3, "fall": "1", "panic": "100%", "host": "shop.example"}
    annotations = {f"kpx.io/health-check-{name}": value for name, value in options.items()}

    expected = HealthCheck(CheckKind.HTTP, 0, "/", "shop.example", 0.5, 0.3, 3, 1, 100)
    assert decode({"kpx.io/health-check": "http", **annotations}) == (expected, [])


def test_default_timings_take_a_silent_endpoint_out_in_under_three_seconds() -> None:
    check = HealthCheck(CheckKind.TCP)

    assert check.fall * check.interval_s + check.timeout_s == 2.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ping", "'ping' is no health check; write tcp, tcp://:PORT, http://:PORT/PATH"),
        ("TCP", "'TCP' is no health check"),
        ("tcp:80", "'tcp:80' is no health check"),
        ("http://shop.example/", "names a host, but the address is each endpoint's own"),
        ("http://10.1.1.1:80/", "names a host"),
        ("tcp://8080", "names a host"),
        ("tcp://:0", "'0' is not a port; use 1 to 65535"),
        ("http://:65536/", "'65536' is not a port"),
        ("http://:/", "'' is not a port"),
        ("tcp://:80/path", "has a path, which only http and https ask for"),
        ("http:///ü", "is not a path; write it in printable ASCII"),
        ("tcp often", "'often' is no option of a health check; write NAME=VALUE with one of interval, timeout"),
        ("tcp weight=1", "'weight=1' is no option"),
        ("tcp fall=2 fall=3", "fall is given twice"),
        ("tcp fall=0", "fall '0' is not a number from 1 to 100"),
        ("tcp rise=101", "rise '101' is not a number from 1 to 100"),
        ("tcp rise=x", "rise 'x' is not a number"),
        ("tcp panic=101%", "panic '101%' is not a number from 0 to 100 percent"),
        ("tcp interval=99ms", "interval '99ms' is not a duration from 100ms to 60m"),
        ("tcp interval=soon", "interval 'soon' is not a duration"),
        ("tcp timeout=5ms", "timeout '5ms' is not a duration from 10ms"),
        ("tcp timeout=2s", "the timeout, 2 s, is longer than the interval, 1 s"),
        ("tcp host=x", "host is for http and https"),
        ("http host=a/b", "'a/b' is not the name of a host"),
        ("http host=a..b", "'a..b' is not the name of a host"),
    ],
)
def test_what_is_wrong_is_said_and_no_check_is_in_force(text: str, message: str) -> None:
    check, ((field, said),) = decode({"kpx.io/health-check": text})

    assert check is None
    assert field == "metadata.annotations.kpx.io/health-check"
    assert message in said
    assert said.endswith("; endpoints are not checked")


@pytest.mark.parametrize(
    ("annotations", "field", "message"),
    [
        ({"kpx.io/health-check": True}, "health-check", "True is no text, put it in quotes"),
        ({"kpx.io/health-check": "tcp", "kpx.io/health-check-fall": []}, "health-check-fall", "is no text"),
        ({"kpx.io/health-check": "tcp", "kpx.io/health-check-fall": "0"}, "health-check-fall", "fall '0' is not a number"),
        ({"kpx.io/health-check": "tcp fall=1", "kpx.io/health-check-fall": "1"}, "health-check", "fall is given twice"),
        ({"kpx.io/health-check-fall": "1"}, "health-check-fall", "an annotation that is missing, kpx.io/health-check"),
    ],
)
def test_the_annotation_that_is_wrong_is_named(annotations: dict[str, Any], field: str, message: str) -> None:
    check, ((where, said),) = decode(annotations)

    assert check is None
    assert where == f"metadata.annotations.kpx.io/{field}"
    assert message in said


def test_service_without_tcp_needs_a_port_to_ask() -> None:
    check, ((_, said),) = decode({"kpx.io/health-check": "tcp"}, UDP)

    assert check is None
    assert "the Service has no TCP port, and only TCP can be asked" in said
    assert decode({"kpx.io/health-check": "tcp://:80"}, UDP) == (HealthCheck(CheckKind.TCP, 80), [])


def test_ports_that_are_not_checked_are_named() -> None:
    check, ((_, said),) = decode({"kpx.io/health-check": "tcp"}, TCP, UDP)

    assert check == HealthCheck(CheckKind.TCP)
    assert "endpoints of 53/UDP are not checked" in said


def test_a_bad_check_is_an_error_and_costs_the_service_nothing_else() -> None:
    document = {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "annotations": {"kpx.io/health-check": "ping"}},
        "spec": {"clusterIP": "10.96.0.10", "ports": [TCP]},
    }  # fmt: skip
    decoded = decode_document(document, "x.yaml")

    assert [found.severity for found in decoded.findings] == [Severity.ERROR]
    assert len(decoded.objects[0].values) == 1
