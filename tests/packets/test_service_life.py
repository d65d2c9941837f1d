"""
The life of a Service as its owner changes it, with packets after every step: what the end-to-end tests of Kubernetes ask of a
proxy (docs/contract.md, the end-to-end list) and no case of tests/cases does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.lab.agent import Object
from tests.lab.netns import PATIENCE
from tests.lab.objects import node, port, service, service_cidr, slice_of
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, REMOTE, ask, assert_served_by, begin, eventually, names, shop, who, write
from tests.lab.world import World

pytestmark = pytest.mark.dataplane

WEB, OTHER = "10.96.0.10", "10.96.0.20"
BALANCER, FORMER = "203.0.113.10", "203.0.113.11"
FIRST, SECOND, THIRD = ENDPOINTS[4]
HTTP, HTTPS, DNS = port(80, name="http"), port(443, name="https"), port(53, "UDP", name="dns")
NODE_OBJECT = node(NODE[4])
ALL = names(*ENDPOINTS[4])


def changed(manifest: Object, **spec: object) -> dict[str, Any]:
    """The same object with these fields of its spec."""
    return {**manifest, "spec": {**manifest["spec"], **spec}}


def with_endpoints(manifest: Object, *endpoints: Object) -> dict[str, Any]:
    """The same slice with endpoints spelled out."""
    return {**manifest, "endpoints": list(endpoints)}


def several_ports(name: str, *addresses: str, **numbers: int) -> dict[str, Any]:
    """A slice with ports by name: those called dns are UDP."""
    ports = [{"name": key, "port": number, "protocol": "UDP" if key == "dns" else "TCP"} for key, number in numbers.items()]
    return {**slice_of(name, *addresses, remote=REMOTE), "ports": ports}


def verdict(world: World, source: str, to: str, number: int = 80, protocol: str = "TCP") -> str:
    """What becomes of one new flow: answered, refused, silence."""
    return ask(world, source, to, number, protocol).verdict


def test_ports_and_ways_in_come_and_go(tmp_path: Path) -> None:
    """J5, V5, P6: ports, node ports and load balancers of live Services that share endpoints and a load balancer."""
    slices = [several_ports(name, *ENDPOINTS[4], http=8080, https=8081, dns=8053) for name in ("web", "other")]
    one = [NODE_OBJECT, service("web", WEB, HTTP), service("other", OTHER, DNS), *slices]
    with shop(one, tmp_path, beside=[(BALANCER, 80), (FORMER, 80)]) as world:
        begin(world, one)
        assert_served_by(world, ALL, POD[4], WEB)
        assert_served_by(world, names(*ENDPOINTS[4], port=8053), POD[4], OTHER, 53, "UDP")
        connection = world.flow("TCP", POD[4], WEB, 80)
        server = connection.ask().server

        write(world, service("web", WEB, HTTP, HTTPS))
        assert_served_by(world, names(*ENDPOINTS[4], port=8081), POD[4], WEB, 443)
        assert connection.ask().server == server, "a port that came disturbed another"
        write(world, service("web", WEB, HTTP))
        assert verdict(world, POD[4], WEB, 443) == "refused"
        assert connection.ask().server == server, "a port that went disturbed another"

        balanced = service("web", WEB, HTTP, load_balancer_ips=[BALANCER])
        write(world, changed(balanced, allocateLoadBalancerNodePorts=False))
        assert_served_by(world, ALL, CLIENT[4], BALANCER)
        assert verdict(world, CLIENT[4], NODE[4], 30080) == "refused", "no node port yet"
        write(world, service("web", WEB, port(80, name="http", node_port=30080), load_balancer_ips=[BALANCER]))
        assert_served_by(world, ALL, CLIENT[4], NODE[4], 30080)

        sharing = service("other", OTHER, DNS, load_balancer_ips=[BALANCER])
        write(world, sharing)
        assert_served_by(world, names(*ENDPOINTS[4], port=8053), CLIENT[4], BALANCER, 53, "UDP")
        assert_served_by(world, ALL, CLIENT[4], BALANCER)
        write(world, service("web", WEB, HTTP, load_balancer_ips=[FORMER]))
        assert_served_by(world, ALL, CLIENT[4], FORMER)
        assert_served_by(world, {"elsewhere"}, CLIENT[4], BALANCER, why="an address that was given up is routed as ever")
        assert_served_by(world, names(*ENDPOINTS[4], port=8053), CLIENT[4], BALANCER, 53, "UDP")
        assert verdict(world, CLIENT[4], NODE[4], 30080) == "refused"
        world.wind_up()


def test_a_node_port_that_is_released_is_somebody_elses(tmp_path: Path) -> None:
    """N10, N8: TCP and UDP on one number; a datagram client that never stops talking follows the number to its new owner."""
    numbers = (port(80, name="http", node_port=30080), port(53, "UDP", name="dns", node_port=30080))
    released = service("web", WEB, HTTP, DNS)
    slices = [several_ports("web", FIRST, http=8080, dns=8053), several_ports("other", SECOND, http=8080, dns=8053)]
    objects = [NODE_OBJECT, service("web", WEB, *numbers), service("other", OTHER, HTTP, DNS), *slices]
    with shop(objects, tmp_path) as world:
        begin(world, objects)
        talker = world.flow("UDP", CLIENT[4], NODE[4], 30080, 5555)
        assert talker.ask().server == f"{FIRST}:8053"
        assert_served_by(world, names(FIRST), CLIENT[4], NODE[4], 30080)

        write(world, released)
        assert verdict(world, CLIENT[4], NODE[4], 30080) == "refused"
        write(world, service("other", OTHER, *numbers))
        eventually(lambda: talker.ask(timeout_s=0.2 * PATIENCE).server == f"{SECOND}:8053", world)
        assert_served_by(world, names(SECOND), CLIENT[4], NODE[4], 30080)
        world.wind_up()


def test_slices_of_every_kind_make_one_service(tmp_path: Path) -> None:
    """S2, J4, E2: headless slices, names that mean another number in each slice, endpoints that are published or not."""
    named = several_ports("web", FIRST, http=8080, side=9100)
    otherwise = {**several_ports("web", SECOND, http=9090), "metadata": {**named["metadata"], "name": "web-2"}}
    web = service("web", WEB, HTTP, port(81, name="side"))
    objects = [NODE_OBJECT, web, named, otherwise]
    with shop(objects, tmp_path) as world:
        begin(world, objects)
        both = names(FIRST) | names(SECOND, port=9090)
        assert_served_by(world, both, POD[4], WEB)
        assert_served_by(world, names(FIRST, port=9100), POD[4], WEB, 81)

        write(world, *(hidden(each) for each in (named, otherwise)))
        for source in (POD[4], ""):
            assert verdict(world, source, WEB) == "refused"
        write(world, named, otherwise)
        assert_served_by(world, both, POD[4], WEB)

        write(world, with_endpoints(named, endpoint(FIRST, ready=False)), with_endpoints(otherwise))
        assert verdict(world, POD[4], WEB) == "refused", "an endpoint that is not ready is none"
        write(world, with_endpoints(named, endpoint(FIRST, ready=False, serving=False, terminating=True)))
        assert verdict(world, POD[4], WEB) == "refused", "one that ends and no longer serves is none"
        write(world, with_endpoints(named, endpoint(FIRST, ready=True, serving=False, terminating=True)))
        assert_served_by(world, names(FIRST), POD[4], WEB, why="what is published as ready is used, ending or not")
        world.wind_up()


def hidden(manifest: Object) -> dict[str, Any]:
    """The same slice with the label headless."""
    metadata = manifest["metadata"]
    return {**manifest, "metadata": {**metadata, "labels": {**metadata["labels"], "service.kubernetes.io/headless": ""}}}


def endpoint(address: str, zone: str = "", **conditions: bool) -> dict[str, Any]:
    """An endpoint of this node, with a hint for a zone."""
    hints = {"hints": {"forZones": [{"name": zone}]}} if zone else {}
    return {"addresses": [address], "nodeName": "n1", "conditions": conditions, **hints}


def test_a_node_that_moves_to_another_zone_uses_its_endpoints_at_once(tmp_path: Path) -> None:
    """T9, T4: the label of the Node is changed and taken away."""
    hinted = with_endpoints(slice_of("web"), endpoint(FIRST, "east"), endpoint(SECOND, "west"))
    objects = [in_zone("east"), service("web", WEB, port(80, node_port=30080)), hinted]
    with shop(objects, tmp_path) as world:
        begin(world, objects)
        assert_served_by(world, names(FIRST), POD[4], WEB)
        write(world, in_zone("west"))
        assert_served_by(world, names(SECOND), POD[4], WEB)
        assert_served_by(world, names(SECOND), CLIENT[4], NODE[4], 30080)
        write(world, NODE_OBJECT)
        assert_served_by(world, names(FIRST, SECOND), POD[4], WEB)
        world.wind_up()


def in_zone(zone: str) -> dict[str, Any]:
    """This node in a zone."""
    return {**NODE_OBJECT, "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": zone}}}


def test_source_ranges_of_a_live_service(tmp_path: Path) -> None:
    """F3, F6, V4: added, narrowed, split into halves, cleared; who is open goes on."""
    balanced = service("web", WEB, port(80, node_port=30080), load_balancer_ips=[BALANCER])
    objects = [NODE_OBJECT, balanced, slice_of("web", *ENDPOINTS[4], remote=REMOTE)]
    node_range, pod_range, client_range = (f"{each}/32" for each in (NODE[4], POD[4], CLIENT[4]))
    with shop(objects, tmp_path) as world:
        begin(world, objects)
        connection = world.flow("TCP", CLIENT[4], BALANCER, 80)
        server = connection.ask().server
        for ranges, shut in (
            ([pod_range, node_range], {CLIENT[4]}),
            ([node_range], {CLIENT[4], POD[4]}),
            ([client_range], {POD[4], ""}),
            (["0.0.0.0/1", "128.0.0.0/1"], set()),
            ([client_range, "0.0.0.0/0"], set()),
            ([pod_range], {CLIENT[4], ""}),
            ([], set()),
        ):
            write(world, changed(balanced, loadBalancerSourceRanges=ranges))
            for source in (POD[4], CLIENT[4], ""):
                expected = "silence" if source in shut else "answered"
                assert verdict(world, source, BALANCER) == expected, f"{source or 'the node'} with ranges {ranges}"
            assert verdict(world, CLIENT[4], NODE[4], 30080) == "answered", "ranges are about the load balancer (F1, F7)"
        assert connection.ask().server == server
        world.wind_up()


def test_affinity_stays_within_what_a_way_in_may_use(tmp_path: Path) -> None:
    """A2, A5, A8: many clients, remembered by the ClusterIP on all endpoints, by a Local node port on those of this node."""
    clients = [f"192.0.2.{number}" for number in range(20, 30)]
    sticky = service("web", WEB, port(80, node_port=30080), affinity_s=600)
    local = changed(sticky, externalTrafficPolicy="Local")
    objects = [NODE_OBJECT, service_cidr("10.96.0.0/16"), local, slice_of("web", *ENDPOINTS[4], remote=REMOTE)]
    here = names(FIRST, SECOND)
    with shop(objects, tmp_path, clients=clients) as world:
        begin(world, objects)
        moved = 0
        for client in clients:
            (remembered,) = who(world, client, WEB, times=4)
            (reached,) = who(world, client, NODE[4], 30080, times=4)
            assert reached in here
            assert reached == remembered or remembered not in here, "a remembered endpoint that may be used is used"
            moved += reached != remembered
        assert moved, "ten clients, and chance sent none of them to the other node"

        write(world, sticky)
        for client in clients:
            for to, number in ((WEB, 80), (NODE[4], 30080)):
                assert len(who(world, client, to, number, times=3)) == 1
        write(world, changed(local, sessionAffinity="None"))
        assert_served_by(world, here, clients[0], NODE[4], 30080)
        assert_served_by(world, ALL, clients[0], WEB)
        world.wind_up()
