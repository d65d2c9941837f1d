"""Where the API server is, as its own Service says it."""

from __future__ import annotations

from typing import Final

from kpx.cluster.view import ClusterView
from kpx.model.addresses import Address
from kpx.model.names import ObjectName

API_SERVICE: Final = ObjectName("default", "kubernetes")
"""The Service of the API server, which it makes itself, with its slices (pkg/controlplane/reconcilers)."""


def api_servers(view: ClusterView) -> frozenset[Address]:
    """Return the addresses of the API server's Service and of its endpoints, ready or not; nothing where there is none."""
    service = view.services.get(API_SERVICE)
    listed = (endpoint.address for one in view.slices_of(API_SERVICE) for endpoint in one.endpoints)
    return frozenset((*(service.cluster_ips if service else ()), *listed))
