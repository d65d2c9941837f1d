"""An exact frontend at an address of this node wins over a node port with its number, also when it has no endpoints (V12)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.lab.flows import Expected, Row
from tests.lab.world import ANY_EXTERNAL_IP, NodeConfig, World

NODE, OTHER, POD, CLIENT, NUMBER = "192.0.2.1", "198.51.100.7", "10.244.1.3", "198.18.0.1", 30005


def service(name: str, vip: str, **spec: Any) -> dict[str, Any]:
    addresses = {"clusterIP": vip, "clusterIPs": [vip], "ipFamilies": ["IPv4"]}
    metadata = {"namespace": "shop", "name": name}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"type": "NodePort", **addresses, **spec}}


def endpoints(name: str, *addresses: str) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": "shop", "name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": [{"addresses": [address], "nodeName": "n1"} for address in addresses],
    }


@pytest.mark.dataplane
@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("is_served", [False, True])
def test_it_is_the_exact_frontend_that_answers_or_refuses(sticky: bool, is_served: bool, tmp_path: Path) -> None:
    """With affinity on one of the two, in mode ipvs nftables carries that one and IPVS the other."""
    affinity = {"sessionAffinity": "ClientIP"} if sticky else {}
    ports = [{"name": "http", "protocol": "TCP", "port": 80, "nodePort": NUMBER}]
    exact = [{"name": "http", "protocol": "TCP", "port": NUMBER}]
    objects = [
        service("numbered", "10.96.0.5", ports=ports, **affinity),
        endpoints("numbered", "10.244.1.8"),
        service("exact", "10.96.0.6", ports=exact, externalIPs=[OTHER]),
        endpoints("exact", *(["10.244.1.9"] if is_served else [])),
    ]
    here = Expected("dnat", ("10.244.1.8:8080",), {"10.244.1.8:8080": True})
    there = Expected("dnat", ("10.244.1.9:8080",), {"10.244.1.9:8080": True}) if is_served else Expected("reject")
    clients = ((POD, "pod"), (CLIENT, "external"))
    rows = [
        Row("exact" if place == OTHER else "node port", kind, client, place, "TCP", NUMBER, there if place == OTHER else here)
        for client, kind in (*clients, (NODE, "node"))
        for place in (OTHER, NODE)
    ]
    rows = [row._replace(expected=row.expected._replace(masquerade={})) if row.kind == "node" else row for row in rows]
    config = NodeConfig("n1", (NODE, OTHER), cluster_cidrs=("10.244.0.0/16",), options=ANY_EXTERNAL_IP)
    with World(config, objects, rows, tmp_path) as world:
        world.agent.write(objects, mark=False)
        world.agent.start()
        for row in rows:
            world.check(row)
