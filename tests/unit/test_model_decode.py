"""Documents to model values: kinds, names, lists, and that each mistake is one clear line (sections 1-4 of the contract)."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import yaml

from kpx.model.addresses import parse_address, parse_prefix
from kpx.model.decode import decode_document
from kpx.model.findings import Severity
from kpx.model.names import ObjectName
from kpx.model.node import Node, ServiceCIDR

SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "tomcat", "namespace": "shop"},
    "spec": {"clusterIP": "10.96.0.10", "ports": [{"name": "http", "port": 8080}]},
}


def service(**spec: Any) -> dict[str, Any]:
    return {**SERVICE, "spec": {**SERVICE["spec"], **spec}}


def forms(document: object) -> list[object]:
    """Return a document in the two forms that can be decoded: parsed, and as JSON text."""
    return [document, msgspec.Raw(json.dumps(document).encode())]


@pytest.mark.parametrize("document", forms(SERVICE))
def test_a_service_decodes_from_dicts_and_from_json_text(document: object) -> None:
    decoded = decode_document(document, "shop.yaml")

    assert decoded.findings == ()
    assert [(found.kind, found.name) for found in decoded.objects] == [("Service", ObjectName("shop", "tomcat"))]


def test_both_forms_give_equal_values() -> None:
    assert decode_document(forms(SERVICE)[0], "x") == decode_document(forms(SERVICE)[1], "x")


@pytest.mark.parametrize("document", forms(service(ports=[{"port": "http"}])))
def test_a_wrong_type_is_named_with_its_field_and_the_object_fails(document: object) -> None:
    decoded = decode_document(document, "shop.yaml")

    assert list(map(str, decoded.findings)) == [
        "shop.yaml: spec.ports[0].port: Service shop/tomcat: expected a whole number, got text"
    ]
    assert decoded.failed == (("Service", ObjectName("shop", "tomcat")),)
    assert decoded.objects == ()


def test_without_a_place_the_object_is_the_place() -> None:
    decoded = decode_document(service(ports=[{"port": 70000}]), "")

    assert list(map(str, decoded.findings)) == ["Service shop/tomcat: spec.ports[0].port: 70000 is not a port; use 1 to 65535"]


@pytest.mark.parametrize("document", forms({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "x"}}))
def test_an_unknown_kind_is_one_warning_that_names_it(document: object) -> None:
    decoded = decode_document(document, "shop.yaml (document 3)")

    assert list(map(str, decoded.findings)) == ["shop.yaml (document 3): kind: kind Deployment is not one kpx reads; ignored"]
    assert decoded.findings[0].severity is Severity.WARNING
    assert decoded.failed == ()


def test_a_kind_of_the_same_name_in_another_group_is_unknown() -> None:
    decoded = decode_document({**SERVICE, "apiVersion": "serving.knative.dev/v1"}, "x.yaml")

    assert [finding.message for finding in decoded.findings] == [
        "kind Service of serving.knative.dev/v1 is not one kpx reads; ignored"
    ]
    assert decoded.objects == ()


@pytest.mark.parametrize(
    ("document", "field", "message"),
    [
        ("just text", "", "expected an object with kind and metadata, got text"),
        ([SERVICE], "", "expected an object with kind and metadata, got a list"),
        ({"metadata": {"name": "x"}}, "kind", "the kind is missing; write for example kind: Service"),
        ({"kind": "Service"}, "metadata.name", "Service: the name is missing"),
        (
            {"kind": "Service", "metadata": {"name": "a b"}},
            "metadata.name",
            "Service: default/'a b' is not a name; use letters, digits, '-' and '.'",
        ),
        ({"kind": "Service", "metadata": {"name": 7}}, "metadata.name", "Service: expected text, got a whole number"),
        ({"kind": "Service", "metadata": 7}, "metadata", "Service: expected a mapping, got a whole number"),
        ({"kind": "List", "items": 7}, "items", "expected a list, got a number"),
        ({"kind": "List", "items": [7]}, "items[0]", "expected an object with kind and metadata, got a number"),
        ({"kind": "List", "items": [{"kind": "List"}]}, "items[0].kind", "kind List is not one kpx reads; ignored"),
    ],
)
def test_a_document_that_is_no_object_is_one_clear_line(document: object, field: str, message: str) -> None:
    for form in forms(document):
        decoded = decode_document(form, "x.yaml")

        assert [(finding.field, finding.message) for finding in decoded.findings] == [(field, message)]
        assert decoded.objects == ()
        assert decoded.failed == ()


@pytest.mark.parametrize("document", [None, *forms(None), {"kind": "List"}, *forms({"kind": "List", "items": None})])
def test_nothing_is_nothing(document: object) -> None:
    assert decode_document(document, "x.yaml") == ((), (), ())


def test_one_bad_member_of_a_list_does_not_disturb_the_others() -> None:
    bad = {"kind": "Service", "metadata": {"name": "bad"}, "spec": {"ports": [{"port": 0}], "clusterIP": "10.96.0.99"}}
    good = [{"metadata": {"name": f"s{i}"}, "spec": {"clusterIP": "10.96.0.1"}} for i in range(3)]
    for form in forms({"kind": "ServiceList", "apiVersion": "v1", "items": [good[0], bad, good[1], good[2]]}):
        decoded = decode_document(form, "all.json")

        assert [str(found.name) for found in decoded.objects] == ["default/s0", "default/s1", "default/s2"]
        assert list(map(str, decoded.findings)) == [
            "all.json: items[1].spec.ports[0].port: Service default/bad: 0 is not a port; use 1 to 65535"
        ]
        assert decoded.failed == (("Service", ObjectName("default", "bad")),)


def test_unknown_kinds_of_a_list_are_one_warning_each() -> None:
    pods = [{"kind": "Pod", "metadata": {"name": f"p{i}"}} for i in range(5)]
    decoded = decode_document({"kind": "List", "items": [*pods, SERVICE]}, "all.yaml")

    assert [finding.message for finding in decoded.findings] == ["kind Pod is not one kpx reads; ignored"]
    assert len(decoded.objects) == 1


def test_cluster_scoped_objects_have_no_namespace() -> None:
    decoded = decode_document({"kind": "Node", "metadata": {"name": "n1", "namespace": "odd"}}, "x")

    assert decoded.objects[0].name == ObjectName("", "n1")


def test_a_message_stays_one_short_line_whatever_is_in_the_manifest() -> None:
    decoded = decode_document({**SERVICE, "metadata": {"name": "x\n" * 5000}}, "x.yaml")

    (finding,) = decoded.findings
    assert "\n" not in str(finding)
    assert len(str(finding)) < 400


NODE = """
kind: Node
apiVersion: v1
metadata:
  name: n1
  labels: {topology.kubernetes.io/zone: a, kubernetes.io/os: linux}
