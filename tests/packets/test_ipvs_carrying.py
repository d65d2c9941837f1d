"""
Frontends that pass between IPVS and nftables on a live node: whoever is connected stays connected, and no new connection fails in
between (decision 0019, U6).
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.holdings import sets, virtual_servers
from tests.lab.objects import node, port, service, slice_of
from tests.lab.probes import Flow
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, REMOTE, ask, assert_served_by, begin, names, place, shop, who, write
from tests.lab.world import World

pytestmark = pytest.mark.dataplane("ipvs")

WEB, EXTERNAL, DNS = "10.96.0.10", "203.0.113.5", "10.96.0.53"
STICKY_S = 600


def web(**spec: Any) -> dict[str, Any]:
    """The Service of TCP, with more said of it."""
    told = service("web", WEB, port(80, node_port=30080), load_balancer_ips=[EXTERNAL])
    return told | {"spec": told["spec"] | spec}


def dns(affinity_s: int = 0) -> dict[str, Any]:
    """The Service of UDP."""
    return service("dns", DNS, port(53, "UDP"), affinity_s=affinity_s)


STICKY = web(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": STICKY_S}})
OBJECTS = [
    node(NODE[4]),
    web(), slice_of("web", *ENDPOINTS[4], remote=REMOTE),
    dns(), slice_of("dns", *ENDPOINTS[4], remote=REMOTE, protocol="UDP"),
]  # fmt: skip
FLIPS = {
    "affinity": STICKY,
    "external policy Local": web(externalTrafficPolicy="Local"),
    "internal policy Local": web(internalTrafficPolicy="Local"),
    "source ranges": web(loadBalancerSourceRanges=["192.0.2.0/24", "10.244.0.0/16", "192.168.10.0/24"]),
}
"""What may be changed of a Service of which IPVS carries all."""

STAYS_WITH_IPVS = "internal policy Local"
"""Of these, what changes nothing of who carries it while there are endpoints on the node: all sources have the same ones."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A Service of each protocol that IPVS carries."""
    with shop(OBJECTS, tmp_path_factory.mktemp("carrying")) as world:
        yield begin(world, OBJECTS)
        world.wind_up()


def by_nftables(world: World) -> list[str]:
    """The frontends whose new flows are left to nftables."""
    return [line.split()[2] for line in sets(world.node.namespace) if line.startswith("add KPX-BY-NFTABLES ")]


def connect(world: World, protocol: str, source: str, to: str, number: int) -> Flow:
    """Begin a flow that goes on; "" begins it on the node."""
    return Flow(place(world, source), protocol, source, to, number)


class Asking:
    """New connections, one after the other, while something else happens; `seen` counts what became of them."""

    def __init__(self, world: World, ways: list[tuple[str, str, int]]) -> None:
        self.seen: Counter[str] = Counter()
        self._running = True
        self._thread = threading.Thread(target=self._ask, args=(world, ways), daemon=True)
        self._thread.start()

    def _ask(self, world: World, ways: list[tuple[str, str, int]]) -> None:
        while self._running:
            for source, to, number in ways:
                outcome = ask(world, source, to, number)
                self.seen["answered" if outcome.server else f"{outcome} ({source} to {to}:{number})"] += 1

    def stop(self) -> Counter[str]:
        """End it; return what was seen."""
        self._running = False
        self._thread.join()
        return self.seen


@pytest.mark.parametrize("flip", list(FLIPS))
def test_connections_live_on_and_new_ones_succeed(world: World, flip: str) -> None:
    """From IPVS to nftables and back: open connections keep their endpoint on both ways, whoever carries new ones meanwhile."""
    ways = [(POD[4], WEB, 80), (CLIENT[4], NODE[4], 30080), (CLIENT[4], EXTERNAL, 80), ("", WEB, 80)]
    through_ipvs = [connect(world, "TCP", source, to, number) for source, to, number in ways]
    before = [flow.ask() for flow in through_ipvs]
    assert all(outcome.server for outcome in before)
    assert by_nftables(world) == []

    asking = Asking(world, ways)
    try:
        write(world, FLIPS[flip])
        assert bool(by_nftables(world)) == (flip != STAYS_WITH_IPVS)
        assert [flow.ask() for flow in through_ipvs] == before
        through_both = [connect(world, "TCP", source, to, number) for source, to, number in ways]
        meanwhile = [flow.ask() for flow in through_both]
        write(world, web())
    finally:
        seen = asking.stop()
    assert set(seen) == {"answered"}, f"{seen} {world.agent.log_tail()}"
    assert by_nftables(world) == []
    assert [flow.ask() for flow in through_ipvs] == before
    assert [flow.ask() for flow in through_both] == meanwhile
    assert_served_by(world, names(*ENDPOINTS[4]), POD[4], WEB)
    assert world.agent.kpx("diff").returncode == 0
    for flow in (*through_ipvs, *through_both):
        flow.close()


