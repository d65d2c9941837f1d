"""Two states of the kernel compared in words."""

from __future__ import annotations

from kpx.cli.differences import frontend_sentences, sentences
from kpx.dataplanes.base import KernelFrontend, KernelVerdict
from kpx.dataplanes.nftables.plane import NftablesDataplane
from kpx.model.addresses import Family, parse_address, parse_prefix
from kpx.model.endpointslice import Endpoint, EndpointSlice, SlicePort
from kpx.model.facts import NodeFacts
from kpx.model.names import ObjectName, PortName, Protocol
from kpx.model.service import Service, ServicePort
from kpx.policy.claims import Claims
from kpx.policy.compile import compile_service
from kpx.policy.desired import Backend, Frontend, FrontendKind
from kpx.reconcile.diff import diff
from kpx.reconcile.rows import Rows

WEB = ObjectName("shop", "web")
FRONTEND = Frontend(Family.IPV4, parse_address("10.96.0.10"), Protocol.TCP, 80)
NAMES = {FRONTEND: PortName(WEB, "http", Protocol.TCP)}
A, B = Backend(parse_address("10.1.0.7"), 8080), Backend(parse_address("10.1.0.8"), 8080)
BOTH, FIRST, REFUSED = KernelVerdict("forward", (A, B)), KernelVerdict("forward", (A,)), KernelVerdict("reject")
HELD = KernelFrontend(FRONTEND, FrontendKind.CLUSTER_IP, BOTH, BOTH, BOTH)
FEWER = KernelFrontend(FRONTEND, FrontendKind.CLUSTER_IP, FIRST, FIRST, FIRST)


def rows_of(*endpoints: str) -> Rows:
    """Return the rows of one Service with these endpoints."""
    service = Service(WEB, cluster_ips=(FRONTEND.address,), ports=(ServicePort("http", Protocol.TCP, 80, 0),))
    port = SlicePort("http", Protocol.TCP, 8080)
    members = tuple(Endpoint(parse_address(text)) for text in endpoints)
    claims = Claims()
    claims.update(WEB, service)
    one = EndpointSlice(ObjectName("shop", "web-1"), WEB, Family.IPV4, (port,), members)
    facts = NodeFacts("n1", families=(Family.IPV4,))
    return NftablesDataplane().render_service(compile_service(service, (one,), facts, claims), facts)


def told(actual: Rows, desired: Rows) -> list[str]:
    """Return what is said of two sets of rows."""
    plane = NftablesDataplane()
    return list(sentences(diff(actual, desired), plane.frontends_of(actual), plane.frontends_of(desired), NAMES, plane))


def test_equal_frontends_give_no_sentence() -> None:
    assert frontend_sentences(HELD, HELD) == []


def test_order_of_endpoints_is_no_difference_in_words() -> None:
    assert frontend_sentences(HELD, HELD._replace(pod=KernelVerdict("forward", (B, A)))) == []


def test_each_difference_of_a_frontend_is_said() -> None:
    assert frontend_sentences(None, HELD) == ["10.96.0.10:80/TCP is missing from the kernel"]
    assert frontend_sentences(HELD, None) == ["10.96.0.10:80/TCP is in the kernel, and no Service asks for it"]
    assert frontend_sentences(FEWER, HELD) == ["endpoint 10.1.0.8:8080 is missing from 10.96.0.10:80/TCP"]
    assert frontend_sentences(HELD, FEWER) == ["endpoint 10.1.0.8:8080 is in 10.96.0.10:80/TCP, and should not be"]
    assert len(frontend_sentences(HELD._replace(affinity_timeout_s=60), HELD)) == 1
    refused = HELD._replace(pod=REFUSED, host=REFUSED, outside=REFUSED)
    assert frontend_sentences(refused, HELD)[0] == "10.96.0.10:80/TCP does reject in the kernel, and should forward"
    assert frontend_sentences(HELD._replace(source_ranges=(parse_prefix("10.0.0.0/8"),)), HELD) == [
        "10.96.0.10:80/TCP lets 10.0.0.0/8 pass in the kernel, and should let everybody pass"
    ]


def test_what_differs_for_some_kinds_of_source_says_for_which() -> None:
    seen = BOTH._replace(masquerade=True)
    assert frontend_sentences(HELD._replace(host=seen, outside=seen), HELD) == [
        "10.96.0.10:80/TCP rewrites the source address in the kernel, and should not, asked from this node or outside"
    ]
    assert frontend_sentences(HELD._replace(outside=FIRST), HELD) == [
        "endpoint 10.1.0.8:8080 is missing from 10.96.0.10:80/TCP, asked from outside"
    ]


def test_missing_endpoint_is_told_with_its_service() -> None:
    assert "Service shop/web: endpoint 10.1.0.8:8080 is missing from 10.96.0.10:80/TCP" in told(
        rows_of("10.1.0.7"), rows_of("10.1.0.7", "10.1.0.8")
    )


def test_equal_rows_give_no_sentence() -> None:
    assert told(rows_of("10.1.0.7"), rows_of("10.1.0.7")) == []


def test_rows_that_no_frontend_accounts_for_are_counted() -> None:
    desired = rows_of("10.1.0.7")
    actual = {table: dict(content) for table, content in desired.items()}
    removed = next(table for table in actual if table.name == "cluster-ips")
    actual[removed].clear()

    assert told(actual, desired) == ["1 row of ip cluster-ips is missing"]
    assert told(desired, actual) == ["1 row of ip cluster-ips is in the kernel, and nothing asks for it"]


def test_rows_of_a_frontend_that_looks_right_are_told_with_its_service() -> None:
    desired = rows_of("10.1.0.7", "10.1.0.8")
    actual = {table: dict(content) for table, content in desired.items()}
    slots = actual[next(table for table in actual if table.name == "endpoints")]
    first, second = slots
    slots[first], slots[second] = slots[second], slots[first]

    assert told(actual, desired) == ["Service shop/web: 2 rows of ip endpoints have other values in the kernel"]
