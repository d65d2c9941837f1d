"""Health and liveness by the rules of kube-proxy (15.1)."""

from __future__ import annotations

import json

import pytest
from agent_builders import Clock

from kpx.agent.health import Health
from kpx.model.addresses import Family

V4, V6 = Family.IPV4, Family.IPV6


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health((V4, V6), sync_period_s=30.0, clock=clock, wall=clock)


def test_start_is_healthy(health: Health, clock: Clock) -> None:
    clock.now += 3600

    assert (health.livez().status, health.healthz().status) == (200, 200)


def test_start_is_not_ready(health: Health) -> None:
    assert (health.livez().status, health.readyz().status) == (200, 503)
    assert health.readyz().body == "the first sync of IPv4 and IPv6 is yet to come\n"
    health.written(failed={V6})
    assert health.readyz().body == "the first sync of IPv6 is yet to come\n"
    health.written()

    assert (health.readyz().status, health.readyz().body) == (200, "ok\n")


def test_node_about_to_go_is_ready_all_the_same(health: Health) -> None:
    """Otherwise no rolling update would get past it."""
    health.written()
    health.set_eligible(False)

    assert (health.readyz().status, health.healthz().status) == (200, 503)


def test_agent_that_does_not_keep_up_is_not_ready(health: Health, clock: Clock) -> None:
    health.written()
    health.queued()
    clock.now += 60

    assert health.readyz().status == 503


def test_family_that_is_new_is_not_ready_until_it_is_written(health: Health) -> None:
    health.set_families((V4,))
    health.written()
    assert health.readyz().status == 200
    health.set_families((V4, V6))

    assert health.readyz().status == 503


def test_request_may_wait_for_twice_the_sync_period(health: Health, clock: Clock) -> None:
    health.queued()
    clock.now += 59.9
    assert health.livez().status == 200
    clock.now += 0.1

    assert (health.livez().status, health.healthz().status) == (503, 503)


def test_oldest_request_counts(health: Health, clock: Clock) -> None:
    health.queued()
    clock.now += 50
    health.queued()
    clock.now += 10

    assert health.livez().status == 503


def test_write_ends_the_waiting(health: Health, clock: Clock) -> None:
    health.queued()
    clock.now += 100
    health.written()
    clock.now += 100

    assert health.livez().status == 200


def test_family_that_failed_is_told_apart(health: Health, clock: Clock) -> None:
    health.queued()
    clock.now += 10
    health.written(failed={V6})
    clock.now += 50
    answer = health.healthz()
    body = json.loads(answer.body)

    assert answer.status == 503
    assert {family: state["healthy"] for family, state in body["status"].items()} == {"IPv4": True, "IPv6": False}
    assert body["lastUpdated"] == "1970-01-01T00:16:50Z"


def test_family_that_is_no_longer_programmed_cannot_fail(health: Health, clock: Clock) -> None:
    health.queued()
    health.written(failed={V6})
    health.set_families((V4,))
    clock.now += 100

    assert health.livez().status == 200


def test_node_that_leaves_is_alive_and_not_healthy(health: Health) -> None:
    health.set_eligible(False)

    assert (health.livez().status, health.healthz().status) == (200, 503)
    assert json.loads(health.healthz().body)["nodeEligible"] is False
    assert "nodeEligible" not in json.loads(health.livez().body)


def test_healthy_answer_is_as_new_as_the_question(health: Health, clock: Clock) -> None:
    health.written()
    clock.now += 500
    body = json.loads(health.healthz().body)

    assert body["lastUpdated"] == body["currentTime"] == "1970-01-01T00:25:00Z"
    assert body["status"]["IPv4"]["lastUpdated"] == "1970-01-01T00:16:40Z"


@pytest.mark.parametrize(
    ("now", "text"),
    [(1000.0, "1970-01-01T00:16:40Z"), (1000.25, "1970-01-01T00:16:40.25Z"), (1000.000001, "1970-01-01T00:16:40.000001Z")],
)
def test_times_are_as_go_writes_them(health: Health, clock: Clock, now: float, text: str) -> None:
    """RFC3339Nano: no zeros at the end of the fraction."""
    clock.now = now

    assert json.loads(health.healthz().body)["currentTime"] == text


def test_body_is_that_of_kube_proxy(health: Health, clock: Clock) -> None:
    health.written()
    now = "1970-01-01T00:16:40Z"
    families = {family: {"lastUpdated": now, "healthy": True} for family in ("IPv4", "IPv6")}
    common = {"lastUpdated": now, "currentTime": now, "healthy": True, "status": families}

    assert json.loads(health.livez().body) == common
    assert json.loads(health.healthz().body) == {**common, "nodeEligible": True}
    assert health.livez().content_type == "application/json"


@pytest.mark.parametrize(("late", "eligible", "healthy"), [(0, False, True), (60, True, False)])
def test_health_of_the_proxy_leaves_the_node_out(health: Health, clock: Clock, late: int, eligible: bool, healthy: bool) -> None:
    """H3: what health-check node ports go by."""
    health.set_eligible(eligible)
    health.queued()
    clock.now += late

    assert health.is_healthy() is healthy


def test_never_is_the_zero_time(health: Health) -> None:
    assert json.loads(health.healthz().body)["status"]["IPv4"]["lastUpdated"] == "0001-01-01T00:00:00Z"
