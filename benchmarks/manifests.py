"""The clusters that are measured: Services with endpoints, as JSON files that a generator of manifests would write."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

CLUSTER_IPS = ipaddress.IPv4Address("10.96.0.0")
PODS = ipaddress.IPv4Address("10.128.0.0")
SPARE_PODS = ipaddress.IPv4Address("10.255.0.0")
CLUSTER_CIDR = "10.128.0.0/9"
SLICE_ENDPOINTS: Final = 100
"""So many endpoints Kubernetes' own controller puts into one slice."""
CHANGED_EVERY: Final = 7919
"""Changes go round the Services in steps of this prime, so that no two near each other touch the same one."""

Document = dict[str, Any]


class Cluster(NamedTuple):
    """So many Services, each of so many endpoints and ports."""

    services: int
    endpoints: int
    ports: int = 1

    def __str__(self) -> str:
        what = f"{self.services:,} Service{'s' * (self.services > 1)} of {self.endpoints:,} endpoint{'s' * (self.endpoints > 1)}"
        return what + (f" and {self.ports:,} ports" if self.ports > 1 else "")

    def files(self, service: int, *, replaced: bool = False) -> Iterator[tuple[str, Document]]:
        """
        Yield names and contents of the files of a Service: one, or one a slice where there are several.

        Args:
            replaced: with another pod in the place of the first.
        """
        head, *slices = self.objects(service, replaced=replaced)
        name = f"service-{service:06}"
        if len(slices) == 1:
            yield f"{name}.json", self.document(service, replaced=replaced)
            return
        yield f"{name}.json", head
        for number, one in enumerate(slices, 1):
            yield f"{name}-{number}.json", one

    def document(self, service: int, *, replaced: bool = False) -> Document:
        """Return a Service and its slices as a List."""
        return {"apiVersion": "v1", "kind": "List", "items": self.objects(service, replaced=replaced)}

    def objects(self, service: int, *, replaced: bool = False) -> list[Document]:
        """Return a Service and its slices."""
        name = f"service-{service:06}"
        pods = [str(PODS + service * self.endpoints + 1 + number) for number in range(self.endpoints)]
        if replaced:
            pods[0] = str(SPARE_PODS + 1 + service % 60_000)
        ports = [{"name": f"port-{number}", "protocol": "TCP", "port": 80 + number} for number in range(self.ports)]
        starts = range(0, len(pods), SLICE_ENDPOINTS)
        slices = [_slice(name, 1 + start // SLICE_ENDPOINTS, pods[start : start + SLICE_ENDPOINTS], ports) for start in starts]
        return [_service(name, cluster_ip(service), ports), *slices]

    def change(self, number: int) -> tuple[int, bool]:
        """Return which Service the n-th change touches, and whether its first pod is replaced: each swap is swapped back."""
        return number // 2 * CHANGED_EVERY % self.services, number % 2 == 0

    def changed_slice(self, number: int) -> Document:
        """Return the slice the n-th change leaves."""
        service, replaced = self.change(number)
        return self.objects(service, replaced=replaced)[1]

    def changed_file(self, number: int) -> tuple[str, str]:
        """Return the file the n-th change writes: its name and text."""
        service, replaced = self.change(number)
        files = list(self.files(service, replaced=replaced))
        name, document = files[0 if len(files) == 1 else 1]
        return name, _text(document)

    def write(self, directory: Path) -> int:
        """Write all files; return how many bytes."""
        files = (file for service in range(self.services) for file in self.files(service))
        return sum((directory / name).write_text(_text(document)) for name, document in files)


def replace_file(directory: Path, name: str, text: str) -> None:
    """Replace a file the way the documentation says: write a dot file, then rename it."""
    hidden = directory / f".{name}"
    hidden.write_text(text)
    os.rename(hidden, directory / name)


def cluster_ip(service: int) -> str:
    """Return the cluster IP of a Service."""
    return str(CLUSTER_IPS + 1 + service)


def node(name: str, address: str) -> Document:
    """Return the Node object of this host, which proxies that read an API server wait for."""
    status = {"addresses": [{"type": "InternalIP", "address": address}]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}, "status": status}


def _text(document: Document) -> str:
    return json.dumps(document, separators=(",", ":"))


def _service(name: str, address: str, ports: list[Document]) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "bench", "name": name, "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ports": [{**port, "targetPort": port["port"] + 8000} for port in ports],
        },
    }


def _slice(service: str, number: int, pods: list[str], ports: list[Document]) -> Document:
    labels = {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "bench"}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": "bench", "name": f"{service}-{number}", "labels": labels},
        "addressType": "IPv4",
        "ports": [{**port, "port": port["port"] + 8000} for port in ports],
        "endpoints": [
            {
                "addresses": [pod],
                "nodeName": f"node-{number % 100}",
                "conditions": {"ready": True, "serving": True, "terminating": False},
            }
            for number, pod in enumerate(pods)
        ],
    }
