"""
How much one Service may ask of a node.

Addresses, ports and endpoints of a Service multiply: each endpoint is a row under each frontend. Ten thousand ports of ten
thousand endpoints are two objects an API server takes, and a hundred million rows, for which no node has the memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kpx.model.endpointslice import EndpointSlice
from kpx.model.findings import Finding
from kpx.model.names import ObjectName
from kpx.model.service import Service

MOST_PAIRS: Final = 1_000_000
"""Pairs of a frontend and an endpoint one Service may have."""


def pairs_asked_for(service: Service, slices: Iterable[EndpointSlice]) -> int:
    """Return how many pairs of a frontend and an endpoint there may be at most, without joining ports."""
    ports = len(service.ports)
    joined = sum(min(ports, len(one.ports)) * len(one.endpoints) for one in slices)
    # A node port is a frontend, too.
    return joined * (len(service.cluster_ips) + len(service.external_ips) + len(service.load_balancer_ips) + 1)


def too_much(name: ObjectName, asked: int) -> Finding:
    """Return the finding about a Service that asks for too much, and gets nothing."""
    text = f"{asked:,} pairs of address, port and endpoint are more than the {MOST_PAIRS:,} one Service may have; split it"
    return Finding(f"Service {name}", "spec.ports", text)
