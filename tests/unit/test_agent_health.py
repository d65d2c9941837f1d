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


def test_never_is_the_zero_time(health: Health) -> None:
    assert json.loads(health.healthz().body)["status"]["IPv4"]["lastUpdated"] == "0001-01-01T00:00:00Z"
