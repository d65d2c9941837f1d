"""What a Service has on this node: the count a load balancer is told, and Local policies without an endpoint (H2, C3, 18)."""

from __future__ import annotations

import msgspec
import pytest
from policy_builders import FACTS, TCP, claims_for, compiled, endpoint, one_slice, service

from kpx.model.addresses import Family
from kpx.model.endpointslice import EndpointSlice, SlicePort
from kpx.model.health_check import CheckKind, EndpointHealth, Failing, HealthCheck
from kpx.model.service import ServicePort
from kpx.policy.compile import compile_service
from kpx.policy.desired import NOT_LOCAL, LocalPolicies
from kpx.policy.locality import Locality, locality

V4, V6 = Family.IPV4, Family.IPV6
HERE, THERE = FACTS.name, "other"


def of(*slices: EndpointSlice, internal: bool = False, external: bool = True, ip: tuple[str, ...] = ("10.96.0.1",)) -> Locality:
    asked = service(ip=ip, internal_local=internal, external_local=external)
    return locality(compiled(asked, *slices))[V4]


def test_policies_cluster_ask_for_nothing() -> None:
    program = compiled(service(), one_slice(endpoint("10.244.2.1", node=HERE)))

    assert program.local is NOT_LOCAL
    assert locality(program) == {}


def test_program_says_what_is_asked_of_the_node() -> None:
    asked = msgspec.structs.replace(service(external_local=True), health_check_node_port=30400)

    assert compiled(asked).local == LocalPolicies(external=True, health_check_port=30400)


@pytest.mark.parametrize(
    ("state", "node", "ready"),
    [
        ("ready", HERE, 1),
        ("ready", THERE, 0),
        ("ready", None, 0),
        ("unready", HERE, 0),
        ("draining", HERE, 0),  # H2: although it may still serve
        ("gone", HERE, 0),
    ],
)
def test_only_endpoints_here_and_ready_count(state: str, node: str | None, ready: int) -> None:
    assert of(one_slice(endpoint("10.244.2.1", state, node=node))).ready == ready


def test_hints_do_not_matter() -> None:
    """C3."""
    slices = one_slice(endpoint("10.244.2.1", node=HERE, nodes=(THERE,)), endpoint("10.244.2.2", node=THERE, nodes=(HERE,)))

    assert of(slices).ready == 1


@pytest.mark.parametrize(("panic_percent", "ready"), [(0, 1), (60, 2)])
def test_endpoint_that_fails_its_check_counts_unless_the_check_is_not_believed(panic_percent: int, ready: int) -> None:
    """What the data plane uses is what a load balancer is told."""
    here = [endpoint(f"10.244.2.{number}", node=HERE) for number in (1, 2)]
    check = HealthCheck(CheckKind.TCP, panic_percent=panic_percent)
    asked = msgspec.structs.replace(service(external_local=True), health_check=check)
    health = EndpointHealth(asked.name, (Failing(here[0].address, 8080, "refused"),))
    program = compile_service(asked, [one_slice(*here)], FACTS, claims_for(asked), health=health)

    assert locality(program)[V4].ready == ready


def test_addresses_are_counted_once_over_all_ports() -> None:
    ports = (ServicePort("http", TCP, 80, 0), ServicePort("https", TCP, 443, 0))
    slices = one_slice(
        endpoint("10.244.2.1", node=HERE),
        endpoint("10.244.2.2", node=HERE),
        ports=(SlicePort("http", TCP, 8080), SlicePort("https", TCP, 8443)),
    )

    assert locality(compiled(service(ports=ports, external_local=True), slices))[V4].ready == 2


def test_families_are_counted_apart() -> None:
    six = one_slice(endpoint("fd00::1", node=HERE), endpoint("fd00::2", node=HERE), name="six")
    four = one_slice(endpoint("10.244.2.1", node=HERE), name="four")
    program = compiled(service(ip=("10.96.0.1", "fd01::1"), external_local=True), six, four)

    assert {family: one.ready for family, one in locality(program).items()} == {V4: 1, V6: 2}


@pytest.mark.parametrize(
    ("endpoints", "lacking"),
    [
        ((), False),  # no endpoint anywhere is another complaint
        ((("ready", THERE),), True),
        ((("ready", THERE), ("ready", HERE)), False),
        ((("ready", THERE), ("draining", HERE)), False),  # C3: used as long as none here is ready
        ((("ready", THERE), ("unready", HERE)), True),
        ((("draining", THERE),), True),
        ((("unready", THERE),), False),
    ],
)
def test_local_policy_lacks_when_all_usable_endpoints_are_elsewhere(endpoints: tuple[tuple[str, str]], lacking: bool) -> None:
    listed = one_slice(*(endpoint(f"10.244.2.{n}", state, node=node) for n, (state, node) in enumerate(endpoints, 1)))

    assert of(listed).external_lacks is lacking
    assert of(listed, internal=True, external=False) == Locality(of(listed).ready, internal_lacks=lacking)
