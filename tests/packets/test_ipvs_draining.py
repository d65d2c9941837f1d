"""
Draining with IPVS: an endpoint that is taken away gets no new connection and keeps those it has, until they are over, until it
is in no slice any more for a while, or until it has been long enough (section 13, D11, D12). One lab and one agent for all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.lab.holdings import virtual_servers
from tests.lab.netns import PATIENCE
from tests.lab.objects import node, port, service, slice_of
from tests.lab.probes import Flow
from tests.lab.shop import ENDPOINTS, NODE, POD, ask, assert_served_by, begin, eventually, names, shop, write
from tests.lab.world import World

pytestmark = pytest.mark.dataplane("ipvs")

WEB, DNS, LONG, GONE = "10.96.0.10", "10.96.0.53", "10.96.0.20", "10.96.0.30"
DRAIN_TIMEOUT_S = 10.0 * PATIENCE
GRACE_S = 3.0 * PATIENCE
LOOKS_S = 20.0
"""kpx looks at what drains at least this often."""

FIRST, SECOND = ENDPOINTS[4][0], ENDPOINTS[4][1]
OBJECTS = [
    node(NODE[4]),
    service("web", WEB), slice_of("web", FIRST, SECOND),
    service("dns", DNS, port(53, "UDP")), slice_of("dns", FIRST, SECOND, protocol="UDP"),
    service("long", LONG), slice_of("long", FIRST, SECOND),
    service("gone", GONE), slice_of("gone", FIRST, SECOND),
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An agent with little patience, so that tests need not have much."""
    options = ("--drain-timeout", str(int(DRAIN_TIMEOUT_S)), "--drain-grace", str(int(GRACE_S)))
    with shop(OBJECTS, tmp_path_factory.mktemp("draining")) as world:
        world.agent.run_options = options
        yield begin(world, OBJECTS)
        world.wind_up()


def connected(world: World, endpoint: str, vip: str = WEB) -> Flow:
    """An open connection to one endpoint of a Service."""
    for _ in range(20):
        flow = world.flow("TCP", POD[4], vip, 80)
        if flow.ask().server in names(endpoint):
            return flow
        flow.close()
    raise AssertionError(f"20 connections to {vip} never reached {endpoint}")


def weight(world: World, endpoint: str, vip: str = WEB) -> int | None:
    """The weight of a destination, None when it is not there."""
    for line in virtual_servers(world.node.namespace):
        words = line.split()
        if words[:2] == ["-a", "-t"] and words[2] == f"{vip}:80" and words[4] == f"{endpoint}:8080":
            return int(words[words.index("-w") + 1])
    return None


def test_a_connection_lives_on_and_no_new_one_comes(world: World) -> None:
    """G1, G3: weight 0 keeps the connection; coming back raises the weight and cuts nobody; without connections it is deleted."""
    flow = connected(world, FIRST)
    write(world, slice_of("web", SECOND))
    assert weight(world, FIRST) == 0
    assert flow.ask().server in names(FIRST)
    assert_served_by(world, names(SECOND), POD[4], WEB)

    write(world, slice_of("web", FIRST, SECOND))
    assert weight(world, FIRST) == 1
    assert flow.ask().server in names(FIRST)
    assert_served_by(world, names(FIRST, SECOND), POD[4], WEB)
    flow.close()


def test_an_endpoint_that_terminates_drains_too(world: World) -> None:
    """Still listed, serving and terminating: no new connection while others are ready, and its own live on (C2, G1)."""
    flow = connected(world, FIRST)
    write(world, slice_of("web", FIRST, SECOND, terminating=[FIRST]))
    assert weight(world, FIRST) == 0
    assert_served_by(world, names(SECOND), POD[4], WEB)
    assert flow.ask().server in names(FIRST)

    draining = json.loads(world.agent.kpx("get", "endpoints", "-o", "json").stdout)
    assert [each for each in flat(draining) if each.get("state") == "draining" and FIRST in json.dumps(each)], draining
    flow.close()
    write(world, slice_of("web", FIRST, SECOND))


