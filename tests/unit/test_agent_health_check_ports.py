"""Health-check node ports, asked over real sockets as a load balancer would (contract section 14)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest
from policy_builders import FACTS, addresses, claims_for, endpoint, named, one_slice, service

from kpx.agent.localities import HealthCheck, Localities
from kpx.agent.serving import Serving
from kpx.agent.status import Findings
from kpx.model.addresses import Family
from kpx.model.endpointslice import EndpointSlice
from kpx.model.facts import NodeFacts
from kpx.model.findings import Finding
from kpx.policy.compile import compile_service
from tests.lab.http_client import Response, ask

V4, V6 = Family.IPV4, Family.IPV6
HERE, THERE = FACTS.name, "other"
WEB = named("shop/web")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def facts(*texts: str, any_of: frozenset[Family] = frozenset(), families: tuple[Family, ...] = (V4,)) -> NodeFacts:
    return msgspec.structs.replace(
        FACTS, families=families, node_port_addresses=frozenset(addresses(*texts)), node_port_any=any_of
    )


LOOPBACK = facts("127.0.0.1")


class World:
    """What a node tells load balancers, fed with Services and slices."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.healthy = True
        self.announced: list[tuple[str, Finding]] = []
        self.serving = Serving(self.findings, lambda: self.healthy, lambda why, what: self.announced.append((why, what)))
        self.serving.start({})
        self.localities = Localities()
        self.port = free_port()

    def close(self) -> None:
        self.serving.close()

    def note(self, *slices: EndpointSlice, port: int | None = None, name: str = "shop/web", ip: str = "10.96.0.1") -> None:
        """Let a Service with policy Local be so, as the engine does."""
        number = self.port if port is None else port
        one = msgspec.structs.replace(service(name, ip, external_local=bool(number)), health_check_node_port=number)
        self.localities.note(one.name, compile_service(one, slices, FACTS, claims_for(one)))

    def programmed(self, node: NodeFacts = LOOPBACK, failed: frozenset[Family] = frozenset()) -> None:
        self.serving.programmed(self.localities, node, failed)

    def ask(self, port: int = 0, path: str = "/", method: str = "GET", host: str = "127.0.0.1") -> Response:
        return ask((host, port or self.port), path, method)

    def status(self, port: int = 0) -> int | None:
        """Return what a probe finds, None when nobody listens."""
        try:
            return self.ask(port).status
        except ConnectionRefusedError:
            return None


@pytest.fixture
def world() -> Iterator[World]:
    with closing(World()) as world:
        yield world


def local(*states: str) -> EndpointSlice:
    return one_slice(*(endpoint(f"10.244.2.{number}", state, node=HERE) for number, state in enumerate(states, 1)))


