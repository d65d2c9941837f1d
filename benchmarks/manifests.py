"""The cluster that is measured: N Services of M endpoints, one JSON file each, as a generator of manifests would write them."""

from __future__ import annotations

import ipaddress
import json
import os
from pathlib import Path
from typing import Any

CLUSTER_IPS = ipaddress.IPv4Address("10.96.0.0")
PODS = ipaddress.IPv4Address("10.128.0.0")
CLUSTER_CIDR = "10.128.0.0/9"


def cluster_ip(service: int) -> str:
    """Return the cluster IP of a Service."""
    return str(CLUSTER_IPS + 1 + service)


def objects(service: int, endpoints: int, *, replaced: bool = False) -> dict[str, Any]:
    """
    Return a Service and its slice as a List.

    Args:
        service: which one, from 0.
        endpoints: how many.
        replaced: with another pod in the place of the first.
    """
    name = f"service-{service:06}"
    first = service * endpoints + 1
    pods = [str(PODS + first + number) for number in range(endpoints)]
    if replaced:
        pods[0] = str(ipaddress.IPv4Address("10.255.0.0") + 1 + service % 60_000)
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"namespace": "bench", "name": name, "creationTimestamp": "2024-01-01T00:00:00Z"},
                "spec": {
                    "type": "ClusterIP",
                    "clusterIP": cluster_ip(service),
                    "clusterIPs": [cluster_ip(service)],
                    "ipFamilies": ["IPv4"],
                    "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
                },
            },
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"namespace": "bench", "name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4",
                "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
                "endpoints": [
                    {
                        "addresses": [pod],
                        "nodeName": f"node-{number % 100}",
                        "conditions": {"ready": True, "serving": True, "terminating": False},
                    }
                    for number, pod in enumerate(pods)
                ],
            },
        ],
    }


def write_cluster(directory: Path, services: int, endpoints: int) -> int:
    """Write the files; return how many bytes."""
    total = 0
    for service in range(services):
        text = json.dumps(objects(service, endpoints), separators=(",", ":"))
        total += (directory / f"service-{service:06}.json").write_text(text)
    return total


def rewrite(directory: Path, service: int, endpoints: int, *, replaced: bool) -> None:
    """Replace a Service's file the way the documentation says: write a dot file, then rename it."""
    text = json.dumps(objects(service, endpoints, replaced=replaced), separators=(",", ":"))
    hidden = directory / f".service-{service:06}.json"
    hidden.write_text(text)
    os.rename(hidden, directory / f"service-{service:06}.json")
