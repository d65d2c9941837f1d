"""Explain: what a person on call reads about one packet."""

from __future__ import annotations

import json

import msgspec
import pytest
from policy_builders import (
    FACTS,
    HOST,
    HTTP,
    TCP,
    UDP,
    claims_for,
    endpoint,
    named,
    one_slice,
    parse_address,
    parse_prefix,
    printed,
    service,
)

from kpx.model.addresses import Family
from kpx.model.endpointslice import EndpointSlice
from kpx.model.facts import DetectLocal, LocalDetector, NodeFacts
from kpx.model.names import ObjectName, PortName
from kpx.model.node import ServiceCIDR
from kpx.model.service import Service, ServicePort
from kpx.policy.compile import compile_service
from kpx.policy.desired import Source
from kpx.policy.explain import explain
from kpx.policy.story import Packet, Story

CIDR = ServiceCIDR(ObjectName("", "kubernetes"), (parse_prefix("10.96.0.0/16"), parse_prefix("192.0.2.96/28")))
READY = one_slice(endpoint("10.244.1.1", node="n1"), endpoint("10.244.2.1"), endpoint("10.244.2.2", "unready"))
PLAIN = (HTTP._replace(node_port=0),)


def ask(
    where: str,
    *services: Service,
    source: str | None = None,
    slices: tuple[EndpointSlice, ...] = (READY,),
    facts: NodeFacts = FACTS,
) -> Story:
    """Ask about `address port protocol`; the slices belong to the first Service."""
    claims = claims_for(*services)
    programs = [compile_service(one, slices if one is services[0] else (), facts, claims) for one in reversed(services)]
    address, port, protocol = where.split()
    packet = Packet(
        parse_address(address), int(port), {"tcp": TCP, "udp": UDP}[protocol], None if source is None else parse_address(source)
    )
    return explain(packet, programs, {one.name: one for one in services}, facts, (CIDR,), claims, HOST)


def test_a_pod_that_asks_a_cluster_ip() -> None:
    story = ask("10.96.0.1 80 tcp", service(affinity=60), source="10.244.7.7")

    assert story.steps == (
        "10.96.0.1:80/TCP is the ClusterIP of Service shop/web, port http.",
        "The source 10.244.7.7 counts as a pod: it lies in 10.244.0.0/16, the range of pod addresses.",
        "New flows go to the cluster pool (endpoints of all nodes): 2 of 3, ready; left out: 1 not ready.",
        "The endpoint sees the client's own address: pods answer each other directly.",
        "A client stays on its endpoint until 60 s after its last new flow (session affinity ClientIP),"
        " at whichever address of this service port it asks.",
    )
    assert (story.verdict, story.pool, story.masquerade, story.source_kind) == ("forward", "cluster", False, Source.POD)
    assert story.service == PortName(named("shop/web"), "http", TCP)
    assert printed(fate.backend for fate in story.endpoints if fate.chosen) == ["10.244.1.1:8080", "10.244.2.1:8080"]


def test_a_client_outside_that_asks_a_node_port() -> None:
    story = ask("192.0.2.1 30080 tcp", service(), source="198.51.100.7")

    assert story.steps == (
        "192.0.2.1 answers on node ports here, and 30080/TCP is the node port of Service shop/web, port http.",
        "The source 198.51.100.7 is outside: neither in 10.244.0.0/16, the range of pod addresses, nor an address of this node.",
        "New flows go to the cluster pool (endpoints of all nodes): 2 of 3, ready; left out: 1 not ready.",
        "The endpoint sees an address of this node as source: what comes in by a node port or an external address must go back"
        " the same way.",
    )
    assert (story.masquerade, story.source_kind) == (True, Source.OUTSIDE)


@pytest.mark.parametrize("source", ["192.0.2.99", "127.0.0.1"])
def test_an_address_of_this_node_is_the_host(source: str) -> None:
    story = ask("10.96.0.1 80 tcp", service(), source=source)

    assert (story.source_kind, story.masquerade) == (Source.HOST, True)