def flat(value: object) -> Iterator[dict[str, object]]:
    """Every object inside a JSON value."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from flat(each)
    elif isinstance(value, list):
        for each in value:
            yield from flat(each)


def test_udp_is_not_drained(world: World) -> None:
    """A destination of UDP is deleted at once, and its flow goes to another endpoint (G2, U10)."""
    flow = world.flow("UDP", POD[4], DNS, 53)
    server = flow.ask().server
    left = SECOND if server in names(FIRST) else FIRST
    write(world, slice_of("dns", left, protocol="UDP"))

    lines = [line for line in virtual_servers(world.node.namespace) if line.startswith(f"-a -u {DNS}:53 ")]
    assert [line.split()[4] for line in lines] == [f"{left}:8080"]
    assert flow.ask().server in names(left)
    flow.close()


def test_a_service_with_nothing_but_draining_endpoints_refuses(world: World) -> None:
    """New connections are refused at once, not dropped; the old one lives (G7, R1)."""
    flow = connected(world, FIRST, LONG)
    write(world, slice_of("long"))
    assert ask(world, POD[4], LONG).verdict == "refused"
    assert flow.ask().server in names(FIRST)
    write(world, slice_of("long", FIRST, SECOND))
    assert flow.ask().server in names(FIRST)
    flow.close()


def test_a_restart_goes_on_where_it_was(world: World) -> None:
    """What drains goes on draining; a wanted endpoint with weight 0 gets its weight back (G4, D12)."""
    flow = connected(world, FIRST, LONG)
    write(world, slice_of("long", FIRST, SECOND, terminating=[FIRST]))
    world.agent.stop()
    own = world.node.namespace
    own.run("ipvsadm", "-e", "-t", f"{LONG}:80", "-r", f"{SECOND}:8080", "-m", "-w", "0")
    nobody = ask(world, POD[4], LONG).server
    world.agent.start()

    assert not nobody
    assert weight(world, SECOND, LONG) == 1
    assert weight(world, FIRST, LONG) == 0
    assert flow.ask().server in names(FIRST)
    flow.close()
    write(world, slice_of("long", FIRST, SECOND))


def test_what_drained_long_enough_is_deleted(world: World) -> None:
    """At `--drain-timeout` the destination goes, and the client is told that its connection is over (G6)."""
    flow, began = connected(world, FIRST), time.monotonic()
    write(world, slice_of("web", FIRST, SECOND, terminating=[FIRST]))
    eventually(lambda: weight(world, FIRST) is None, world, DRAIN_TIMEOUT_S + LOOKS_S * PATIENCE)

    assert time.monotonic() - began > DRAIN_TIMEOUT_S - 1, "an endpoint that is still listed has all of the timeout"
    assert not flow.ask().server
    flow.close()
    write(world, slice_of("web", FIRST, SECOND))
    assert_served_by(world, names(FIRST, SECOND), POD[4], WEB)


def test_what_is_in_no_slice_any_more_is_deleted_after_the_grace_time(world: World) -> None:
    """The pod is gone: whoever still waits for it is better told so (G6)."""
    flow, began = connected(world, FIRST, GONE), time.monotonic()
    write(world, slice_of("gone", SECOND))
    eventually(lambda: weight(world, FIRST, GONE) is None, world, GRACE_S + LOOKS_S * PATIENCE)

    assert time.monotonic() - began > GRACE_S - 1
    flow.close()
    write(world, slice_of("gone", FIRST, SECOND))


def test_without_connections_a_destination_goes_soon(world: World) -> None:
    """Nobody was connected: there is nothing to wait for but the kernel's own memory of finished connections."""
    write(world, service("fresh", "10.96.0.40"), slice_of("fresh", FIRST, SECOND))
    write(world, slice_of("fresh", SECOND))
    eventually(lambda: weight(world, FIRST, "10.96.0.40") is None, world)
    assert not [line for line in virtual_servers(world.node.namespace) if f"10.96.0.40:80 -r {FIRST}" in line]


def test_a_service_that_is_deleted_takes_its_connections_along(world: World) -> None:
    """G8: new connections stop at once, and nothing of it stays, the memory of draining included."""
    flow = connected(world, FIRST, GONE)
    write(world, slice_of("gone", SECOND))
    world.agent.delete([{"kind": "Service", "namespace": "shop", "name": "gone"}])
    world.agent.catch_up()

    own = world.node.namespace
    assert not [line for line in virtual_servers(own) if GONE in line]
    assert f"{GONE}" not in own.run("ipset", "save").stdout
    assert not ask(world, POD[4], GONE).server
    flow.close()
