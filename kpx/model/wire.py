"""
The shapes of Kubernetes objects on the wire: only the fields kpx acts on, under their Kubernetes names.

These are what `msgspec` checks types against, so that a wrong type is reported with its field path; what the values mean is
decided in the `decode` modules. Everything is optional and may be null, as in Go's JSON decoding. Fields that are not here
do not exist for kpx, so a change in them is no change (S7).
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType, field

from kpx.model.endpointslice import HEADLESS_LABEL, SERVICE_NAME_LABEL
from kpx.model.service import PROXY_NAME_LABEL

ZONE_LABEL = "topology.kubernetes.io/zone"
TRIGGER_TIME_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"
SCHEDULER_ANNOTATIONS = {
    "scheduler": "kpx.io/scheduler",
    "scheduler_flags": "kpx.io/scheduler-flags",
    "kube_router_scheduler": "kube-router.io/service.scheduler",
    "kube_router_scheduler_flags": "kube-router.io/service.schedflags",
}
"""Attributes of `Annotations` and what they are called in an object."""
HEALTH_CHECK_OPTIONS = ("interval", "timeout", "rise", "fall", "panic", "host")
"""What can be said about a health check besides how an endpoint is asked."""
HEALTH_CHECK_ANNOTATIONS = {
    "health_check": "kpx.io/health-check",
    **{f"health_check_{name}": f"kpx.io/health-check-{name}" for name in HEALTH_CHECK_OPTIONS},
}
"""Attributes of `Annotations` and what they are called in an object."""


class Wire(msgspec.Struct, rename="camel", gc=False):
    """Base of all wire shapes."""


class Labels(Wire):
    """The labels kpx reads; of two of them any value counts, text or not (S1, S2)."""

    service_name: str | None = field(default=None, name=SERVICE_NAME_LABEL)
    headless: object = field(default=UNSET, name=HEADLESS_LABEL)
    proxy_name: object = field(default=UNSET, name=PROXY_NAME_LABEL)
    zone: str | None = field(default=None, name=ZONE_LABEL)


class Annotations(Wire):
    """The annotations kpx reads; untyped, since YAML may have made a timestamp or a number of the value."""

    trigger_time: object = field(default=None, name=TRIGGER_TIME_ANNOTATION)
    scheduler: object = field(default=None, name=SCHEDULER_ANNOTATIONS["scheduler"])
    scheduler_flags: object = field(default=None, name=SCHEDULER_ANNOTATIONS["scheduler_flags"])
    kube_router_scheduler: object = field(default=None, name=SCHEDULER_ANNOTATIONS["kube_router_scheduler"])
    kube_router_scheduler_flags: object = field(default=None, name=SCHEDULER_ANNOTATIONS["kube_router_scheduler_flags"])
    health_check: object = field(default=None, name=HEALTH_CHECK_ANNOTATIONS["health_check"])
    health_check_interval: object = field(default=None, name=HEALTH_CHECK_ANNOTATIONS["health_check_interval"])
    health_check_timeout: object = field(default=None, name=HEALTH_CHECK_ANNOTATIONS["health_check_timeout"])
    health_check_rise: object = field(default=None, name=HEALTH_CHECK_ANNOTATIONS["health_check_rise"])
    health_check_fall: object = field(default=None, name=HEALTH_CHECK_ANNOTATIONS["health_check_fall"])
    health_check_panic: object = field(default=None, name=HEALTH_CHECK_ANNOTATIONS["health_check_panic"])
    health_check_host: object = field(default=None, name=HEALTH_CHECK_ANNOTATIONS["health_check_host"])


class Metadata(Wire):
    """metadata; timestamps are untyped since YAML may have parsed them already."""

    name: str | None = None
    namespace: str | None = None
    labels: Labels | None = None
    annotations: Annotations | None = None
    creation_timestamp: object = None
    deletion_timestamp: object = None


class Manifest(Wire):
    """What every object has."""

    metadata: Metadata | None = None


class ServicePort(Wire):
    """An entry of Service spec.ports; targetPort is the slice controller's affair (J4)."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    node_port: int | None = None


class ClientIP(Wire):
    """spec.sessionAffinityConfig.clientIP."""

    timeout_seconds: int | None = None


class SessionAffinityConfig(Wire):
    """spec.sessionAffinityConfig."""

    client_ip: ClientIP | None = field(default=None, name="clientIP")


class ServiceSpec(Wire):
    """Service spec."""

    type: str | None = None
    cluster_ip: str | None = field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = field(default=None, name="clusterIPs")
    ip_families: list[str] | None = None
    ports: list[ServicePort] | None = None
    external_ips: list[str] | None = field(default=None, name="externalIPs")
    load_balancer_source_ranges: list[str] | None = None
    external_traffic_policy: str | None = None
    internal_traffic_policy: str | None = None
    session_affinity: str | None = None
    session_affinity_config: SessionAffinityConfig | None = None
    health_check_node_port: int | None = None


class Ingress(Wire):
    """An entry of status.loadBalancer.ingress."""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancer(Wire):
    """status.loadBalancer."""

    ingress: list[Ingress] | None = None


class ServiceStatus(Wire):
    """Service status."""

    load_balancer: LoadBalancer | None = None


class Service(Manifest):
    """v1 Service."""

    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


class EndpointPort(Wire):
    """A port of an EndpointSlice or of Endpoints; an absent name is not a null one (J3)."""

    name: str | UnsetType | None = UNSET
    protocol: str | None = None
    port: int | None = None


class Conditions(Wire):
    """Conditions of an endpoint (E1)."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Named(Wire):
    """A hint: a zone's or node's name."""

    name: str | None = None


class Hints(Wire):
    """Topology hints of an endpoint (T2, T3)."""

    for_zones: list[Named] | None = None
    for_nodes: list[Named] | None = None


class Topology(Wire):
    """Where discovery.k8s.io/v1beta1 kept node and zone."""

    node: str | None = field(default=None, name="kubernetes.io/hostname")
    zone: str | None = field(default=None, name=ZONE_LABEL)


class Endpoint(Wire):
    """An entry of EndpointSlice endpoints."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: Hints | None = None
    topology: Topology | None = None


class EndpointSlice(Manifest):
    """discovery.k8s.io EndpointSlice."""

    address_type: str | None = None
    ports: list[EndpointPort] | None = None
    endpoints: list[Endpoint] | None = None


class EndpointAddress(Wire):
    """An address of a v1 Endpoints subset."""

    ip: str | None = None
    node_name: str | None = None


class EndpointSubset(Wire):
    """A subset of v1 Endpoints."""

    addresses: list[EndpointAddress] | None = None
    not_ready_addresses: list[EndpointAddress] | None = None
    ports: list[EndpointPort] | None = None


class Endpoints(Manifest):
    """v1 Endpoints."""

    subsets: list[EndpointSubset] | None = None


class Taint(Wire):
    """An entry of Node spec.taints."""

    key: str | None = None


class NodeSpec(Wire):
    """Node spec."""

    pod_cidr: str | None = field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = field(default=None, name="podCIDRs")
    taints: list[Taint] | None = None


class NodeAddress(Wire):
    """An entry of Node status.addresses."""

    type: str | None = None
    address: str | None = None


class NodeStatus(Wire):
    """Node status."""

    addresses: list[NodeAddress] | None = None


class Node(Manifest):
    """v1 Node."""

    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class ServiceCIDRSpec(Wire):
    """ServiceCIDR spec."""

    cidrs: list[str] | None = None


class ServiceCIDR(Manifest):
    """networking.k8s.io ServiceCIDR."""

    spec: ServiceCIDRSpec | None = None
