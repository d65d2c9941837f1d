"""EndpointSlices and Endpoints: contract sections 2 and 3."""

from __future__ import annotations

from typing import Any

import pytest

from kpx.model.addresses import Family, parse_address
from kpx.model.decode import Decoded, decode_document
from kpx.model.endpointslice import Endpoint, EndpointSlice, SlicePort
from kpx.model.findings import Severity
from kpx.model.names import ObjectName, Protocol

TOMCAT = ObjectName("shop", "tomcat")


def decode(labels: dict[str, Any] | None = None, **fields: Any) -> Decoded:
    document = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "tomcat-abc",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "tomcat"} if labels is None else labels,
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [],
        **fields,
    }
    return decode_document(document, "x.yaml")


def values(decoded: Decoded) -> tuple[EndpointSlice, ...]:
    (found,) = decoded.objects
    return found.values  # type: ignore[return-value]


def endpoints(*listed: dict[str, Any], **fields: Any) -> tuple[Endpoint, ...]:
    return values(decode(endpoints=list(listed), **fields))[0].endpoints


def complaints(decoded: Decoded) -> list[tuple[str, str]]:
    return [(finding.field, finding.message.partition(": ")[2]) for finding in decoded.findings]


def test_a_slice_as_an_api_server_sends_it() -> None:
    """The endpoints recorded from an API server 1.36, hints included."""
    ready = {"ready": True, "serving": True, "terminating": False}
    decoded = decode(
        metadata={
            "name": "tomcat-abc",
            "namespace": "shop",
            "generation": 1,
            "labels": {"kubernetes.io/service-name": "tomcat"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-11-22T21:27:07.5Z"},
        },
        endpoints=[
            {"addresses": ["10.244.2.204"], "conditions": ready, "nodeName": "n1", "zone": "a", "targetRef": {"kind": "Pod"}},
            {
                "addresses": ["10.244.2.205", "10.244.2.206"],
                "conditions": {"ready": False, "serving": True, "terminating": True},
                "nodeName": "n2",
                "zone": "b",
                "hints": {"forZones": [{"name": "b"}], "forNodes": [{"name": "n2"}, {"name": "n3"}]},
            },
        ],
    )

    assert decoded.findings == ()
    assert values(decoded) == (
        EndpointSlice(
            name=ObjectName("shop", "tomcat-abc"),
            service=TOMCAT,
            family=Family.IPV4,
            ports=(SlicePort("http", Protocol.TCP, 8080),),
            endpoints=(
                Endpoint(parse_address("10.244.2.204"), node_name="n1", zone="a"),
                Endpoint(parse_address("10.244.2.205"), False, True, True, "n2", "b", ("b",), ("n2", "n3")),
            ),
            trigger_time="2026-11-22T21:27:07.5Z",
        ),
    )


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (None, (True, True, False)),
        ({}, (True, True, False)),
        ({"ready": None, "serving": None, "terminating": None}, (True, True, False)),
        ({"ready": False, "serving": False, "terminating": True}, (False, False, True)),
    ],
)
def test_conditions_have_defaults(conditions: dict[str, Any] | None, expected: tuple[bool, bool, bool]) -> None:
    """E1."""
    (endpoint,) = endpoints({"addresses": ["10.0.0.1"], "conditions": conditions})

    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"name": "http", "port": 80}, [SlicePort("http", Protocol.TCP, 80)]),
        ({"name": "", "port": 80, "protocol": "UDP"}, [SlicePort("", Protocol.UDP, 80)]),
        ({"port": 80, "protocol": None}, [SlicePort("", Protocol.TCP, 80)]),
        ({"name": None, "port": 80}, []),
        ({"name": "http", "port": None}, []),
        ({"name": "http", "port": 0}, []),
        ({"name": "http"}, []),
    ],
)
def test_a_slice_port_needs_a_name_and_a_number(written: dict[str, Any], expected: list[SlicePort]) -> None:
    """J3; an absent name is what an API server would have made "", only a null one is ignored."""
    assert list(values(decode(ports=[written]))[0].ports) == expected


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"ports": [{"name": "a", "port": 70000}]}, "ports[0].port", "70000 is not a port; use 1 to 65535"),
        (
            {"ports": [{"name": "a", "port": 1, "protocol": "tcp"}]},
            "ports[0].protocol",
            "'tcp' is not a protocol; use TCP, UDP or SCTP",
        ),
        ({"addressType": "IP"}, "addressType", "'IP' is not one of IPv4, IPv6, FQDN"),
        ({"addressType": None}, "addressType", "the address type is missing; write IPv4 or IPv6"),
        ({"endpoints": [{"addresses": "10.0.0.1"}]}, "endpoints[0].addresses", "expected a list, got text"),
        ({"endpoints": [{"addresses": [1]}]}, "endpoints[0].addresses[0]", "expected text, got a whole number"),
        (
            {"labels": {"kubernetes.io/service-name": 7}},
            "metadata.labels.kubernetes.io/service-name",
            "expected text, got a whole number",
        ),
    ],
)
def test_a_mistake_in_the_slice_rejects_it(fields: dict[str, Any], field: str, message: str) -> None:
    decoded = decode(**fields)

    assert complaints(decoded) == [(field, message)]
    assert decoded.failed == (("EndpointSlice", ObjectName("shop", "tomcat-abc")),)


