"""Services: contract section 4 and the rules on skipping, attribute by attribute."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from kpx.model.addresses import Address, parse_address, parse_prefix
from kpx.model.decode import Decoded, decode_document
from kpx.model.findings import Severity
from kpx.model.names import ObjectName, Protocol
from kpx.model.service import Service, ServicePort


def decode(metadata: dict[str, Any] | None = None, status: dict[str, Any] | None = None, **spec: Any) -> Decoded:
    document = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", **(metadata or {})},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}], **spec},
        "status": status or {},
    }
    return decode_document(document, "x.yaml")


def service(metadata: dict[str, Any] | None = None, status: dict[str, Any] | None = None, **spec: Any) -> Service:
    """Return the decoded Service; it must have no error (warnings are fine)."""
    decoded = decode(metadata, status, **spec)
    assert not [finding for finding in decoded.findings if finding.severity is Severity.ERROR]
    (value,) = decoded.objects[0].values
    assert isinstance(value, Service)
    return value


def complaints(decoded: Decoded) -> list[tuple[str, str]]:
    return [(finding.field, finding.message.removeprefix("Service shop/web: ")) for finding in decoded.findings]


def addresses(*texts: str) -> tuple[Address, ...]:
    return tuple(map(parse_address, texts))


def test_a_service_as_an_api_server_sends_it() -> None:
    """The shape recorded from an API server 1.36: NodePort, one number for UDP and TCP, managed fields and all."""
    metadata = {
        "uid": "8a516898-fc2a-4e15-921e-a042659582a1",
        "resourceVersion": "31040",
        "creationTimestamp": "2026-11-22T21:26:29Z",
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
        "managedFields": [{"fieldsV1": {"f:spec": {"f:ports": {'k:{"port":53}': {".": {}}}}}}],
    }
    decoded = service(
        metadata,
        {"loadBalancer": {}},
        ports=[
            {"name": "udp", "protocol": "UDP", "port": 53, "targetPort": "dns", "nodePort": 31584},
            {"name": "tcp", "protocol": "TCP", "port": 53, "targetPort": 5353, "nodePort": 31584},
        ],
        clusterIP="10.111.19.115",
        clusterIPs=["10.111.19.115"],
        type="NodePort",
        externalIPs=["198.51.100.7"],
        sessionAffinity="None",
        externalTrafficPolicy="Cluster",
        ipFamilies=["IPv4"],
        ipFamilyPolicy="SingleStack",
        internalTrafficPolicy="Cluster",
        selector={"app": "dns"},
    )

    assert decoded == Service(
        name=ObjectName("shop", "web"),
        created="2026-11-22T21:26:29Z",
        type="NodePort",
        cluster_ips=addresses("10.111.19.115"),
        ports=(ServicePort("udp", Protocol.UDP, 53, 31584), ServicePort("tcp", Protocol.TCP, 53, 31584)),
        external_ips=addresses("198.51.100.7"),
    )


@pytest.mark.parametrize(
    ("metadata", "spec", "skipped"),
    [
        (
            {"labels": {"service.kubernetes.io/service-proxy-name": ""}},
            {},
            "label service.kubernetes.io/service-proxy-name is set",
        ),
        (
            {"labels": {"service.kubernetes.io/service-proxy-name": None}},
            {},
            "label service.kubernetes.io/service-proxy-name is set",
        ),
        ({"labels": {"app": "x"}}, {}, ""),
        ({}, {"type": "ExternalName", "externalName": "example.com"}, "type ExternalName"),
        ({}, {"clusterIP": "None"}, "headless"),
        ({}, {"clusterIP": "None", "clusterIPs": ["None"]}, "headless"),
        ({}, {"clusterIP": ""}, "no clusterIP"),
        ({}, {"clusterIP": None, "clusterIPs": ["10.96.0.3"]}, ""),
    ],
)
def test_skipped_services_say_why(metadata: dict[str, Any], spec: dict[str, Any], skipped: str) -> None:
    """S1 (presence of the label counts, not its value) and S4."""
    assert service(metadata, **spec).skipped == skipped


def test_a_service_that_nobody_gave_an_address_is_pointed_out() -> None:
    """Where no API server assigns addresses, forgetting one is the likeliest mistake."""
    (field, message), *_ = complaints(decode(clusterIP=None))

    assert (field, "write one here" in message) == ("spec.clusterIP", True)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"clusterIP": "10.96.0.1"}, ["10.96.0.1"]),
        ({"clusterIP": "010.096.000.001"}, ["10.96.0.1"]),
        ({"clusterIPs": ["10.96.0.10", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"]}, ["10.96.0.10", "fd00::1"]),
        (
            {"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.96.0.1"], "ipFamilies": ["IPv6", "IPv4"]},
            ["fd00::1", "10.96.0.1"],
        ),
        ({"clusterIPs": ["10.96.0.10"], "ipFamilies": ["IPv4", "IPv6"]}, ["10.96.0.10"]),
        ({"clusterIPs": ["10.96.0.10", "fd00::1"], "ipFamilies": ["IPv4"]}, ["10.96.0.10"]),
        ({"clusterIPs": ["10.96.0.10", "fd00::1"], "ipFamilies": []}, ["10.96.0.10", "fd00::1"]),
        ({"type": "ExternalName", "clusterIP": "10.96.0.1"}, []),
    ],
)
def test_cluster_ips_follow_the_families(spec: dict[str, Any], expected: list[str]) -> None:
    """V1: the position of a family is the position of its address; old objects have no ipFamilies."""
    assert service(**spec).cluster_ips == addresses(*expected)


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({"ports": [{"port": 0}]}, "spec.ports[0].port", "0 is not a port; use 1 to 65535"),
        ({"ports": [{"port": 65536}]}, "spec.ports[0].port", "65536 is not a port; use 1 to 65535"),
        ({"ports": [{"port": -1}]}, "spec.ports[0].port", "-1 is not a port; use 1 to 65535"),
        ({"ports": [{"port": 80.5}]}, "spec.ports[0].port", "expected a whole number, got a number"),
        ({"ports": [{"port": float("nan")}]}, "spec.ports[0].port", "expected a whole number, got a number"),
        ({"ports": [{"port": True}]}, "spec.ports[0].port", "expected a whole number, got true or false"),
        ({"ports": [{}]}, "spec.ports[0].port", "the port is missing; give a number from 1 to 65535"),
        ({"ports": [{"port": 1}, None]}, "spec.ports[1]", "expected a mapping, got nothing"),
        ({"ports": [{"port": 80, "nodePort": 70000}]}, "spec.ports[0].nodePort", "70000 is not a port; use 1 to 65535"),
        (
            {"ports": [{"port": 80, "protocol": "ICMP"}]},
            "spec.ports[0].protocol",
            "'ICMP' is not a protocol; use TCP, UDP or SCTP",
        ),
        (
            {"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]},
            "spec.ports[1].name",
            "'a' is the name of an earlier port; ports need different names",
        ),
        (
            {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]},
            "spec.ports[1].port",
            "80/TCP is in use by an earlier port of this Service",
        ),
        (
            {"ports": [{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30080}]},
            "spec.ports[1].nodePort",
            "30080/TCP is in use by an earlier port of this Service",
        ),
        ({"clusterIP": "10.96.0.300"}, "spec.clusterIP", "'10.96.0.300' is not an IP address"),
        ({"clusterIPs": ["10.96.0.10", "tomcat"]}, "spec.clusterIPs[1]", "'tomcat' is not an IP address"),
        (
            {"clusterIPs": ["10.96.0.10"], "ipFamilies": ["IPv6"]},
            "spec.clusterIPs[0]",
            "10.96.0.10 is IPv4, but spec.ipFamilies[0] is IPv6",
        ),
        (
            {"clusterIPs": ["10.96.0.10", "10.96.0.11"]},
            "spec.clusterIPs[1]",
            "10.96.0.11 is a second IPv4 ClusterIP; a Service has one a family",
        ),
        ({"clusterIPs": ["10.96.0.11"]}, "spec.clusterIP", "'10.96.0.10' is not clusterIPs[0], '10.96.0.11'; make them equal"),
        ({"ipFamilies": ["IPv5"]}, "spec.ipFamilies[0]", "'IPv5' is not one of IPv4, IPv6"),
        ({"type": "clusterip"}, "spec.type", "'clusterip' is not one of ClusterIP, NodePort, LoadBalancer, ExternalName"),
        ({"externalTrafficPolicy": "local"}, "spec.externalTrafficPolicy", "'local' is not one of Cluster, Local"),
        ({"internalTrafficPolicy": "x"}, "spec.internalTrafficPolicy", "'x' is not one of Cluster, Local"),
        ({"sessionAffinity": "Cookie"}, "spec.sessionAffinity", "'Cookie' is not one of None, ClientIP"),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}},
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            "86401 is not a session affinity timeout; use 1 to 86400 seconds",
        ),
        (
            {"loadBalancerSourceRanges": ["192.0.2.0/24", "everybody"]},
            "spec.loadBalancerSourceRanges[1]",
            "'everybody' is not an IP address; write address/length",
        ),
        ({"selector": None, "healthCheckNodePort": 99999}, "spec.healthCheckNodePort", "99999 is not a port; use 1 to 65535"),
    ],
)
def test_a_mistake_that_changes_who_is_served_rejects_the_service(spec: dict[str, Any], field: str, message: str) -> None:
    decoded = decode(**spec)

    assert complaints(decoded) == [(field, message)]
    assert decoded.failed == (("Service", ObjectName("shop", "web")),)
    assert decoded.objects == ()


def test_all_mistakes_of_a_service_are_shown_at_once() -> None:
    decoded = decode(type="x", ports=[{"port": 0}, {"name": "b", "port": 70000}])

    assert [field for field, _ in complaints(decoded)] == ["spec.type", "spec.ports[0].port", "spec.ports[1].port"]


def test_tcp_udp_and_sctp_may_share_a_number() -> None:
    """J1: they are three distinct units."""
    ports = [{"name": name.lower(), "port": 53, "protocol": name} for name in ("TCP", "UDP", "SCTP")]

    assert [port.protocol for port in service(ports=ports).ports] == [Protocol.TCP, Protocol.UDP, Protocol.SCTP]


def test_external_ips_that_are_none_are_skipped_with_a_warning() -> None:
    """V2."""
    decoded = decode(externalIPs=["198.51.100.7", "web.example.com", "198.51.100.07", "2001:db8::7"])

    assert service(externalIPs=["198.51.100.7", "x", "2001:db8::7"]).external_ips == addresses("198.51.100.7", "2001:db8::7")
    assert complaints(decoded) == [("spec.externalIPs[1]", "'web.example.com' is not an IP address; skipped")]
    assert decoded.findings[0].severity is Severity.WARNING
    assert decoded.objects[0].values[0].external_ips == addresses("198.51.100.7", "2001:db8::7")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("ingress", "captured"),
    [
        ({"ip": "203.0.113.9"}, ["203.0.113.9"]),
        ({"ip": "203.0.113.9", "ipMode": None}, ["203.0.113.9"]),
        ({"ip": "203.0.113.9", "ipMode": "VIP"}, ["203.0.113.9"]),
        ({"ip": "203.0.113.9", "ipMode": "Proxy"}, []),
        ({"hostname": "lb.example.com"}, []),
        ({"ip": ""}, []),
    ],
)
def test_only_vip_mode_addresses_are_captured(ingress: dict[str, Any], captured: list[str]) -> None:
    """V3."""
    assert service(None, {"loadBalancer": {"ingress": [ingress]}}, type="LoadBalancer").load_balancer_ips == addresses(*captured)


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        (None, []),
        ([" 192.0.2.7/24 "], ["192.0.2.0/24"]),
        (["192.0.2.0/24", "0.0.0.0/0"], []),
        (["192.0.2.0/24", "::/0"], ["192.0.2.0/24"]),
        (["2001:db8::/32"], ["2001:db8::/32"]),
    ],
)
def test_a_zero_length_source_range_lifts_the_restriction_of_its_family(ranges: list[str] | None, expected: list[str]) -> None:
    """V4: trimmed, host bits masked."""
    assert service(type="LoadBalancer", loadBalancerSourceRanges=ranges).source_ranges == tuple(map(parse_prefix, expected))


@pytest.mark.parametrize(
    ("spec", "external_local"),
    [
        ({"type": "NodePort"}, True),
        ({"type": "LoadBalancer"}, True),
        ({"type": "ClusterIP"}, False),
        ({"type": "ClusterIP", "externalIPs": ["198.51.100.7"]}, True),
    ],
)
def test_the_external_policy_counts_where_there_is_something_external(spec: dict[str, Any], external_local: bool) -> None:
    """V6."""
    assert service(externalTrafficPolicy="Local", **spec).external_policy_local is external_local


def test_the_internal_policy_is_cluster_unless_said() -> None:
    """V7."""
    assert service().internal_policy_local is False
    assert service(internalTrafficPolicy="Local").internal_policy_local is True


@pytest.mark.parametrize(
    ("kind", "policy", "port"), [("LoadBalancer", "Local", 32000), ("LoadBalancer", "Cluster", 0), ("NodePort", "Local", 0)]
)
def test_the_health_check_port_needs_a_local_load_balancer(kind: str, policy: str, port: int) -> None:
    """V8."""
    assert service(type=kind, externalTrafficPolicy=policy, healthCheckNodePort=32000).health_check_node_port == port


@pytest.mark.parametrize(
    ("spec", "timeout_s"),
    [
        ({}, None),
        ({"sessionAffinity": "None", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}, None),
        ({"sessionAffinity": "ClientIP"}, 10800),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}, 1),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86400}}}, 86400),
    ],
)
def test_session_affinity_has_a_timeout(spec: dict[str, Any], timeout_s: int | None) -> None:
    """V9."""
    assert service(**spec).affinity_timeout_s == timeout_s


@pytest.mark.parametrize(
    ("written", "created"),
    [
        ("2026-11-22T21:26:29Z", "2026-11-22T21:26:29Z"),
        ("2026-11-22T23:26:29+02:00", "2026-11-22T21:26:29Z"),
        ("2026-11-22T21:26:29.75Z", "2026-11-22T21:26:29Z"),
        (dt.datetime(2026, 11, 22, 21, 26, 29, tzinfo=dt.UTC), "2026-11-22T21:26:29Z"),
        (dt.datetime(2026, 11, 22, 21, 26, 29), "2026-11-22T21:26:29Z"),  # noqa: DTZ001 (what YAML makes of it)
        (dt.date(2026, 11, 22), "2026-11-22T00:00:00Z"),
        (None, ""),
    ],
)
def test_creation_times_sort_as_text(written: object, created: str) -> None:
    """V11 compares them as text."""
    assert service({"creationTimestamp": written}).created == created


@pytest.mark.parametrize("written", ["yesterday", 7, "0001-01-01T00:00:00+10:00"])
def test_a_creation_time_that_is_none_warns_and_is_unknown(written: object) -> None:
    decoded = decode({"creationTimestamp": written})

    assert complaints(decoded) == [("metadata.creationTimestamp", f"{written!r} is not an RFC 3339 time; treated as unknown")]
    assert decoded.findings[0].severity is Severity.WARNING
    assert decoded.objects[0].values[0].created == ""  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("annotations", "scheduler", "flags"),
    [
        ({}, None, None),
        ({"kpx.io/scheduler": "wlc"}, "wlc", None),
        ({"kpx.io/scheduler": " MH "}, "mh", None),
        ({"kube-router.io/service.scheduler": "lc"}, "lc", None),
        ({"kpx.io/scheduler": "sed", "kube-router.io/service.scheduler": "lc"}, "sed", None),
        ({"kpx.io/scheduler": ""}, None, None),
        ({"kpx.io/scheduler": None}, None, None),
        ({"kpx.io/scheduler": "fifteen_letters"}, "fifteen_letters", None),
        ({"kpx.io/scheduler-flags": "port"}, None, ("port",)),
        ({"kpx.io/scheduler-flags": "Port, fallback"}, None, ("fallback", "port")),
        ({"kpx.io/scheduler-flags": "none"}, None, ()),
        ({"kube-router.io/service.schedflags": "flag-2"}, None, ("port",)),
        ({"kube-router.io/service.schedflags": "flag-1,flag-2,flag-3"}, None, ("fallback", "port")),
        ({"kpx.io/scheduler-flags": "none", "kube-router.io/service.schedflags": "flag-1"}, None, ()),
    ],
)
def test_scheduler_annotations(annotations: dict[str, Any], scheduler: str | None, flags: tuple[str, ...] | None) -> None:
    decoded = decode({"annotations": annotations})

    assert decoded.findings == ()
    assert (decoded.objects[0].values[0].scheduler, decoded.objects[0].values[0].scheduler_flags) == (scheduler, flags)


@pytest.mark.parametrize(
    ("annotations", "field", "message"),
    [
        ({"kpx.io/scheduler": "least conn"}, "kpx.io/scheduler", "'least conn' is not the name of a scheduler; ignored"),
        ({"kpx.io/scheduler": "sixteen_letters_"}, "kpx.io/scheduler", "'sixteen_letters_' is not the name of a scheduler"),
        ({"kpx.io/scheduler": 7}, "kpx.io/scheduler", "7 is no text; ignored, put it in quotes"),
        ({"kpx.io/scheduler": ["rr"]}, "kpx.io/scheduler", "a list is no text; ignored"),
        ({"kube-router.io/service.scheduler": "r/r"}, "kube-router.io/service.scheduler", "'r/r' is not the name"),
        ({"kpx.io/scheduler-flags": "port,quick"}, "kpx.io/scheduler-flags", "'quick' is no flag of a scheduler; ignored"),
        ({"kpx.io/scheduler-flags": "port,"}, "kpx.io/scheduler-flags", "'' is no flag of a scheduler; ignored"),
        ({"kube-router.io/service.schedflags": "flag-4"}, "kube-router.io/service.schedflags", "'flag-4' is no flag"),
    ],
)
def test_a_scheduler_annotation_that_cannot_be_read_is_named_and_ignored(
    annotations: dict[str, Any], field: str, message: str
) -> None:
    """A typing error in an annotation costs a Service nothing but its wish."""
    decoded = decode({"annotations": annotations})
    (finding,) = decoded.findings

    assert (finding.field, finding.severity) == (f"metadata.annotations.{field}", Severity.WARNING)
    assert finding.message.removeprefix("Service shop/web: ").startswith(message)
    assert decoded.objects[0].values == (service(),)


def test_services_with_equal_wishes_share_the_values() -> None:
    """There are thousands of them."""
    first, second = (service({"annotations": {"kpx.io/scheduler": "m" + "h", "kpx.io/scheduler-flags": text}}) for text in
                     ("port,fallback", "fallback,port"))  # fmt: skip

    assert first.scheduler is second.scheduler
    assert first.scheduler_flags is second.scheduler_flags