def test_without_a_source_every_kind_is_told() -> None:
    story = ask("10.96.0.1 80 tcp", service())

    assert story.masquerade is None
    assert story.verdict == "forward"
    assert "From a pod: the endpoint sees the client's own address: pods answer each other directly." in story.steps
    assert any(step.startswith("From this node or outside: the endpoint sees an address of this node") for step in story.steps)


def test_the_interface_of_a_packet_cannot_be_told_from_its_address() -> None:
    facts = NodeFacts("n1", local_detector=LocalDetector(DetectLocal.BRIDGE_INTERFACE, interface="cni0"))
    story = ask("10.96.0.1 80 tcp", service(), source="10.244.7.7", facts=facts)

    assert story.source_kind is None
    assert "told by the interface" in story.steps[1]


def test_without_a_detector_nobody_is_masqueraded_and_it_says_why() -> None:
    """6.2."""
    story = ask("10.96.0.1 80 tcp", service(), source="10.244.7.7", facts=NodeFacts("n1"))

    assert story.masquerade is False
    assert "no range of pod addresses is set" in story.steps[1]
    assert story.steps[-1].endswith("no range of pod addresses is set, so ClusterIP traffic is never masqueraded.")


def test_an_endpoint_that_may_reach_itself() -> None:
    """M16."""
    story = ask("10.96.0.1 80 tcp", service(), source="10.244.1.1")
    alone = ask("10.96.0.1 80 tcp", service(), source="10.244.1.1", slices=(one_slice(endpoint("10.244.1.1", node="n1")),))

    assert "The client is one of the endpoints: when it reaches itself, it sees an address of this node as source." in story.steps
    assert (story.masquerade, alone.masquerade) == (None, True)


def test_no_usable_endpoint_is_refused_with_the_reasons() -> None:
    slices = (one_slice(endpoint("10.244.1.1", "unready"), endpoint("10.244.1.2", "gone"), endpoint("10.244.1.3", "unready")),)
    story = ask("10.96.0.1 80 tcp", service(), slices=slices)

    assert story.verdict == "reject"
    assert story.steps[-1] == (
        "New flows are refused at once (port unreachable): none of 3 endpoints can be used"
        " (2 not ready; 1 terminating and no longer serving)."
    )
    assert len(story.endpoints) == 3


def test_no_endpoint_at_all_says_what_a_slice_would_have_to_list() -> None:
    story = ask("10.96.0.1 80 tcp", service(), slices=())

    assert story.steps[-1] == (
        "New flows are refused at once (port unreachable): no EndpointSlice of shop/web lists an endpoint"
        " on a port named 'http' with protocol TCP for IPv4."
    )


def test_terminating_endpoints_in_use_are_said() -> None:
    story = ask("10.96.0.1 80 tcp", service(), slices=(one_slice(endpoint("10.244.1.1", "draining")),))

    assert "1 of 1, terminating but still serving, as none is ready." in story.steps[2]


def test_an_unknown_port_of_a_cluster_ip_lists_the_ports_there_are() -> None:
    """R5."""
    ports = (ServicePort("http", TCP, 80, 0), ServicePort("", UDP, 53, 0))
    story = ask("10.96.0.1 81 tcp", service(ports=ports))

    assert story.verdict == "reject"
    assert story.steps[0] == (
        "10.96.0.1 is the ClusterIP of Service shop/web, which has no port 81/TCP: it has 80/TCP (http), 53/UDP."
    )
    assert story.service is None


def test_an_address_of_a_service_range_that_nobody_owns_is_dropped() -> None:
    """R6."""
    story = ask("10.96.0.200 80 tcp", service())

    assert story.verdict == "drop"
    assert "ServiceCIDR kubernetes" in story.steps[0]


def test_an_address_of_this_host_is_never_dropped() -> None:
    """R6: although it lies in a service range."""
    assert ask("192.0.2.99 22 tcp", service()).verdict == "pass"
    assert ask("192.0.2.98 22 tcp", service()).verdict == "drop"


