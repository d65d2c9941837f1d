"""
What changes around Services while they are served: ranges of ClusterIPs, addresses of the node, who has an external IP, and one
IP family that fails. Each holds for the next packet once the agent has heard of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kpx.kernel.netlink import Netlink
from kpx.kernel.wire import nft
from kpx.kernel.wire.attr import be32, string
from kpx.kernel.wire.message import NLM_F_ACK, NLM_F_CREATE
from tests.lab.crafted import echo_request, is_echo_reply
from tests.lab.objects import node, port, service, service_cidr, slice_of
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, ask, assert_served_by, begin, eventually, names, shop, write
from tests.lab.wire import Wire
from tests.lab.world import World

pytestmark = pytest.mark.dataplane

VIP = {4: "10.96.0.10", 6: "fd00:96::10"}
UNOWNED = {4: "10.96.0.99", 6: "fd00:96::99"}
EXTERNAL, INSIDE = "203.0.113.5", "198.51.100.5"
NODE_PORT = {4: 30080, 6: 30086}
NEW_ADDRESS = "192.168.10.2"
FIRST, SECOND, _ = ENDPOINTS[4]
NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER = 2, 2
WEB = [
    node(*NODE.values()),
    *(service(f"web{v}", VIP[v], port(80, node_port=NODE_PORT[v])) for v in (4, 6)),
    *(slice_of(f"web{v}", *ENDPOINTS[v][:2]) for v in (4, 6)),
]


def created(whole: dict[str, Any], year: int) -> dict[str, Any]:
    """The same object, made in another year."""
    whole["metadata"]["creationTimestamp"] = f"{year}-01-01T00:00:00Z"
    return whole


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Both families, no range of ClusterIPs yet; somebody beyond the node answers on every address that is asked."""
    beside = [(UNOWNED[4], 80), (UNOWNED[6], 80), (EXTERNAL, 80), (INSIDE, 80)]
    with shop(WEB, tmp_path, beside=beside, versions=(4, 6)) as world:
        yield world
        world.clean_up()


@pytest.mark.parametrize("v", [4, 6])
def test_ranges_of_cluster_ips_hold_at_once(world: World, v: int) -> None:
    """R6: an address nobody owns is routed until a ServiceCIDR has it, dropped until none has, whoever came first (S8)."""
    begin(world, WEB)
    assert ask(world, POD[v], UNOWNED[v]).server == "elsewhere"
    ranges = service_cidr("10.96.0.0/16", "fd00:96::/112")
    other = service_cidr("10.96.0.0/16", "fd00:96::/112")
    other["metadata"]["name"] = "again"

    write(world, ranges)
    assert ask(world, POD[v], UNOWNED[v]).verdict == "silence"
    assert ask(world, "", UNOWNED[v]).verdict == "silence"
    write(world, other)
    world.agent.delete([{"kind": "ServiceCIDR", "name": "kubernetes"}])
    world.agent.catch_up()
    assert ask(world, POD[v], UNOWNED[v]).verdict == "silence"
    world.agent.delete([{"kind": "ServiceCIDR", "name": "again"}])
    world.agent.catch_up()
    assert ask(world, POD[v], UNOWNED[v]).server == "elsewhere"
    assert ask(world, POD[v], VIP[v]).verdict == "answered"


def test_an_address_of_the_node_that_changes_is_followed(world: World) -> None:
    """16.3: its node ports (N2), and what else is at the node's address; kube-proxy needs a restart for it."""
    world.agent.run_options = ("--answer-ping",)
    begin(world, WEB)
    assert ask(world, CLIENT[4], NODE[4], NODE_PORT[4]).verdict == "answered"
    world.node.add_address(NEW_ADDRESS)
    assert ask(world, CLIENT[4], NEW_ADDRESS, NODE_PORT[4]).verdict == "refused"

    write(world, node(NEW_ADDRESS, NODE[6]))

    assert ask(world, CLIENT[4], NEW_ADDRESS, NODE_PORT[4]).verdict == "answered"
    assert ask(world, CLIENT[4], NODE[4], NODE_PORT[4]).verdict == "refused"
    assert ask(world, CLIENT[6], NODE[6], NODE_PORT[6]).verdict == "answered"
    (interface,) = world.node.namespace.run("ip", "-o", "-4", "address", "show", "to", NODE[4]).stdout.split()[1:2]
    world.node.namespace.ip(f"address delete {NODE[4]}/32 dev {interface}")
    with Wire(world.host(POD[4]).namespace) as pod:
        assert pod.ask(echo_request(POD[4], VIP[4]), is_echo_reply) is not None


