"""The packet mark with IPVS: two bits are kpx's, whichever `--mark-bits` says, and all others pass through untouched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.holdings import ROUTING_TABLE
from tests.lab.objects import node, port, service, slice_of
from tests.lab.ruleset import nft
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, REMOTE, assert_served_by, begin, names, shop
from tests.lab.world import World

pytestmark = [pytest.mark.dataplane("ipvs"), pytest.mark.needs("nf_tables")]
WEB = "10.96.0.10"
OBJECTS = [
    node(NODE[4]), service("web", WEB, port(80, node_port=30080)), slice_of("web", *ENDPOINTS[4], remote=REMOTE),
]  # fmt: skip
THEIR_BITS = 0x0FF04FF4
"""Bits of others, below and above the default ones of kpx."""

RECORDER = """
table ip recorder {
  set sent { type mark . inet_service; flags dynamic; }
  set answered { type mark . inet_service; flags dynamic; }
  chain first { type filter hook prerouting priority -300; meta mark set meta mark | %#x; }
  chain first-of-the-host { type route hook output priority -300; meta mark set meta mark | %#x; }
  chain last {
    type filter hook postrouting priority 300;
    tcp dport 8080 add @sent { meta mark . tcp dport }
    tcp sport { 80, 30080 } add @answered { meta mark . tcp sport }
  }
}
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A node where somebody marks every packet first and looks at the marks last; no agent yet."""
    with shop(OBJECTS, tmp_path) as world:
        nft(world.node.namespace, "-f", "-", stdin=RECORDER % (THEIR_BITS, THEIR_BITS))
        yield world
        world.clean_up()


def marks(world: World, name: str) -> set[int]:
    """The marks that packets had when they left the node."""
    listed = json.loads(nft(world.node.namespace, "-j", "list", "set", "ip", "recorder", name))["nftables"]
    elements = [element for entry in listed for element in entry.get("set", {}).get("elem", ())]
    return {int(element["concat"][0]) for element in elements}


def ask_in_every_way(world: World) -> None:
    """Pods, outsiders, the host and an endpoint that meets itself; masqueraded and not."""
    everybody = names(*ENDPOINTS[4])
    assert_served_by(world, everybody, POD[4], WEB)
    assert_served_by(world, everybody, CLIENT[4], WEB)
    assert_served_by(world, everybody, CLIENT[4], NODE[4], 30080)
    assert_served_by(world, everybody, "", WEB)
    assert_served_by(world, everybody, ENDPOINTS[4][0], WEB)


@pytest.mark.parametrize("bits", [0x3000, 0x80000001])
def test_marks_of_others_pass_through_and_ours_are_taken_off(world: World, bits: int) -> None:
    """What leaves the node has exactly the bits somebody else gave it, requests and answers."""
    world.agent.options += ("--mark-bits", hex(bits))
    begin(world, OBJECTS)
    ask_in_every_way(world)

    assert marks(world, "sent") == {THEIR_BITS}
    assert marks(world, "answered") == {THEIR_BITS}


def test_other_bits_may_be_chosen_later(world: World) -> None:
    """After a restart with other bits the old ones are nobody's: not in any rule, not in the routing."""
    begin(world, OBJECTS)
    world.agent.stop()
    world.agent.options += ("--mark-bits", "0x30000")
    world.agent.start()
    ask_in_every_way(world)

    rules = [line for line in world.node.namespace.run("ip", "rule").stdout.splitlines() if ROUTING_TABLE in line]
    assert len(rules) == 1
    assert "0x10000/0x10000" in rules[0]
    saved = world.node.namespace.run("iptables-save").stdout
    assert "0x1000/0x1000" not in saved
    assert "0x2000/0x2000" not in saved


@pytest.mark.parametrize("bits", ["0x1000", "0x7000", "0", "0x300000000", "many"])
def test_anything_but_two_bits_is_refused(world: World, bits: str) -> None:
    """In one line, before anything is written."""
    done = world.agent.kpx("sync", "--mark-bits", bits, check=False)

    assert done.returncode == 2
    assert "--mark-bits" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
