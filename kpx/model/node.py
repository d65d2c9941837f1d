"""A Node object and a ServiceCIDR object, as far as kpx reads them."""

from __future__ import annotations

import msgspec

from kpx.model.addresses import Address, Prefix
from kpx.model.names import ObjectName


class Node(msgspec.Struct, frozen=True):
    """
    A Node.

    Args:
        name: ObjectName("", node name).
        addresses: status.addresses, InternalIP before ExternalIP, in order (16.3); host names left out.
        pod_cidrs: spec.podCIDRs, or spec.podCIDR when only that is there.
        zone: label topology.kubernetes.io/zone.
        eligible: False when it is being deleted or tainted ToBeDeletedByClusterAutoscaler (15.1).
    """

    name: ObjectName
    addresses: tuple[Address, ...] = ()
    pod_cidrs: tuple[Prefix, ...] = ()
    zone: str | None = None
    eligible: bool = True


class ServiceCIDR(msgspec.Struct, frozen=True):
    """A ServiceCIDR: ranges ClusterIPs are taken from (S5, R6)."""

    name: ObjectName
    prefixes: tuple[Prefix, ...] = ()