def test_an_external_ip_inside_a_service_range_is_not_dropped_on_other_ports() -> None:
    """R6, R7."""
    story = ask("10.96.7.7 443 tcp", service(eip=("10.96.7.7",)))

    assert story.verdict == "pass"
    assert "10.96.7.7 is an external address of Service shop/web, but only for 80/TCP (http)." in story.steps


def test_a_foreign_address_is_left_alone() -> None:
    story = ask("203.0.113.50 80 tcp", service())

    assert story.steps == (
        "No Service is reached at 203.0.113.50:80/TCP on this node.",
        "kpx leaves the packet alone: it is routed as usual.",
    )
    assert story.verdict == "pass"


def test_a_node_port_of_an_address_that_does_not_answer() -> None:
    """N2, N7."""
    story = ask("192.0.2.99 30080 tcp", service())

    assert story.verdict == "pass"
    assert story.steps[1] == ("30080/TCP is a node port of Service shop/web, but not on 192.0.2.99: only 192.0.2.1 answers here.")


def test_every_address_of_the_host_but_loopback_may_answer_on_node_ports() -> None:
    """N4."""
    anywhere = NodeFacts("n1", node_port_any=frozenset(Family))

    assert ask("192.0.2.99 30080 tcp", service(), facts=anywhere).verdict == "forward"
    assert ask("127.0.0.1 30080 tcp", service(), facts=anywhere).verdict == "pass"
    assert ask("192.0.2.50 30080 tcp", service(), facts=anywhere).verdict == "pass"


def test_an_exact_address_wins_over_a_node_port() -> None:
    """V12."""
    exact = service("a/exact", "10.96.0.2", eip=("192.0.2.1",), ports=(ServicePort("", TCP, 30080, 0),))
    story = ask("192.0.2.1 30080 tcp", service(), exact)

    assert story.service is not None
    assert story.service.service == named("a/exact")
    assert story.steps[1] == (
        "30080/TCP is also a node port of Service shop/web, which does not answer on 192.0.2.1: an exact address wins."
    )


def test_an_exact_address_that_answers_on_no_node_port_wins_over_nothing() -> None:
    """V12 says something only where both would catch the packet."""
    ports = (ServicePort("", TCP, 30080, 0),)
    elsewhere = service("a/exact", "10.96.0.2", eip=("203.0.113.9",), ports=ports)
    other_family = service("a/exact", ("10.96.0.2", "fd00:96::2"), eip=("fd00::1",), ports=ports)
    both = msgspec.structs.replace(FACTS, node_port_addresses=FACTS.node_port_addresses | {parse_address("fd00::1")})

    assert not any("also a node port" in step for step in ask("203.0.113.9 30080 tcp", service(), elsewhere).steps)
    assert not any("also a node port" in step for step in ask("fd00::1 30080 tcp", service(), other_family, facts=both).steps)


def test_addresses_that_are_listed_are_all_that_answer() -> None:
    """P4: a data plane that needs a row an address leaves link-local ones out."""
    listed = NodeFacts("n1", node_port_any=frozenset(Family), node_port_addresses=frozenset({parse_address("192.0.2.1")}))

    assert ask("192.0.2.1 30080 tcp", service(), facts=listed).verdict == "forward"
    assert ask("192.0.2.99 30080 tcp", service(), facts=listed).steps[1].endswith("only 192.0.2.1 answers here.")


def test_a_scheduler_that_is_missing_is_said() -> None:
    wish = msgspec.structs.replace(service(), scheduler="mh")
    story = ask("10.96.0.1 80 tcp", wish, facts=msgspec.structs.replace(FACTS, missing_schedulers=frozenset({"mh"})))

    assert any(
        step.startswith("Note: metadata.annotations.kpx.io/scheduler: this kernel has no scheduler 'mh'") for step in story.steps
    )
    assert not any("scheduler" in step for step in ask("10.96.0.1 80 tcp", wish).steps)


