"""
One Service goes through every kind of change, live and with packets: type, policies, affinity, ports, families, source ranges.

tests/unit/test_transitions.py shows for every pair of states that no row is left over; here a dozen show that no packet meets
what was before, neither in what is forwarded nor in what is no longer. Who must reach what is computed from the state alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.lab.agent import Object
from tests.lab.objects import node, port, service, slice_of
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, REMOTE, ask, assert_served_by, begin, names, shop, who, write
from tests.lab.world import World

pytestmark = [pytest.mark.dataplane, pytest.mark.needs("IPv6")]

CLUSTER_IP = {4: "10.96.0.10", 6: "fd00:96::10"}
EXTERNAL_IP = {4: "198.51.100.10", 6: "2001:db8:51::10"}
BALANCER = {4: "203.0.113.10", 6: "2001:db8:113::10"}
ANOTHER_CLIENT = {4: "192.0.2.200", 6: "2001:db8:99::1"}
NODE_PORTS = (30080, 30081)
SERVED = {(each, 80) for addresses in (CLUSTER_IP, EXTERNAL_IP, BALANCER) for each in addresses.values()}


class State(NamedTuple):
    """
    What the owner of the Service wrote.

    Args:
        node_port: 0 for none. ranges: only the clients of this file's `CLIENT` and pods may use the load balancer.
    """

    story: str
    families: tuple[int, ...] = (4,)
    cluster_ip: bool = True
    node_port: int = 0
    external_ips: bool = False
    balanced: bool = False
    ranges: bool = False
    external_local: bool = False
    internal_local: bool = False
    affinity: bool = False


NOTHING = State("not there at all", (), cluster_ip=False)
STATES = (
    State("a ClusterIP"),
    State("NodePort, now in both families", (4, 6), node_port=30080),
    State("policy Local and affinity", (4, 6), node_port=30080, external_local=True, affinity=True),
    State("LoadBalancer, both policies Local", (4, 6), node_port=30080, balanced=True, external_local=True, internal_local=True),
    State("no node port, policy Cluster, source ranges", (4, 6), balanced=True, ranges=True),
    NOTHING._replace(story="ExternalName"),
    State("ClusterIP with external IPs, policy Local and affinity", (4,), external_ips=True, external_local=True, affinity=True),
    NOTHING,
    State("LoadBalancer, IPv6 first", (6, 4), node_port=30081, balanced=True, external_ips=True),
    State(
        "source ranges, policy Local, affinity",
        (6, 4),
        node_port=30081,
        balanced=True,
        ranges=True,
        external_local=True,
        affinity=True,
    ),
    State("NodePort of another number, IPv6 alone", (6,), node_port=30080, internal_local=True),
    State("a ClusterIP again"),
)


def manifest(state: State) -> dict[str, Any]:
    """The Service of a state."""
    ports = (port(80, node_port=state.node_port),)
    whole = service("web", CLUSTER_IP[(state.families or (4,))[0]], *ports, affinity_s=600 if state.affinity else 0)
    spec = whole["spec"]
    if not state.families:
        whole["spec"] = {"type": "ExternalName", "externalName": "example.org"}
        return whole
    spec["clusterIPs"] = [CLUSTER_IP[v] for v in state.families]
    spec["ipFamilies"] = [f"IPv{v}" for v in state.families]
    spec["externalIPs"] = list(EXTERNAL_IP.values()) if state.external_ips else []
    spec["internalTrafficPolicy"] = "Local" if state.internal_local else "Cluster"
    if state.node_port or state.balanced or state.external_ips:
        spec["externalTrafficPolicy"] = "Local" if state.external_local else "Cluster"
    if state.balanced:
        spec["type"] = "LoadBalancer"
        spec["loadBalancerSourceRanges"] = [f"{each}/{32 if v == 4 else 128}" for who in (CLIENT, POD) for v, each in who.items()]
        if not state.ranges:
            del spec["loadBalancerSourceRanges"]
        whole["status"] = {"loadBalancer": {"ingress": [{"ip": each} for each in BALANCER.values()]}}
    return whole


SLICES = [slice_of("web", *ENDPOINTS[v], remote=REMOTE, number=v) for v in (4, 6)]


def expected(state: State, source: str, way: str, v: int) -> set[str]:
    """Who may answer: endpoints, "" for silence, "elsewhere" where it is routed as ever, "refused" by the node itself."""
    everywhere, here = names(*ENDPOINTS[v]), names(*ENDPOINTS[v][:2])
    there = {
        "cluster": state.cluster_ip, "external": state.external_ips, "balancer": state.balanced,
        **{f"node {number}": state.node_port == number for number in NODE_PORTS},
    }[way] and v in state.families  # fmt: skip
    if not there:
        return {"refused"} if way.startswith("node") else {"elsewhere"}
    if way == "balancer" and state.ranges and source == ANOTHER_CLIENT[v]:
        return {""}
    if way == "cluster":
        return here if state.internal_local else everywhere
    return here if state.external_local and source != POD[v] else everywhere


def destination(way: str, v: int) -> tuple[str, int]:
    """Where a way into the Service is."""
    if way.startswith("node"):
        return NODE[v], int(way.split()[1])
    return {"cluster": CLUSTER_IP, "external": EXTERNAL_IP, "balancer": BALANCER}[way][v], 80


def look(world: World, state: State, before: State) -> None:
    """Ask by every way, from a pod and from two clients, in both families."""
    for v in (4, 6):
        for way in ("cluster", "external", "balancer", *(f"node {number}" for number in NODE_PORTS)):
            to, number = destination(way, v)
            for source in (POD[v], CLIENT[v], *([ANOTHER_CLIENT[v]] if way == "balancer" else [])):
                why = f"{before.story} -> {state.story}: {source} to {to}:{number}"
                look_from(world, state, source, (to, number), expected(state, source, way, v), why)


def look_from(world: World, state: State, source: str, to: tuple[str, int], wanted: set[str], why: str) -> None:
    """Ask often enough to see all who may answer, or once where nobody must."""
    if not wanted & names(*ENDPOINTS[4], *ENDPOINTS[6]):
        outcome = ask(world, source, *to)
        assert {"refused" if outcome.verdict == "refused" else outcome.server} == wanted, why
    elif state.affinity:
        found = who(world, source, *to, times=4)
        assert found <= wanted, why
        assert len(found) == 1, why
    else:
        assert_served_by(world, wanted, source, *to, times=4 * len(wanted), why=why)


def test_no_packet_meets_what_was_before(tmp_path: Path) -> None:
    """J5, S4, V5, V6, V7, A5, F6, P3: a dozen states, one after the other; after each the kernel is as after a start."""
    objects: list[Object] = [node(*NODE.values()), *SLICES]
    beside = sorted(SERVED)
    with shop(objects, tmp_path, clients=ANOTHER_CLIENT.values(), beside=beside, versions=(4, 6)) as world:
        begin(world, objects)
        before = NOTHING
        for state in STATES:
            if state is NOTHING:
                world.agent.delete([{"kind": "Service", "namespace": "shop", "name": "web"}])
                world.agent.catch_up()
            else:
                write(world, manifest(state))
            look(world, state, before)
            before = state
        assert world.agent.kpx("diff").returncode == 0, "what is in the kernel is what a start would write"
        world.wind_up()