@pytest.mark.parametrize("source", [POD[4], CLIENT[4], ""])
def test_flows_of_udp_live_on(world: World, source: str) -> None:
    """U6: a flow of UDP keeps its endpoint when its frontend changes hands, on both ways."""
    flow = connect(world, "UDP", source, DNS, 53)
    before = flow.ask()
    assert before.server
    write(world, dns(STICKY_S))
    assert by_nftables(world) == [f"{DNS},udp:53"]
    assert flow.ask() == before

    other = connect(world, "UDP", source, DNS, 53)
    through_nftables = other.ask()
    write(world, dns())
    assert flow.ask() == before
    assert other.ask() == through_nftables
    assert_served_by(world, names(*ENDPOINTS[4]), POD[4], DNS, 53, "UDP")
    flow.close()
    other.close()


@pytest.mark.parametrize("affinity_s", [0, STICKY_S], ids=["by IPVS", "by nftables"])
def test_a_flow_of_udp_lives_while_its_endpoint_serves(world: World, affinity_s: int) -> None:
    """U6, U10: kept while the endpoint terminates and serves though others are ready; sent elsewhere once it is gone."""
    write(world, dns(affinity_s))
    flow = connect(world, "UDP", POD[4], DNS, 53)
    server = flow.ask().server
    mine = next(each for each in ENDPOINTS[4] if server in names(each))
    others = [each for each in ENDPOINTS[4] if each != mine]

    write(world, slice_of("dns", *ENDPOINTS[4], remote=REMOTE, protocol="UDP", terminating=[mine]))
    assert flow.ask().server == server
    assert who(world, CLIENT[4], DNS, 53, "UDP") <= names(*others)

    write(world, slice_of("dns", *others, remote=REMOTE, protocol="UDP"))
    assert flow.ask().server in names(*others)
    assert not [line for line in virtual_servers(world.node.namespace) if f"-a -u {DNS}:53 -r {mine}:" in line]
    write(world, dns(), slice_of("dns", *ENDPOINTS[4], remote=REMOTE, protocol="UDP"))
    flow.close()


def test_one_way_flows_find_their_endpoint_still(world: World) -> None:
    """
    A flow of UDP that nobody ever answers is new to connection tracking for ever; it too stays with who began it.

    The server of the lab answers, so answers are thrown away on their way back.
    """
    own = world.node.namespace
    flow = connect(world, "UDP", POD[4], DNS, 53)
    drop = ("iptables", "-t", "raw", "-I", "PREROUTING", "1", "-p", "udp", "--sport", "8080", "-j", "DROP")
    own.run(*drop)
    try:
        assert flow.ask(timeout_s=0.3).verdict == "silence"
        write(world, dns(STICKY_S))
        assert flow.ask(timeout_s=0.3).verdict == "silence"
    finally:
        own.run(*(word if word != "-I" else "-D" for word in drop if word != "1"))
    assert flow.ask().server in names(*ENDPOINTS[4])
    write(world, dns())
    flow.close()


@pytest.mark.parametrize(
    ("see", "carrier"),
    [(web, "ipvsadm"), (lambda: STICKY, "nft")],
    ids=["by IPVS", "by nftables"],
)
def test_every_view_tells_of_it(world: World, see: Callable[[], dict[str, Any]], carrier: str) -> None:
    """`kpx get frontends` shows a frontend once, whoever carries it; `kpx get rows` shows the rows of both."""
    write(world, see())
    listed = json.loads(world.agent.kpx("get", "frontends", "-o", "json").stdout)["frontends"]
    (mine,) = [each for each in listed if each["frontend"] == f"{WEB}:80/TCP"]
    rows = world.agent.kpx("get", "rows", f"{WEB}:80").stdout

    assert mine["kind"] == "ClusterIP"
    assert sorted(mine["endpoints"]) == sorted(f"{each}:8080" for each in ENDPOINTS[4])
    assert (f"ipvsadm -a -t {WEB}:80 -r" in rows) == (carrier == "ipvsadm")
    assert (f"add element ip kpx frontends {{ {WEB} . tcp . 80" in rows) == (carrier == "nft")
    write(world, web())


def test_who_only_reads_knows_the_mode(world: World) -> None:
    """Tables of nftables are there in either mode; what tells them apart is whether IPVS has anything of ours."""
    rows = world.agent.kpx("get", "rows", "--proxy-mode", "auto").stdout

    assert f"ipvsadm -A -t {WEB}:80" in rows
    assert "add chain ip kpx prerouting" in rows