def test_an_address_of_the_wrong_family_is_left_out_and_nothing_else() -> None:
    decoded = decode(endpoints=[{"addresses": ["fd00::1"]}, {"addresses": ["10.0.0.1"]}, {"addresses": ["x"]}, {"addresses": []}])

    assert [(finding.field, finding.severity) for finding in decoded.findings] == [
        ("endpoints[0].addresses[0]", Severity.ERROR),
        ("endpoints[2].addresses[0]", Severity.ERROR),
        ("endpoints[3].addresses", Severity.WARNING),
    ]
    assert complaints(decoded)[0][1] == "fd00::1 is IPv6, but addressType is IPv4; the endpoint is ignored"
    assert [endpoint.address for endpoint in values(decoded)[0].endpoints] == [parse_address("10.0.0.1")]


def test_addresses_are_read_sloppily() -> None:
    """J7: leading zeros are decimal, spellings do not matter."""
    assert endpoints({"addresses": ["010.000.0.9"]}) == (Endpoint(parse_address("10.0.0.9")),)
    assert endpoints({"addresses": ["FD00:0::1"]}, addressType="IPv6") == (Endpoint(parse_address("fd00::1")),)


@pytest.mark.parametrize(
    ("labels", "fields", "skipped", "service"),
    [
        ({}, {}, "label kubernetes.io/service-name is missing", None),
        ({"kubernetes.io/service-name": ""}, {}, "label kubernetes.io/service-name is missing", None),
        (
            {"kubernetes.io/service-name": "tomcat", "service.kubernetes.io/headless": ""},
            {},
            "label service.kubernetes.io/headless is set",
            TOMCAT,
        ),
        ({"kubernetes.io/service-name": "tomcat"}, {"addressType": "FQDN"}, "addressType FQDN", TOMCAT),
    ],
)
def test_skipped_slices_say_why(labels: dict[str, Any], fields: dict[str, Any], skipped: str, service: ObjectName | None) -> None:
    """J2, S2, J8."""
    (value,) = values(decode(labels, **fields))

    assert (value.skipped, value.service) == (skipped, service)


def test_a_v1beta1_slice_keeps_node_and_zone_in_its_topology() -> None:
    topology = {"kubernetes.io/hostname": "n1", "topology.kubernetes.io/zone": "a"}
    (endpoint,) = endpoints({"addresses": ["10.0.0.1"], "topology": topology}, apiVersion="discovery.k8s.io/v1beta1")

    assert (endpoint.node_name, endpoint.zone) == ("n1", "a")


def test_a_trigger_time_that_is_none_warns() -> None:
    """E10."""
    annotations = {"endpoints.kubernetes.io/last-change-trigger-time": "soon"}
    labels = {"kubernetes.io/service-name": "x"}
    decoded = decode(metadata={"name": "x", "labels": labels, "annotations": annotations})

    assert [finding.severity for finding in decoded.findings] == [Severity.WARNING]
    assert values(decoded)[0].trigger_time is None


def endpoints_object(*subsets: dict[str, Any]) -> Decoded:
    document = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "tomcat", "namespace": "shop"},
        "subsets": list(subsets),
    }
    return decode_document(document, "x.yaml")


def test_endpoints_become_one_slice_per_subset_and_family() -> None:
    decoded = endpoints_object(
        {
            "addresses": [{"ip": "10.0.0.1", "nodeName": "n1"}, {"ip": "fd00::1"}],
            "notReadyAddresses": [{"ip": "10.0.0.2"}],
            "ports": [{"name": "http", "port": 8080}],
        },
        {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"port": 9090}]},
    )

    assert decoded.findings == ()
    assert [(found.kind, found.name) for found in decoded.objects] == [("Endpoints", TOMCAT)]
    assert values(decoded) == (
        EndpointSlice(
            ObjectName("shop", "tomcat (Endpoints 1 IPv4)"),
            TOMCAT,
            Family.IPV4,
            (SlicePort("http", Protocol.TCP, 8080),),
            (
                Endpoint(parse_address("10.0.0.1"), node_name="n1"),
                Endpoint(parse_address("10.0.0.2"), ready=False, serving=False),
            ),
        ),
        EndpointSlice(
            ObjectName("shop", "tomcat (Endpoints 1 IPv6)"),
            TOMCAT,
            Family.IPV6,
            (SlicePort("http", Protocol.TCP, 8080),),
            (Endpoint(parse_address("fd00::1")),),
        ),
        EndpointSlice(
            ObjectName("shop", "tomcat (Endpoints 2 IPv4)"),
            TOMCAT,
            Family.IPV4,
            (SlicePort("", Protocol.TCP, 9090),),
            (Endpoint(parse_address("10.0.0.3")),),
        ),
    )


def test_endpoints_without_addresses_are_an_object_without_slices() -> None:
    assert values(endpoints_object()) == ()


def test_a_bad_address_of_endpoints_is_named() -> None:
    decoded = endpoints_object({"addresses": [{"ip": "10.0.0.1"}, {"ip": "pod"}], "ports": [{"port": 1}]})

    assert complaints(decoded) == [("subsets[0].addresses[1].ip", "'pod' is not an IP address; ignored")]
    assert len(values(decoded)[0].endpoints) == 1
