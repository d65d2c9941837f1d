"""
A whole agent whose Services come from an API server, with real packets: what is said there holds here, also while it is away.

The server is the stand-in, over TLS, and listens in the node's namespace; the agent logs in with a kubeconfig and a token.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.apiserver import ApiServer
from tests.lab.certificates import Certificates
from tests.lab.objects import node, port, service, service_cidr, slice_of
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, assert_served_by, eventually, names, shop, who
from tests.lab.world import World

pytestmark = [pytest.mark.alike, pytest.mark.dataplane]

WEB, OLD, YOUNG = "10.96.0.10", "10.96.0.20", "10.96.0.21"
EXTERNAL = "203.0.113.9"
OBJECTS = [
    node(NODE[4]),
    service_cidr("10.96.0.0/16"),
    service("web", WEB, port(80, node_port=30080)),
    slice_of("web", *ENDPOINTS[4], remote=ENDPOINTS[4][2:]),
]


def claiming(name: str, cluster_ip: str, created: str) -> dict[str, Any]:
    """A Service that asks for the external address."""
    manifest = service(name, cluster_ip, external_ips=[EXTERNAL])
    return manifest | {"metadata": manifest["metadata"] | {"creationTimestamp": created}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> ApiServer:
    """A server that is not up yet; it listens in the namespace it is brought up in."""
    return ApiServer(tls=Certificates(tmp_path_factory.mktemp("pki")), tokens={"secret": "kpx"})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, server: ApiServer) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("api")
    with shop(OBJECTS, directory) as world, contextlib.ExitStack() as stack:
        server.apply(*OBJECTS)
        with world.node.namespace.entered():
            server.up()
        stack.callback(server.down)
        stack.callback(world.agent.stop)
        world.agent.source = ("--kubeconfig", str(server.kubeconfig(directory / "config", {"token": "secret"})))
        world.agent.launch()
        yield world


def endpoints(server: ApiServer, *addresses: str) -> None:
    server.apply(slice_of("web", *addresses, remote=ENDPOINTS[4][2:]))


def reached(world: World, *addresses: str) -> None:
    """Wait until the Service is answered by these endpoints and no others."""
    eventually(lambda: who(world, POD[4], WEB, times=24) == names(*addresses), world)


@contextlib.contextmanager
def away(world: World, server: ApiServer) -> Iterator[None]:
    """Take the API server away for a while."""
    server.down()
    try:
        yield
    finally:
        with world.node.namespace.entered():
            server.up()


@pytest.mark.parametrize("source", [POD[4], CLIENT[4], ""])
def test_service_of_the_api_is_forwarded(world: World, source: str) -> None:
    assert_served_by(world, names(*ENDPOINTS[4]), source, WEB, times=24)
    assert_served_by(world, names(*ENDPOINTS[4]), source, NODE[4], 30080, times=24)


def test_change_there_is_a_change_here(world: World, server: ApiServer) -> None:
    endpoints(server, ENDPOINTS[4][0])
    reached(world, ENDPOINTS[4][0])
    endpoints(server, *ENDPOINTS[4])
    reached(world, *ENDPOINTS[4])


def test_while_the_server_is_away_everything_stays_and_then_goes_on(world: World, server: ApiServer) -> None:
    """16.5."""
    with away(world, server):
        assert_served_by(world, names(*ENDPOINTS[4]), POD[4], WEB, times=24)
        endpoints(server, *ENDPOINTS[4][:2])
    reached(world, *ENDPOINTS[4][:2])
    endpoints(server, *ENDPOINTS[4])
    reached(world, *ENDPOINTS[4])


def test_history_that_is_gone_does_no_harm(world: World, server: ApiServer) -> None:
    """Restarted with its history compacted, so that every watch ends in 410 and everything is read anew."""
    with away(world, server):
        endpoints(server, ENDPOINTS[4][1])
        server.compact()
    reached(world, ENDPOINTS[4][1])
    endpoints(server, *ENDPOINTS[4])
    reached(world, *ENDPOINTS[4])


def test_agent_that_starts_while_the_server_is_away_waits_and_leaves_forwarding(world: World, server: ApiServer) -> None:
    """S9, 16.2: nothing is taken from the kernel before everything was heard."""
    assert world.agent.stop() == 0
    said = len(world.agent.log.read_text())
    starting = threading.Thread(target=world.agent.launch)
    with away(world, server):
        starting.start()
        eventually(lambda: "refuses connections" in world.agent.log.read_text()[said:], world)
        assert_served_by(world, names(*ENDPOINTS[4]), POD[4], WEB, times=24)
        assert " ready " not in world.agent.log.read_text()[said:]
    starting.join()
    eventually(lambda: " ready " in world.agent.log.read_text()[said:], world)
    assert "reason=start services=1 added=0 changed=0 removed=0" in world.agent.log.read_text()[said:]
    reached(world, *ENDPOINTS[4])


def test_conflict_is_one_event_on_the_service_that_loses(world: World, server: ApiServer) -> None:
    """V11; reading everything again, and starting again, say nothing new."""
    server.apply(claiming("old", OLD, "2024-01-01T00:00:00Z"), claiming("young", YOUNG, "2025-01-01T00:00:00Z"))
    server.wait_until(lambda: bool(conflicts(server)))
    listed = len(server.requests("watch", "services"))
    world.node.namespace.run("kill", "-HUP", str(world.agent.pid))
    server.wait_until(lambda: len(server.requests("watch", "services")) > listed)
    posted = len(server.requests("create", "events"))
    assert world.agent.stop(signal.SIGTERM) == 0
    world.agent.launch()
    server.wait_until(lambda: len(server.requests("create", "events")) >= posted + 2)

    assert conflicts(server) == [("shop", "young")]
    assert {event["regarding"]["name"] for event in server.events() if event["reason"] == "Starting"} == {"n1"}


def conflicts(server: ApiServer) -> list[tuple[str, str]]:
    """Return whom conflicts were told to."""
    events = [event for event in server.events() if event["reason"] == "FrontendConflict"]
    return [(event["regarding"]["namespace"], event["regarding"]["name"]) for event in events]


def test_right_that_is_missing_is_said_and_nothing_changes(world: World, server: ApiServer) -> None:
    """An agent that may not watch slices any more goes on with what it knows."""
    server.access.deny("*", "endpointslices")
    server.cut_watches("endpointslices")
    eventually(lambda: "RBAC: may not" in world.agent.log_tail(), world)
    assert_served_by(world, names(*ENDPOINTS[4]), POD[4], WEB, times=24)
    server.access.denied.clear()
    endpoints(server, ENDPOINTS[4][0])
    eventually(lambda: who(world, POD[4], WEB, times=24) == names(ENDPOINTS[4][0]), world, within_s=60.0)
    endpoints(server, *ENDPOINTS[4])
    reached(world, *ENDPOINTS[4])