def test_a_skipped_service_says_why() -> None:
    story = ask("10.96.0.1 80 tcp", service(skipped="label service.kubernetes.io/service-proxy-name is set"))

    assert story.verdict == "drop"
    assert story.steps[1] == (
        "Service shop/web names 10.96.0.1, but kpx leaves it alone: label service.kubernetes.io/service-proxy-name is set."
    )


def test_a_lost_claim_names_both() -> None:
    older = service("a/old", "10.96.0.2", eip=("198.51.100.1",), created="2023-01-01T00:00:00Z", ports=PLAIN)
    story = ask("198.51.100.1 80 tcp", older, service(eip=("198.51.100.1",)))

    assert story.service is not None
    assert story.service.service == named("a/old")
    assert story.steps[1] == "Service shop/web asks for it too; it belongs to a/old, which is older."


def test_a_lost_cluster_ip_is_told_for_a_port_only_the_loser_has() -> None:
    older = service("a/old", created="2023-01-01T00:00:00Z", ports=PLAIN)
    loser = service(ports=(ServicePort("", TCP, 81, 0),))
    story = ask("10.96.0.1 81 tcp", older, loser)

    assert story.verdict == "reject"
    assert "Service shop/web asks for it too; it belongs to a/old, which is older." in story.steps


def test_an_external_ip_that_is_not_admitted() -> None:
    """V2."""
    facts = msgspec.structs.replace(FACTS, external_ip_ranges=(parse_prefix("198.51.100.0/24"),))
    story = ask("203.0.113.1 80 tcp", service(eip=("203.0.113.1",)), facts=facts)

    assert story.verdict == "pass"
    assert "external IPs outside of --external-ip-ranges are not answered" in story.steps[1]


def test_policy_local_tells_sources_apart() -> None:
    """M9, M10, M11."""
    slices = (one_slice(endpoint("10.244.2.1")),)
    story = ask("192.0.2.1 30080 tcp", service(external_local=True), slices=slices)

    assert story.verdict == "drop"
    assert any(step.startswith("From a pod or this node: new flows go to the cluster pool") for step in story.steps)
    assert any(step.startswith("From outside: new flows are dropped without an answer") for step in story.steps)
    assert (
        "From a pod: the endpoint sees the client's own address: that is what externalTrafficPolicy Local is for." in story.steps
    )


def test_the_local_pool_has_reasons_of_its_own() -> None:
    story = ask("192.0.2.1 30080 tcp", service(external_local=True), source="198.51.100.7")

    assert story.pool == "local"
    assert [(str(fate.backend), fate.chosen, fate.reason.value) for fate in story.endpoints] == [
        ("10.244.1.1:8080", True, "ready"),
        ("10.244.2.1:8080", False, "on another node, and the policy is Local"),
        ("10.244.2.2:8080", False, "on another node, and the policy is Local"),
    ]


def test_source_ranges_keep_others_out() -> None:
    """F2, F3."""
    one = service(lb=("203.0.113.1",), ranges=("198.51.100.0/24",))

    assert ask("203.0.113.1 80 tcp", one, source="198.51.100.7").verdict == "forward"
    assert ask("203.0.113.1 80 tcp", one, source="192.0.2.7").verdict == "drop"


def test_a_family_that_is_not_programmed_and_a_mixed_packet() -> None:
    four_only = NodeFacts("n1", families=(Family.IPV4,))

    assert ask("fd00::1 80 tcp", service(), facts=four_only).verdict == "pass"
    assert "two IP families" in ask("10.96.0.1 80 tcp", service(), source="fd00::7").steps[0]


def test_a_story_is_plain_values() -> None:
    story = ask("10.96.0.1 80 tcp", service(), source="10.244.7.7")
    plain = json.loads(json.dumps(story.to_json()))

    assert plain["service"] == "shop/web:http/TCP"
    assert plain["frontend"] == "10.96.0.1:80/TCP"
    assert plain["endpoints"][0] == {
        "endpoint": "10.244.1.1:8080",
        "chosen": True,
        "reason": "ready",
        "local": True,
        "slice": "web-1",
    }
    assert plain["steps"] == list(story.steps)