spec:
  podCIDR: 10.244.1.0/24
  podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]
status:
  addresses:
  - {type: Hostname, address: n1}
  - {type: ExternalIP, address: 192.0.2.7}
  - {type: InternalIP, address: 10.200.0.2}
  - {type: InternalIP, address: "fd00::2"}
  daemonEndpoints: {kubeletEndpoint: {Port: 0}}
"""


def node(text: str = NODE, **changes: Any) -> Node:
    (found,) = decode_document({**yaml.safe_load(text), **changes}, "n.yaml").objects
    (value,) = found.values
    assert isinstance(value, Node)
    return value


def test_a_node_has_internal_addresses_first() -> None:
    """16.3, and the shape recorded from an API server 1.36."""
    assert node() == Node(
        name=ObjectName("", "n1"),
        addresses=tuple(map(parse_address, ("10.200.0.2", "fd00::2", "192.0.2.7"))),
        pod_cidrs=(parse_prefix("10.244.1.0/24"), parse_prefix("fd00:10:244:1::/64")),
        zone="a",
        eligible=True,
    )


def test_an_old_node_has_one_pod_cidr() -> None:
    assert node(spec={"podCIDR": "10.244.9.0/24"}).pod_cidrs == (parse_prefix("10.244.9.0/24"),)


@pytest.mark.parametrize(
    ("change", "eligible"),
    [
        ({"metadata": {"name": "n1", "deletionTimestamp": "2026-11-22T20:59:02Z"}}, False),
        ({"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}}, False),
        ({"spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}}, True),
    ],
)
def test_a_node_that_is_to_go_is_not_eligible(change: dict[str, Any], eligible: bool) -> None:
    """15.1: NotReady nodes stay eligible."""
    assert node(**change).eligible is eligible


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_service_cidr_decodes(version: str) -> None:
    document = {
        "kind": "ServiceCIDR",
        "apiVersion": f"networking.k8s.io/{version}",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ["10.96.0.0/12", "fd00:1::/108"]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    (found,) = decode_document(document, "x").objects

    assert found.values == (
        ServiceCIDR(ObjectName("", "kubernetes"), (parse_prefix("10.96.0.0/12"), parse_prefix("fd00:1::/108"))),
    )


def test_a_range_that_is_none_rejects_the_service_cidr() -> None:
    decoded = decode_document({"kind": "ServiceCIDR", "metadata": {"name": "x"}, "spec": {"cidrs": ["10.96.0.0/40"]}}, "x.yaml")

    assert list(map(str, decoded.findings)) == [
        "x.yaml: spec.cidrs[0]: ServiceCIDR x: '10.96.0.0/40' is not an address range; write address/length"
    ]
    assert decoded.failed == (("ServiceCIDR", ObjectName("", "x")),)
