"""What becomes of endpoints that fail their health check: out, with others in their place, unless too few would be left."""

from __future__ import annotations

import msgspec
import pytest
from policy_builders import FACTS, TCP, UDP, compiled, endpoint, named, one_slice, only_port, pod_backends, printed, service

from kpx.model.addresses import parse_address
from kpx.model.endpointslice import Endpoint, SlicePort
from kpx.model.health_check import CheckKind, EndpointHealth, Failing, HealthCheck
from kpx.model.service import Service, ServicePort
from kpx.policy.checked import Checked
from kpx.policy.claims import Claims
from kpx.policy.compile import compile_service
from kpx.policy.desired import Backend, Reason, ServiceProgram
from kpx.policy.eligibility import Eligible, choose, in_local_pool, join
from kpx.policy.explain import explain
from kpx.policy.story import Packet, Story

A, B, C = (Backend(parse_address(f"10.244.1.{number}"), 8080) for number in (1, 2, 3))
WHY = "connection refused, 2 in a row"


def chosen(*endpoints: Endpoint, failing: tuple[Backend, ...] = (A,), panic: int = 0) -> Eligible:
    listed = join([one_slice(*endpoints)], "http", TCP)
    return choose(listed, FACTS, Checked(dict.fromkeys(failing, WHY), panic), uses_cluster=True, uses_local=True)


def fates(eligible: Eligible) -> list[tuple[bool, Reason]]:
    return [(fate.chosen, fate.reason) for fate in eligible.considered]


IN, OUT = (True, Reason.READY), (False, Reason.FAILED)
ONE, TWO, THREE = (endpoint(f"10.244.1.{number}", node="n1") for number in (1, 2, 3))


def test_endpoint_that_fails_is_left_out_and_the_reason_says_why() -> None:
    eligible = chosen(ONE, TWO)

    assert fates(eligible) == [OUT, IN]
    assert eligible.cluster.backends == eligible.serving == (B,)
    assert eligible.considered[0].why == "failed its health check (connection refused, 2 in a row)"
    assert eligible.considered[1].why == "ready"
    assert printed(eligible.listed) == ["10.244.1.1:8080", "10.244.1.2:8080"]


def test_when_all_fail_none_is_left() -> None:
    eligible = chosen(ONE, TWO, failing=(A, B))

    assert fates(eligible) == [OUT, OUT]
    assert not eligible.any


def test_endpoint_that_is_not_ready_is_that_and_nothing_else() -> None:
    eligible = chosen(endpoint("10.244.1.1", "unready"), TWO, endpoint("10.244.1.3", "gone"), failing=(A, C))

    assert [fate.reason for fate in eligible.considered] == [Reason.NOT_READY, Reason.READY, Reason.NOT_SERVING]


def test_endpoints_that_terminate_stand_in_for_those_that_fail() -> None:
    """As if those were not ready (C2)."""
    eligible = chosen(ONE, endpoint("10.244.1.2", "draining"))

    assert fates(eligible) == [OUT, (True, Reason.SERVING_TERMINATING)]


def test_endpoint_that_terminates_and_fails_is_out() -> None:
    assert fates(chosen(endpoint("10.244.1.1", "draining"), endpoint("10.244.1.2", "draining"))) == [
        OUT, (True, Reason.SERVING_TERMINATING),
    ]  # fmt: skip


def test_other_zones_stand_in_when_all_of_this_zone_fail() -> None:
    """Hints keep traffic only where somebody is for us (T3)."""
    here, there = endpoint("10.244.1.1", zones=("a",)), endpoint("10.244.1.2", zones=("b",))

    assert fates(chosen(here, there)) == [OUT, IN]
    assert fates(chosen(here, there, failing=())) == [IN, (False, Reason.WRONG_ZONE)]


def test_local_pool_leaves_out_what_fails() -> None:
    eligible = chosen(ONE, TWO, endpoint("10.244.1.3", node="n2"))

    assert eligible.local.backends == (B,)
    assert [fate.reason for fate in in_local_pool(eligible.considered)] == [Reason.FAILED, Reason.READY, Reason.NOT_LOCAL]


