"""A Service, reduced to the fields kpx acts on or explains (contract section 4)."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from kpx.model.addresses import Address, Prefix
from kpx.model.health_check import HealthCheck
from kpx.model.names import ObjectName, Protocol

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
"""Says which proxy a Service is for; those without it are for the cluster's main one (KEP-2447)."""

LEFT_TO_OTHERS = f"label {PROXY_NAME_LABEL} is set"
"""Why a Service with the label is skipped, whatever its value, unless the agent goes by that name (S1)."""

DEFAULT_AFFINITY_TIMEOUT_S = 10800
"""Session affinity without a stated timeout, seconds (V9)."""

SCHEDULER_FLAGS = ("fallback", "port")
"""
What can be asked of a scheduler that hashes (sh, mh): to take another endpoint when the hashed one cannot be used, and to hash
the client's port along with its address (include/uapi/linux/ip_vs.h, IP_VS_SVC_F_SCHED_MH_FALLBACK and _PORT).
"""


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
        scheduler: the IPVS scheduler it asks for, None when it leaves that to the node; whether the kernel has it is not
            known here. Data planes that know no schedulers ignore it.
        scheduler_flags: those of `SCHEDULER_FLAGS` it asks for, in that order, or () for none of them; None when it leaves
            that to the scheduler.
        proxy_name: value of `PROXY_NAME_LABEL`, None without it. See `for_proxy`.
        health_check: how the agent is to check the endpoints, None when nobody asks for it.
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
    scheduler: str | None = None
    scheduler_flags: tuple[str, ...] | None = None
    proxy_name: str | None = None
    health_check: HealthCheck | None = None


def for_proxy(service: Service, name: str) -> Service:
    """
    Return the Service as it is to an agent that goes by a name, and forwards what is labelled with that name and nothing else.

    Idempotent. Without a name ("") nothing changes: a decoded Service counts when it has no label (S1).
    """
    if not name or service.skipped not in ("", LEFT_TO_OTHERS):
        return service
    skipped = "" if service.proxy_name == name else f"label {PROXY_NAME_LABEL} is not {name}"
    return service if skipped == service.skipped else msgspec.structs.replace(service, skipped=skipped)
