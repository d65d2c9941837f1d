"""A Service, reduced to the fields kpx acts on or explains (contract section 4)."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from kpx.model.addresses import Address, Prefix
from kpx.model.names import ObjectName, Protocol

DEFAULT_AFFINITY_TIMEOUT_S = 10800
"""Session affinity without a stated timeout, seconds (V9)."""


class ServicePort(NamedTuple):
    """One entry of spec.ports; `node_port` 0 means none (V5)."""

    name: str
    protocol: Protocol
    port: int
    node_port: int


class Service(msgspec.Struct, frozen=True, gc=False):
    """
    What a Service asks of a node.

    Args:
        name: namespace and name.
        created: metadata.creationTimestamp as text, RFC 3339 in UTC, so text order is time order; "" when unknown,
            which counts as younger than any stated time (V11).
        type: ClusterIP, NodePort or LoadBalancer.
        skipped: why no node forwards it ("headless", "type ExternalName", "label ... is set"), "" when it counts (S1, S4).
        cluster_ips: at most one address a family (V1).
        external_ips: all families (V2). load_balancer_ips: ingress IPs that nodes capture, ipMode VIP (V3).
        source_ranges: loadBalancerSourceRanges, all families; empty when unrestricted (V4).
        affinity_timeout_s: None without session affinity, else 1..86400 (V9).
        health_check_node_port: 0 when none.
    """

    name: ObjectName
    created: str = ""
    type: str = "ClusterIP"
    skipped: str = ""
    cluster_ips: tuple[Address, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    external_ips: tuple[Address, ...] = ()
    load_balancer_ips: tuple[Address, ...] = ()
    source_ranges: tuple[Prefix, ...] = ()
    external_policy_local: bool = False
    internal_policy_local: bool = False
    affinity_timeout_s: int | None = None
    health_check_node_port: int = 0