@pytest.mark.parametrize(
    ("failing", "panic", "is_panic"),
    [
        ((A,), 50, False),
        ((A,), 66, False),
        ((A,), 67, True),
        ((A, B), 33, False),
        ((A, B), 34, True),
        ((A, B, C), 1, True),
        ((A, B, C), 0, False),
        ((A,), 100, True),
        ((), 100, False),
    ],
)
def test_all_are_used_when_fewer_than_the_threshold_pass(failing: tuple[Backend, ...], panic: int, is_panic: bool) -> None:
    eligible = chosen(ONE, TWO, THREE, failing=failing, panic=panic)

    used = (True, Reason.PANIC) if is_panic else OUT
    assert fates(eligible) == [used if backend in failing else IN for backend in (A, B, C)]
    assert eligible.local.backends == eligible.cluster.backends


def test_threshold_counts_the_endpoints_that_could_be_used() -> None:
    """One of two ready ones passes; the other three do not matter."""
    others = [endpoint(f"10.244.1.{number}", "unready") for number in (3, 4, 5)]

    assert fates(chosen(ONE, TWO, *others, panic=50))[:2] == [OUT, IN]


def test_threshold_counts_those_that_terminate_when_none_is_ready() -> None:
    ending = [endpoint(f"10.244.1.{number}", "draining") for number in (1, 2)]

    assert [fate.chosen for fate in chosen(*ending, panic=51).considered] == [True, True]
    assert [fate.chosen for fate in chosen(*ending, panic=50).considered] == [False, True]


CHECK = HealthCheck(CheckKind.TCP)
HEALTH = EndpointHealth(named("shop/web"), (Failing(*A, WHY),))


def with_check(one: Service, check: HealthCheck | None, *endpoints: Endpoint) -> ServiceProgram:
    claims = Claims()
    one = msgspec.structs.replace(one, health_check=check)
    claims.update(one.name, one)
    return compile_service(one, [one_slice(*endpoints)], FACTS, claims, HEALTH)


def test_health_counts_for_services_that_ask_for_it() -> None:
    program = with_check(service(), CHECK, ONE, TWO)

    assert pod_backends(program, "10.96.0.1:80/TCP") == ["10.244.1.2:8080"]
    assert only_port(program).serving == (B,)
    assert with_check(service(), None, ONE, TWO) == compiled(service(), one_slice(ONE, TWO))


def test_health_of_the_endpoints_own_tcp_port_says_nothing_of_udp() -> None:
    ports = (ServicePort("http", TCP, 53, 0), ServicePort("dns", UDP, 53, 0))
    both = one_slice(ONE, TWO, ports=(SlicePort("http", TCP, 8080), SlicePort("dns", UDP, 8080)))

    def backends(check: HealthCheck) -> dict[str, int]:
        one = msgspec.structs.replace(service(ports=ports), health_check=check)
        claims = Claims()
        claims.update(one.name, one)
        program = compile_service(one, [both], FACTS, claims, HEALTH)
        return {port.name.port: len(port.serving) for port in program.ports}

    assert backends(CHECK) == {"http": 1, "dns": 2}
    assert backends(HealthCheck(CheckKind.TCP, 8080)) == {"http": 1, "dns": 1}


def story(program: ServiceProgram, one: Service) -> Story:
    claims = Claims()
    claims.update(one.name, one)
    packet = Packet(parse_address("10.96.0.1"), 80, TCP, parse_address("10.244.1.9"))
    return explain(packet, [program], {one.name: one}, FACTS, (), claims, ())


def test_explain_says_who_failed_and_why() -> None:
    told = story(with_check(service(), CHECK, ONE, TWO), service())

    assert [each["reason"] for each in told.to_json()["endpoints"]] == [  # type: ignore[attr-defined]
        "failed its health check (connection refused, 2 in a row)", "ready",
    ]  # fmt: skip
    assert any("1 of 2, ready; left out: 1 failed its health check" in step for step in told.steps)


def test_explain_says_that_too_few_pass() -> None:
    check = HealthCheck(CheckKind.TCP, panic_percent=60)
    told = story(with_check(service(), check, ONE, TWO), service())

    assert any("ready, 1 of them although they failed their health check, as too few endpoints pass" in s for s in told.steps)


def test_explain_says_that_all_failed() -> None:
    told = story(with_check(service(), CHECK, ONE), service())

    assert any("none of 1 endpoints can be used (1 failed its health check)" in step for step in told.steps)