@pytest.mark.parametrize(("path", "method"), [("/", "GET"), ("/healthz", "GET"), ("/any?thing", "POST"), ("/", "BREW")])
def test_any_path_and_method_tells_the_count(world: World, path: str, method: str) -> None:
    """H2, H4."""
    world.note(local("ready", "ready"))
    world.programmed()
    answer = world.ask(path=path, method=method)

    assert answer.status == 200
    assert answer.json == {"service": {"namespace": "shop", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": True}
    assert {
        "content-type": "application/json",
        "x-content-type-options": "nosniff",
        "x-load-balancing-endpoint-weight": "2",
    }.items() <= answer.headers.items()


@pytest.mark.parametrize(
    "slices", [(), (local("draining"),), (local("unready"),), (one_slice(endpoint("10.244.2.1", node=THERE)),)]
)
def test_node_without_ready_endpoints_says_so(world: World, slices: tuple[EndpointSlice, ...]) -> None:
    """H1, H2, H9: the listener is there, terminating endpoints do not count, and the weight is told all the same."""
    world.note(*slices)
    world.programmed()
    answer = world.ask()

    assert (answer.status, answer.headers["x-load-balancing-endpoint-weight"]) == (503, "0")
    assert answer.json["localEndpoints"] == 0


def test_node_that_does_not_keep_up_is_not_healthy(world: World) -> None:
    """H2, H3."""
    world.note(local("ready"))
    world.programmed()
    world.healthy = False
    answer = world.ask()

    assert (answer.status, answer.json["serviceProxyHealthy"], answer.json["localEndpoints"]) == (503, False, 1)


def test_nothing_is_told_before_it_is_programmed(world: World) -> None:
    """H8."""
    world.note(local("ready"))
    assert world.status() is None
    world.programmed()
    world.note(local("draining"))
    assert world.status() == 200
    world.programmed()

    assert world.status() == 503


def test_family_that_failed_goes_on_telling_what_is_in_force(world: World) -> None:
    """H8."""
    world.note(local())
    world.programmed()
    world.note(local("ready"))
    world.programmed(failed=frozenset({V4}))
    assert world.status() == 503
    world.programmed()

    assert world.status() == 200


def test_service_that_moves_to_another_port_leaves_the_first(world: World) -> None:
    """H5."""
    world.note(local("ready"))
    world.programmed()
    other = free_port()
    world.note(local("ready"), port=other)
    world.programmed()

    assert (world.status(), world.status(other)) == (None, 200)


@pytest.mark.parametrize("how", ["policy Cluster", "deleted"])
def test_port_closes_with_its_reason(world: World, how: str) -> None:
    """H5: a Service with policy Cluster has no health-check port (V8)."""
    world.note(local("ready"))
    world.programmed()
    if how == "deleted":
        world.localities.note(WEB, None)
    else:
        world.note(local("ready"), port=0)
    world.programmed()

    assert world.status() is None
    assert world.localities.checks == {}


def test_rounds_that_change_nothing_leave_the_listener_alone(world: World) -> None:
    """H5: a client that is half way through its request is answered."""
    world.note(local("ready"))
    world.programmed()
    with socket.create_connection(("127.0.0.1", world.port), 10) as client:
        client.send(b"GET / HTTP/1.1\r\n")
        world.note(local("ready"), name="shop/other", port=free_port(), ip="10.96.0.2")
        world.programmed()
        world.note(local("ready", "ready"))
        world.programmed()
        client.send(b"Host: x\r\n\r\n")
        told = b"".join(iter(lambda: client.recv(4096), b""))

    assert b'"localEndpoints": 2' in told


def test_taken_port_is_a_finding_and_an_event_and_tried_again(world: World) -> None:
    """H6: and it does not keep the port of another Service closed."""
    other = free_port()
    with socket.create_server(("127.0.0.1", world.port)):
        world.note(local("ready"))
        world.note(local("ready"), name="shop/other", port=other, ip="10.96.0.2")
        world.programmed()
        assert world.status(other) == 200
    (finding,) = world.findings.every()
    assert str(finding) == (
        f"Service shop/web: spec.healthCheckNodePort: cannot listen on 127.0.0.1:{world.port} (Address already in use); "
        "free the port or choose another, kpx tries again every 5 s"
    )
    assert world.announced == [("FailedToStartServiceHealthcheck", finding)]
    due = world.serving.deadline()
    assert due is not None
    world.serving.act(due)

    assert (world.status(), world.findings.every(), world.serving.deadline()) == (200, [], None)


def test_port_two_services_want_goes_to_the_first_by_name(world: World) -> None:
    """The API server does not let this happen; files may."""
    world.note(local("ready"))
    world.note(local(), name="shop/other", ip="10.96.0.2")
    world.programmed()

    assert world.ask().json["service"]["name"] == "other"
    assert [finding.where for finding in world.findings.every()] == ["Service shop/web"]
    world.localities.note(named("shop/other"), None)
    world.programmed()

    assert (world.ask().json["service"]["name"], world.findings.every()) == ("web", [])


def test_listens_on_the_addresses_of_node_ports_only(world: World) -> None:
    """H1."""
    world.note(local("ready"))
    world.programmed(facts("127.0.0.2"))

    assert world.status() is None
    assert world.ask(host="127.0.0.2").status == 200
    world.programmed(facts("127.0.0.2", any_of=frozenset({V4})))

    assert world.status() == 200


def test_families_listen_and_count_for_themselves(world: World) -> None:
    """H1."""
    world.localities.checks[WEB] = HealthCheck(world.port, {V4: 0, V6: 3})
    world.localities.version += 1
    world.programmed(facts(any_of=frozenset({V4, V6}), families=(V4, V6)))

    assert (world.ask(host="127.0.0.1").status, world.ask(host="::1").headers["x-load-balancing-endpoint-weight"]) == (503, "3")


def test_lacking_services_are_counted_by_policy_and_family() -> None:
    localities = Localities()
    away = one_slice(endpoint("10.244.2.1", node=THERE))
    one = service(internal_local=True)
    for asked, external in ((one, 0), (service(external_local=True), 1), (service(), 0)):
        localities.note(WEB, compile_service(asked, [away], FACTS, claims_for(asked)))
        assert (localities.lacking["external", V4], localities.lacking["internal", V4]) == (external, int(asked is one))

    localities.note(WEB, None)
    assert not any(localities.lacking.values())
