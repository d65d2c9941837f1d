"""
The kinds a stand-in API server knows, and what such a server adds to an object it is given.

Nothing is validated but Events (`apiserver_events`): tests that need an object no server would take can have it.
"""

from __future__ import annotations

import copy
import functools
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

Manifest = dict[str, Any]


class Stored(Manifest):
    """An object as a server stores it; never changed, so that it is encoded once."""

    @functools.cached_property
    def raw(self) -> bytes:
        """Return it as JSON, without its kind."""
        return msgspec.json.encode(self)


@dataclass(frozen=True, eq=False)
class Resource:
    """
    A kind, as paths and answers spell it.

    Args:
        blank: what a bookmark of this kind has beside its metadata: the zero value of the Go type.
        fields: field labels that selectors may name, as paths into the object.
        counted: the server keeps `metadata.generation`.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    blank: Mapping[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = ("metadata.name", "metadata.namespace")
    counted: bool = False

    @property
    def api_version(self) -> str:
        """Return what objects of this kind have there."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """Return where paths of this kind begin."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"


_NODE_INFO = ("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion")
_NODE_INFO += ("kubeletVersion", "kubeProxyVersion", "operatingSystem", "architecture")
_NODE_BLANK = {
    "spec": {},
    "status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}, "nodeInfo": dict.fromkeys(_NODE_INFO, "")},
}
_SERVICE_FIELDS = ("metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type")

RESOURCES: Final = (
    Resource("", "v1", "services", "Service", blank={"spec": {}, "status": {"loadBalancer": {}}}, fields=_SERVICE_FIELDS),
    Resource(
        "discovery.k8s.io",
        "v1",
        "endpointslices",
        "EndpointSlice",
        blank={"addressType": "", "endpoints": None, "ports": None},
        counted=True,
    ),
    Resource("", "v1", "nodes", "Node", False, _NODE_BLANK, ("metadata.name", "spec.unschedulable")),
    Resource("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", False, {"spec": {}, "status": {}}, ("metadata.name",)),
    Resource("", "v1", "configmaps", "ConfigMap"),
    Resource("", "v1", "events", "Event"),
    Resource("events.k8s.io", "v1", "events", "Event"),
)
BY_KIND: Final = {(resource.api_version, resource.kind): resource for resource in RESOURCES}
"""A manifest's apiVersion and kind -> the resource."""


def resource_of(manifest: Mapping[str, Any]) -> Resource:
    """Return the resource of a manifest; KeyError when there is none."""
    return BY_KIND[manifest["apiVersion"], manifest["kind"]]


def completed(resource: Resource, manifest: Manifest, number: int, allocate_node_ports: bool, copied: bool = True) -> Manifest:
    """
    Return an object as a server stores it, without what it says in metadata.

    Args:
        number: different for every object; allocations are made of it.
        allocate_node_ports: node ports are given out where a real server does; otherwise only those written are there.
        copied: leave the manifest as it is.
    """
    whole = copy.deepcopy(manifest) if copied else manifest
    if resource.kind == "Service":
        _complete_service(whole, number, allocate_node_ports)
    elif resource.kind == "Node":
        whole.setdefault("spec", {})
        whole["status"] = copy.deepcopy(dict(resource.blank["status"])) | whole.get("status", {})
    elif resource.kind == "EndpointSlice":
        for port in whole.get("ports") or ():
            port.setdefault("name", "")
            port.setdefault("protocol", "TCP")
    return whole


def _complete_service(service: Manifest, number: int, allocate_node_ports: bool) -> None:
    spec = service.setdefault("spec", {})
    service.setdefault("status", {}).setdefault("loadBalancer", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if spec["sessionAffinity"] == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {}).setdefault("timeoutSeconds", 10800)
    outside = spec["type"] in ("NodePort", "LoadBalancer")
    for offset, port in enumerate(spec.get("ports") or ()):
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port["port"])
        if outside and allocate_node_ports and spec.get("allocateLoadBalancerNodePorts", True):
            port.setdefault("nodePort", 30000 + (number * 16 + offset) % 2768)
    if spec["type"] == "ExternalName":
        return
    _complete_addresses(spec, number)
    spec.setdefault("internalTrafficPolicy", "Cluster")
    if outside or spec.get("externalIPs"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", allocate_node_ports)
        if spec["externalTrafficPolicy"] == "Local" and allocate_node_ports:
            spec.setdefault("healthCheckNodePort", 32767 - number % 100)


def _complete_addresses(spec: Manifest, number: int) -> None:
    """Fill in ClusterIPs and families, each from what is there of the others (V1)."""
    allocated = str(ipaddress.ip_address("10.96.0.0") + 256 + number)
    spec.setdefault("clusterIP", next(iter(spec.get("clusterIPs") or ()), allocated))
    spec.setdefault("clusterIPs", [spec["clusterIP"]])
    addresses = [text for text in spec["clusterIPs"] if text not in ("", "None")]
    families = [f"IPv{6 if ':' in text else 4}" for text in addresses] or ["IPv4"]
    spec.setdefault("ipFamilies", families)
    spec.setdefault("ipFamilyPolicy", "SingleStack" if len(spec["ipFamilies"]) == 1 else "PreferDualStack")


def fields_of(value: object) -> Manifest:
    """Return who manages what as `managedFields` spells it; lists are one field."""
    if not isinstance(value, dict):
        return {}
    return {f"f:{key}": fields_of(inner) for key, inner in value.items()}
