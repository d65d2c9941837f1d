"""Health-check node ports as a load balancer outside sees them, over real links and past the rules of kpx (section 14)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import features
from tests.lab.http_client import Response, ask
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, assert_served_by, begin, eventually, names, place, shop, write
from tests.lab.world import World

pytestmark = pytest.mark.dataplane

PORT, OTHER_PORT = 32000, 32001
VERSIONS = (4, 6)
READY: dict[str, object] = {}
TERMINATING: dict[str, object] = {"conditions": {"ready": False, "serving": True, "terminating": True}}

ALL_READY = [(200, "2"), (200, "1")]
NOWHERE = [None, None]

NODE_OBJECT: dict[str, object] = {
    "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
    "status": {"addresses": [{"type": "InternalIP", "address": NODE[version]} for version in VERSIONS]},
}  # fmt: skip


def service(port: int = PORT, policy: str = "Local") -> dict[str, object]:
    """A dual-stack Service behind a load balancer."""
    spec = {
        "type": "LoadBalancer", "clusterIPs": ["10.96.0.10", "fd00:96::10"], "clusterIP": "10.96.0.10",
        "ipFamilies": ["IPv4", "IPv6"], "externalTrafficPolicy": policy, "ports": [{"port": 80, "nodePort": 30080}],
        **({"healthCheckNodePort": port} if policy == "Local" else {}),
    }  # fmt: skip
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "web"}, "spec": spec}


def slices(local: dict[str, object]) -> list[dict[str, object]]:
    """Two endpoints on this node in IPv4, as `local` says, one in IPv6, and one elsewhere in each."""
    here = {4: ENDPOINTS[4][:2], 6: ENDPOINTS[6][:1]}
    return [
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": f"IPv{version}",
            "metadata": {"namespace": "shop", "name": f"web-{version}", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"port": 8080}],
            "endpoints": [
                *({"addresses": [each], "nodeName": "n1", **local} for each in here[version]),
                {"addresses": [ENDPOINTS[version][-1]], "nodeName": "n2"},
            ],
        }
        for version in VERSIONS
    ]  # fmt: skip


def probe(world: World, version: int, port: int = PORT) -> Response | None:
    """Ask as the load balancer does; None when nobody listens."""
    with place(world, CLIENT[version]).entered():
        try:
            return ask((NODE[version], port))
        except ConnectionRefusedError:
            return None


def told(world: World, port: int = PORT) -> list[tuple[int, str] | None]:
    """Return status and weight in each family."""
    answers = [probe(world, version, port) for version in VERSIONS]
    return [(one.status, one.headers["x-load-balancing-endpoint-weight"]) if one else None for one in answers]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    if features.lacks("IPv6", "health-check node ports"):
        pytest.skip("this kernel has no IPv6")
    objects = [NODE_OBJECT, service(), *slices(READY)]
    with shop(objects, tmp_path, versions=VERSIONS) as world:
        yield begin(world, objects)


def test_load_balancer_is_told_of_every_family_in_time(world: World) -> None:
    """H1, H2, H4, H5, H9: counts follow the endpoints, and the port follows the Service."""
    eventually(lambda: told(world) == ALL_READY, world)
    write(world, *slices(TERMINATING))
    eventually(lambda: told(world) == [(503, "0"), (503, "0")], world)
    write(world, *slices(READY), service(OTHER_PORT))
    eventually(lambda: (told(world), told(world, OTHER_PORT)) == (NOWHERE, ALL_READY), world)
    write(world, service(policy="Cluster"))
    eventually(lambda: told(world, OTHER_PORT) == NOWHERE, world)
    world.wind_up()


def test_port_somebody_has_is_said_and_stops_nothing(world: World) -> None:
    """H6: the other family is told of, the Service is forwarded, and what was wrong is over when the port is no longer wanted."""
    world.responder.listen(world.node.namespace, "somebody", "TCP", NODE[4], OTHER_PORT)
    write(world, service(OTHER_PORT))
    complaint = f"Service shop/web: spec.healthCheckNodePort: cannot listen on {NODE[4]}:{OTHER_PORT} (Address already in use)"
    eventually(lambda: complaint in world.agent.log.read_text(), world)
    answer = probe(world, 6, OTHER_PORT)
    assert answer is not None
    assert answer.headers["x-load-balancing-endpoint-weight"] == "1"
    assert_served_by(world, names(*ENDPOINTS[4][:2]), CLIENT[4], NODE[4], 30080)
    write(world, service())
    eventually(lambda: f"no longer: {complaint}" in world.agent.log.read_text(), world)
    eventually(lambda: told(world) == ALL_READY, world)
