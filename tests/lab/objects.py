"""Manifests in a line each, for tests that are about something else than how manifests look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.lab.topology import version

NODE_NAME = "n1"


def node(*addresses: str, name: str = NODE_NAME) -> dict[str, Any]:
    """A Node with these InternalIPs."""
    status = {"addresses": [{"type": "InternalIP", "address": each} for each in addresses]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": status}


def service_cidr(*ranges: str) -> dict[str, Any]:
    """The ranges that ClusterIPs are taken from."""
    return {
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": list(ranges)},
    }  # fmt: skip


def port(number: int = 80, protocol: str = "TCP", node_port: int = 0, name: str = "") -> dict[str, Any]:
    """A port of a Service."""
    told = {"name": name, "port": number, "protocol": protocol, "nodePort": node_port}
    return {key: value for key, value in told.items() if value}


def service(
    name: str,
    cluster_ip: str,
    *ports: Mapping[str, Any],
    external_ips: Iterable[str] = (),
    load_balancer_ips: Iterable[str] = (),
    affinity_s: int = 0,
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A Service of the type its ports and addresses ask for; port 80/TCP unless told otherwise."""
    kind = "ClusterIP"
    if any("nodePort" in each for each in ports):
        kind = "NodePort"
    spec: dict[str, Any] = {"clusterIP": cluster_ip, "ports": [dict(each) for each in ports] or [port()]}
    spec |= {"clusterIPs": [cluster_ip], "ipFamilies": [f"IPv{version(cluster_ip)}"], "externalIPs": list(external_ips)}
    whole: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "shop", "name": name, "annotations": dict(annotations or {})},
        "spec": spec,
    }
    if load_balancer_ips:
        kind = "LoadBalancer"
        whole["status"] = {"loadBalancer": {"ingress": [{"ip": each} for each in load_balancer_ips]}}
    if affinity_s:
        spec["sessionAffinity"] = "ClientIP"
        spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": affinity_s}}
    spec["type"] = kind
    return whole


def slice_of(
    name: str,
    *addresses: str,
    port: int = 8080,
    protocol: str = "TCP",
    remote: Iterable[str] = (),
    terminating: Iterable[str] = (),
    port_name: str = "",
    number: int = 1,
) -> dict[str, Any]:
    """
    An EndpointSlice of a Service.

    Args:
        remote: those of the addresses that are on another node.
        terminating: those that end: no longer ready, still serving.
        number: which slice of the Service, when it has several.
    """
    elsewhere, ending = set(remote), set(terminating)
    endpoints = [
        {
            "addresses": [each],
            "nodeName": "n2" if each in elsewhere else NODE_NAME,
            "conditions": {"ready": each not in ending, "serving": True, "terminating": each in ending},
        }
        for each in addresses
    ]
    labels = {"kubernetes.io/service-name": name}
    ports = [{"name": port_name, "port": port, "protocol": protocol}]
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "addressType": f"IPv{version(addresses[0]) if addresses else 4}",
        "metadata": {"namespace": "shop", "name": f"{name}-{number}", "labels": labels},
        "ports": ports, "endpoints": endpoints,
    }  # fmt: skip
