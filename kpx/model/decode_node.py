"""Nodes and ServiceCIDRs from their wire shapes."""

from __future__ import annotations

from kpx.model import wire
from kpx.model.names import ObjectName
from kpx.model.node import Node, ServiceCIDR
from kpx.model.notes import Notes, read_address, read_prefixes

_AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"
_ADDRESS_RANKS = {"InternalIP": 0, "ExternalIP": 1}


def decode_node(manifest: wire.Node, name: ObjectName, notes: Notes) -> tuple[Node, ...]:
    """Return the Node; internal addresses come before external ones (16.3), host names are left out."""
    spec = manifest.spec or wire.NodeSpec()
    metadata = manifest.metadata or wire.Metadata()
    ranked = []
    for index, entry in enumerate((manifest.status.addresses if manifest.status else None) or ()):
        rank = _ADDRESS_RANKS.get(entry.type or "")
        if rank is None:
            continue
        address = read_address(entry.address or "", f"status.addresses[{index}].address", notes)
        if address is not None:
            ranked.append((rank, index, address))
    if spec.pod_cidrs:
        pod_cidrs = read_prefixes(spec.pod_cidrs, "spec.podCIDRs", notes)
    else:
        pod_cidrs = read_prefixes([spec.pod_cidr] if spec.pod_cidr else [], "spec.podCIDR", notes)
    tainted = any(taint.key == _AUTOSCALER_TAINT for taint in spec.taints or ())
    node = Node(
        name=name,
        addresses=tuple(address for _, _, address in sorted(ranked)),
        pod_cidrs=pod_cidrs,
        zone=(metadata.labels.zone if metadata.labels else None) or None,
        eligible=not metadata.deletion_timestamp and not tainted,
    )
    return (node,)


def decode_service_cidr(manifest: wire.ServiceCIDR, name: ObjectName, notes: Notes) -> tuple[ServiceCIDR, ...]:
    """Return the ServiceCIDR."""
    prefixes = read_prefixes(manifest.spec.cidrs if manifest.spec else None, "spec.cidrs", notes)
    return (ServiceCIDR(name=name, prefixes=prefixes),)
