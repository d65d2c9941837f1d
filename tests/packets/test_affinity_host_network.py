"""Session affinity to an endpoint on the host's own network: flows to it end at this host, so they never leave by postrouting."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.flows import Expected, Row
from tests.lab.world import NodeConfig, World

NODE, REMOTE, VIP, NODE_PORT = "192.0.2.1", "10.244.2.9", "10.96.0.5", 30005
CLIENTS = {f"198.18.0.{number}": "external" for number in range(1, 5)} | {"10.244.1.3": "pod"}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"namespace": "shop", "name": "web"},
    "spec": {
        "type": "NodePort",
        "clusterIP": VIP,
        "clusterIPs": [VIP],
        "ipFamilies": ["IPv4"],
        "sessionAffinity": "ClientIP",
        "ports": [{"name": "http", "protocol": "TCP", "port": 80, "nodePort": NODE_PORT}],
    },
}
SLICE = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    "endpoints": [{"addresses": [NODE], "nodeName": "n1"}, {"addresses": [REMOTE], "nodeName": "n2"}],
}


@pytest.mark.dataplane
def test_clients_stay_on_an_endpoint_of_the_host_network(tmp_path: Path) -> None:
    """A1, A2, E4: by the node port and by the ClusterIP, each client goes where it went first; half of them go to this host."""
    to = Expected("dnat", (f"{NODE}:8080", f"{REMOTE}:8080"))
    rows = [
        Row(f"{client} to {place}", kind, client, place, "TCP", port, to, repeat=12, sticky=True, sticky_group=client)
        for client, kind in CLIENTS.items()
        for place, port in ((NODE, NODE_PORT), (VIP, 80))
    ]
    config = NodeConfig("n1", (NODE,), cluster_cidrs=("10.244.0.0/16",))
    with World(config, [SERVICE, SLICE], rows, tmp_path) as world:
        world.agent.write([SERVICE, SLICE], mark=False)
        world.agent.start()
        for row in rows:
            world.check(row)
