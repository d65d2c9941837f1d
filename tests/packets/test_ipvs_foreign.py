"""
Other people's virtual servers, sets, rules and routes on the same host: never touched, whatever kpx does (D18, 16.6); and sets
with more elements than ipset takes by itself (D17).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kpx.dataplanes.ipvs.doors import open_doors
from kpx.dataplanes.ipvs.plane import IpvsDataplane
from kpx.dataplanes.ipvs.schema import TABLES
from kpx.model.addresses import Family
from kpx.model.facts import NodeFacts
from kpx.reconcile.plan import Operation, Plan, Verb
from tests.lab.holdings import HOLDINGS, ROUTING_TABLE, left_behind, sets, virtual_servers
from tests.lab.objects import node, port, service, service_cidr, slice_of
from tests.lab.shop import (
    CLIENT,
    ENDPOINTS,
    NODE,
    POD,
    REMOTE,
    SOON_S,
    ask,
    assert_served_by,
    begin,
    eventually,
    names,
    shop,
    write,
)
from tests.lab.world import World

pytestmark = pytest.mark.dataplane("ipvs")
HELD = HOLDINGS["ipvs"]
WEB, TAKEN = "10.96.0.10", "10.96.0.66"
OBJECTS = [
    node(NODE[4]), service_cidr("10.96.0.0/16"),
    service("web", WEB, port(80, node_port=30080)), slice_of("web", *ENDPOINTS[4], remote=REMOTE),
    service("taken", TAKEN, port(80), port(81, name="b")),
    slice_of("taken", ENDPOINTS[4][0]), slice_of("taken", ENDPOINTS[4][0], port_name="b", number=2),
]  # fmt: skip
THEIR_SERVER = (f"-A -t {TAKEN}:80 -s wlc", f"-a -t {TAKEN}:80 -r 10.244.2.1:8080 -m -w 3")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A node on which somebody else uses everything that kpx uses; no agent yet."""
    with shop(OBJECTS, tmp_path) as world:
        HELD.plant(world.node.namespace)
        yield world
        world.clean_up()


def test_what_others_have_survives_start_sync_stop_and_cleanup(world: World) -> None:
    """Virtual servers by address and by mark, sets, rules, and a routing rule of the same priority stay as they were."""
    own = world.node.namespace
    own.ip(f"route add blackhole 198.51.100.205/32 table {ROUTING_TABLE}")
    before = theirs(world)

    begin(world, OBJECTS)
    assert theirs(world) == before
    write(world, slice_of("web", ENDPOINTS[4][0]), service("more", "10.96.0.11"), slice_of("more", ENDPOINTS[4][1]))
    assert_served_by(world, names(ENDPOINTS[4][1]), POD[4], "10.96.0.11")
    assert theirs(world) == before
    world.agent.stop()
    assert theirs(world) == before
    world.agent.kpx("sync")
    assert theirs(world) == before

    assert world.agent.bare("cleanup").returncode == 0
    assert theirs(world) == before
    own.ip(f"route del blackhole 198.51.100.205/32 table {ROUTING_TABLE}")
    assert left_behind(own) == ""


def theirs(world: World) -> str:
    """All that is not ours, with what others put into the routing table we use."""
    listed = world.node.namespace.run("ip", "route", "show", "table", ROUTING_TABLE, check=False).stdout
    blackholes = [line.strip() for line in listed.splitlines() if "blackhole" in line]
    return "\n".join([HELD.theirs(world.node.namespace), *blackholes])


def test_somebody_elses_virtual_server_on_an_address_of_ours_keeps_it(world: World) -> None:
    """One clear message; that frontend is left alone, all others work; once it is gone, kpx takes over (D18, 16.11)."""
    own = world.node.namespace
    own.run("ipvsadm", "-R", stdin="\n".join(THEIR_SERVER) + "\n")

    begin(world, OBJECTS)
    assert {line for line in virtual_servers(own) if f"{TAKEN}:80 " in line} == set(THEIR_SERVER)
    assert not any(f" {TAKEN},tcp:80" in line for line in sets(own) if "KPX-" in line), "it must be neither recorded nor steered"
    said = [line for line in world.agent.log.read_text().splitlines() if TAKEN in line]
    assert any("somebody else" in line for line in said), world.agent.log_tail()
    assert_served_by(world, names(ENDPOINTS[4][0]), POD[4], TAKEN, 81)
    assert_served_by(world, names(*ENDPOINTS[4]), CLIENT[4], NODE[4], 30080)

    world.agent.stop()
    assert world.agent.bare("cleanup").returncode == 0
    assert {line for line in virtual_servers(own) if f"{TAKEN}:80 " in line} == set(THEIR_SERVER)

    world.agent.start()
    own.run("ipvsadm", "-D", "-t", f"{TAKEN}:80")
    eventually(lambda: ask(world, POD[4], TAKEN, timeout_s=0.2).server in names(ENDPOINTS[4][0]), world, 60 + SOON_S)


def test_a_virtual_server_somebody_makes_later_where_ours_was_is_not_ours(world: World) -> None:
    """When a Service is gone its address is free for others, and what they make there stays."""
    begin(world, OBJECTS)
    world.agent.delete([{"kind": "Service", "namespace": "shop", "name": "taken"}])
    world.agent.catch_up()
    own = world.node.namespace
    assert not any(TAKEN in line for line in [*virtual_servers(own), *sets(own)])

    own.run("ipvsadm", "-R", stdin="\n".join(THEIR_SERVER) + "\n")
    write(world, slice_of("web", ENDPOINTS[4][0]))
    world.agent.stop()
    world.agent.start()
    assert world.agent.bare("cleanup").returncode != 0, "an agent runs"
    world.agent.stop()
    assert world.agent.bare("cleanup").returncode == 0
    assert {line for line in virtual_servers(own) if TAKEN in line} == set(THEIR_SERVER)
    own.run("ipvsadm", "-D", "-t", f"{TAKEN}:80")


MANY = 70_000
"""More than the 65,536 that an ipset takes unless told otherwise."""


def test_a_set_takes_more_than_ipset_does_by_itself(world: World) -> None:
    """Every one of many elements is there; nothing is refused or silently left out (D17)."""
    table = TABLES[Family.IPV4, "captured"]
    rows = tuple(Operation(Verb.ADD, table, (0xCB000000 + number).to_bytes(4, "big"), None, b"") for number in range(MANY))
    with world.node.namespace.entered():
        plane = IpvsDataplane(open_doors())
        plane.prepare(NodeFacts("n1", families=(Family.IPV4,)))
        outcome = plane.apply(Plan(rows))
        held = len(plane.observe().rows[table])
        plane.close()

    assert outcome.failures == ()
    assert held == MANY
