"""Which objects are asked for, with which selectors, and how long the agent waits for them (contract S1, S2, S5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlencode

from kpx.cluster.events import Object
from kpx.model.endpointslice import HEADLESS_LABEL, EndpointSlice
from kpx.model.node import Node, ServiceCIDR
from kpx.model.service import PROXY_NAME_LABEL, Service

PATIENCE_S: Final = 30.0
"""How long the first sync waits for what is useful but not necessary, once all that is necessary has come (16.1)."""


class Kind(NamedTuple):
    """
    One kind, as the API has it.

    Args:
        name: as in an object's `kind`. type: what it decodes to.
        group, version, resource: "" is the core group.
        selectors: query parameters; a server that ignores them does no harm, since decoding looks again (S3).
        needed: nothing is programmed before these were listed (S9); for the others the agent waits `PATIENCE_S`.
        dispensable: a server that does not have it, or does not let us, is good enough.
        outlives: what is known of an object stays in force when the object is gone (T9, 16.10).
        since: the first Kubernetes that has it, for complaints.
    """

    name: str
    type: type[Object]
    group: str
    version: str
    resource: str
    selectors: Mapping[str, str]
    needed: bool = True
    dispensable: bool = False
    outlives: bool = False
    since: str = "1.0"

    @property
    def path(self) -> str:
        """Return where the API serves it, without a query."""
        root = f"/apis/{self.group}" if self.group else "/api"
        return f"{root}/{self.version}/{self.resource}"

    @property
    def full_resource(self) -> str:
        """Return the resource as RBAC and kubectl write it."""
        return f"{self.resource}.{self.group}" if self.group else self.resource

    def target(self, **query: str) -> str:
        """Return path and query of a request."""
        parameters = {**self.selectors, **query}
        return f"{self.path}?{urlencode(parameters)}" if parameters else self.path


def kinds_for(node_name: str, proxy_name: str = "") -> tuple[Kind, ...]:
    """
    Return the kinds the agent of a node follows.

    Args:
        node_name: as `kpx.host.node.node_name` returns it.
        proxy_name: see `kpx.model.service.for_proxy`.
    """
    mine = f"{PROXY_NAME_LABEL}={proxy_name}" if proxy_name else f"!{PROXY_NAME_LABEL}"
    return (
        Kind(
            "Service",
            Service,
            *("", "v1", "services"),
            {"labelSelector": mine, "fieldSelector": "spec.clusterIP!=None"},
        ),
        Kind(
            "EndpointSlice",
            EndpointSlice,
            *("discovery.k8s.io", "v1", "endpointslices"),
            {"labelSelector": f"!{HEADLESS_LABEL}"},
            since="1.21",
        ),
        Kind("Node", Node, "", "v1", "nodes", {"fieldSelector": f"metadata.name={node_name}"}, needed=False, outlives=True),
        Kind(
            "ServiceCIDR",
            ServiceCIDR,
            *("networking.k8s.io", "v1", "servicecidrs"),
            {},
            needed=False,
            dispensable=True,
            since="1.33",
        ),
    )
