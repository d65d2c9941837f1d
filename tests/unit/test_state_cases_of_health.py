"""The state cases about what others are told: health-check node ports, /healthz, /livez, latency."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from contextlib import closing

import pytest
from agent_builders import Clock
from state_cases import Case, of_kind
from test_agent_health_check_ports import World, facts, free_port

from kpx.agent.health import Health
from kpx.agent.localities import HealthCheck
from kpx.agent.triggers import Triggers
from kpx.cluster.events import Upsert
from kpx.model.addresses import Family, family_of, format_address, parse_address, parse_prefix
from kpx.model.decode import decode_document
from kpx.model.facts import NodeFacts
from kpx.model.names import ObjectName
from kpx.web.server import place_text

FAMILIES = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}
ANY = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}


@pytest.fixture
def world() -> Iterator[World]:
    with closing(World()) as world:
        yield world


class HealthCheckPort:
    """Plays one sequence; a port of the case is a free port of this machine."""

    def __init__(self, world: World, case: Case) -> None:
        self.world = world
        self.family = FAMILIES[case["family"]]
        self.host = ANY[self.family]
        self.node = self._node(case["node_port_addresses"])
        self.ports: dict[int, int] = {}
        self.services: dict[str, int] = {}
        self.endpoints: dict[str, int] = {}

    def _node(self, ranges: list[str]) -> NodeFacts:
        if not ranges:
            return facts(any_of=frozenset({self.family}), families=(self.family,))
        inside = [text for text in ANY.values() if any(parse_address(text) in parse_prefix(each) for each in ranges)]
        return facts(*inside, families=(self.family,))

    def take(self, step: Case) -> None:
        for key, value in step.items():
            if key == "proxy_healthy":
                self.world.healthy = value
            elif key == "services":
                self.services = value
                self._programmed()
            elif key == "endpoints":
                self.endpoints = {name: count for name, count in value.items() if name in self.services}
                self._programmed()
            elif key == "expect_open_ports":
                assert set(self.services.values()) == set(value)
                assert len(self.world.serving.listening) == len(value)
            elif key == "expect_listen":
                assert [place_text((self._any(), port)) for port in self.services.values()] == value
                assert all(self.world.serving.listening.port((self._any(), self.port(port))) for port in self.services.values())
            elif key == "request":
                self._answered(value, step["expect"])
            else:
                assert key == "expect", key

    def port(self, number: int) -> int:
        return self.ports.setdefault(number, free_port())

    def _any(self) -> str:
        """Where the family listens: on every address unless node ports are restricted."""
        mine = [one for one in self.node.node_port_addresses if family_of(one) == self.family]
        return format_address(mine[0]) if mine else {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}[self.family]

    def _programmed(self) -> None:
        checks = {
            ObjectName(*name.split("/")): HealthCheck(self.port(number), {self.family: self.endpoints.get(name, 0)})
            for name, number in self.services.items()
        }
        self.world.localities.checks = checks
        self.world.localities.version += 1
        self.world.programmed(self.node)

    def _answered(self, request: Case, wanted: Case) -> None:
        answer = self.world.ask(self.port(request["port"]), request["path"], host=self.host)
        assert (answer.status, answer.json) == (wanted["status"], wanted["json"])
        assert {key.lower(): value for key, value in wanted["headers"].items()}.items() <= answer.headers.items()


@of_kind("service_health")
def test_service_health(case: Case, world: World) -> None:
    """H1, H2, H4, H5."""
    played = HealthCheckPort(world, case)
    for step in case["sequence"]:
        played.take(step)


@of_kind("proxy_health")
def test_proxy_health(case: Case) -> None:
    """15.1; what is queued for one family is a round that was right for the others."""
    clock, waiting = Clock(0.0), set[Family]()
    health = Health(FAMILIES.values(), sync_period_s=case["timeout_seconds"] / 2, clock=clock, wall=clock)
    for step in case["sequence"]:
        ((verb, value),) = step.items()
        if verb == "advance_seconds":
            clock.now += value
        elif verb == "queued":
            waiting.add(FAMILIES[value])
            health.queued()
            health.written(failed=waiting)
        elif verb == "updated":
            waiting.discard(FAMILIES[value])
            health.written(failed={family for name, family in FAMILIES.items() if name != value})
        else:
            assert verb == "expect", verb
            for page, wanted in value.items():
                answer = {"/healthz": health.healthz, "/livez": health.livez}[page]()
                assert answer.status == wanted["status"]
                assert summary(json.loads(answer.body), clock.now) == {key: wanted[key] for key in wanted if key != "status"}


def summary(body: Case, now: float) -> Case:
    updated = dt.datetime.fromisoformat(body["lastUpdated"]).timestamp()
    return {
        "healthy": body["healthy"],
        "nodeEligible": body.get("nodeEligible"),
        "families": {family: state["healthy"] for family, state in body["status"].items()},
        "lastUpdated": "now" if body["healthy"] and updated == now else int(updated),
    }


@of_kind("trigger_times")
def test_trigger_times(case: Case) -> None:
    """E10: every stated time after the start is a change of its own, an earlier one is not ours."""

    def seconds(text: str) -> float:
        return dt.datetime.fromisoformat(text).timestamp()

    triggers = Triggers(seconds(case["tracker_start"]))
    for event in case["events"]:
        namespace, name = event["add"].split("/")
        metadata = {
            "namespace": namespace,
            "name": f"{name}-1",
            "labels": {"kubernetes.io/service-name": name},
            "annotations": {case["annotation_key"]: event["annotation"]},
        }
        manifest = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata,
            "addressType": "IPv4",
            "ports": [{"port": event["version"]}],
            "endpoints": [{"addresses": ["10.0.1.1"]}],
        }
        triggers.hear(Upsert(value) for decoded in decode_document(manifest, "").objects for value in decoded.values)
    now = seconds(case["tracker_start"]) + 60

    wanted = sorted(now - seconds(text) for texts in case["expect"].values() for text in texts)
    assert sorted(age for _, age in triggers.written(now)) == wanted