def test_the_loser_takes_over_when_the_winner_leaves(world: World) -> None:
    """V11: an external IP, and a ClusterIP that an older Service had as its external IP."""
    winner = created(service("old", "10.96.0.40", external_ips=[EXTERNAL, VIP[4]]), 2020)
    loser = created(service("young", "10.96.0.50", external_ips=[EXTERNAL]), 2024)
    begin(world, [*WEB, winner, slice_of("old", FIRST), loser, slice_of("young", SECOND)])
    for _ in range(6):
        assert ask(world, POD[4], EXTERNAL).server in names(FIRST)
        assert ask(world, POD[4], VIP[4]).server in names(FIRST)

    world.agent.delete([{"kind": "Service", "namespace": "shop", "name": "old"}])
    world.agent.catch_up()

    assert_served_by(world, names(FIRST, SECOND), POD[4], VIP[4])
    assert {ask(world, POD[4], EXTERNAL).server for _ in range(6)} == names(SECOND)


@pytest.mark.parametrize(
    ("ranges", "external", "inside"), [("all", True, True), ("203.0.113.0/24,fd00::/8", True, False), ("none", False, False)]
)
def test_external_ips_are_those_the_operator_allows(world: World, ranges: str, external: bool, inside: bool) -> None:
    """V2: every other one stays where it is, and is said to."""
    world.agent.options += ("--external-ip-ranges", ranges)
    begin(world, [*WEB, service("asks", "10.96.0.40", external_ips=[EXTERNAL, INSIDE]), slice_of("asks", FIRST)])

    for address, allowed in ((EXTERNAL, external), (INSIDE, inside)):
        for source in (POD[4], ""):
            assert ask(world, source, address).server in (names(FIRST) if allowed else {"elsewhere"})
        story = world.agent.kpx("explain", f"{address}:80").stdout
        assert ("external IPs outside of --external-ip-ranges are not answered" in story) is not allowed
        said = f"{address} is outside of --external-ip-ranges" in world.agent.log.read_text()
        assert said is not allowed


def test_an_external_ip_that_becomes_an_address_of_this_node_is_the_nodes(world: World) -> None:
    """Decision 0021: meanwhile packets go where the host says, the Service's other address goes on, and a line says why."""
    begin(world, [*WEB, service("asks", "10.96.0.40", external_ips=[EXTERNAL, INSIDE]), slice_of("asks", FIRST)])
    assert {ask(world, CLIENT[4], INSIDE).server for _ in range(4)} == names(FIRST)

    world.node.add_address(INSIDE)
    eventually(lambda: ask(world, CLIENT[4], INSIDE, timeout_s=0.2).server not in names(FIRST), world)
    assert {ask(world, CLIENT[4], EXTERNAL).server for _ in range(4)} == names(FIRST)
    said = f"spec.externalIPs[1]: {INSIDE} is an address of node n1 and is not answered"
    eventually(lambda: said in world.agent.log.read_text(), world)
    assert "--external-ip-ranges lacks the word node" in world.agent.kpx("explain", f"{INSIDE}:80").stdout

    (interface,) = world.node.namespace.run("ip", "-o", "-4", "address", "show", "to", INSIDE).stdout.split()[1:2]
    world.node.namespace.ip(f"address delete {INSIDE}/32 dev {interface}")
    eventually(lambda: ask(world, CLIENT[4], INSIDE, timeout_s=0.2).server in names(FIRST), world)


@pytest.mark.dataplane("nftables")
def test_one_family_that_fails_leaves_the_other_alone(world: World) -> None:
    """P1: somebody has taken the table of IPv6 for himself; IPv4 is served from the start, IPv6 once he lets go."""
    world.agent.run_options = ("--sync-period", "1")
    world.agent.write(WEB, mark=False)
    with taken(world, nft.NFPROTO_IPV6):
        world.agent.launch()

        assert ask(world, POD[4], VIP[4]).verdict == "answered"
        assert ask(world, POD[6], VIP[6]).verdict != "answered"
        world.agent.write([slice_of("web4", SECOND)], mark=False)
        eventually(lambda: {ask(world, POD[4], VIP[4]).server for _ in range(6)} == names(SECOND), world)
        assert "could not be forgotten" not in world.agent.log.read_text()
    eventually(lambda: ask(world, POD[6], VIP[6]).verdict == "answered", world)


@contextlib.contextmanager
def taken(world: World, family: int) -> Iterator[None]:
    """Hold the table kpx of a family as its owner, which keeps everybody else from writing it (NFT_TABLE_F_OWNER)."""
    with world.node.namespace.entered():
        owner = Netlink()
    first, number, last = owner.sequences(3)
    words = string(1, "kpx") + be32(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER)
    table = nft.request(nft.NEWTABLE, NLM_F_CREATE | NLM_F_ACK, number, family, words)
    with contextlib.closing(owner):
        assert owner.transact(nft.batch_begin(first) + table + nft.batch_end(last), first, number) == []
        yield
