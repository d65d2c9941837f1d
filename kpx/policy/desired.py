"""
The answer of policy: frontends, and for each kind of source the pool its packets go to.

A frontend is what a client addresses. What happens to a packet depends on where it came from (the matrix of contract
section 6), so a frontend carries one `Verdict` per `Source`. Most often the three have the same pool; with
externalTrafficPolicy Local, pods and the host have that of the cluster and outsiders that of the node.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from kpx.model.addresses import Address, Family, Prefix, format_endpoint
from kpx.model.findings import Finding
from kpx.model.health_check import HealthCheck
from kpx.model.names import ObjectName, PortName, Protocol


class FrontendKind(enum.Enum):
    """Which promise of the Service a frontend keeps."""

    CLUSTER_IP = "ClusterIP"
    EXTERNAL_IP = "ExternalIP"
    LOAD_BALANCER_IP = "LoadBalancerIP"
    NODE_PORT = "NodePort"


class Frontend(NamedTuple):
    """What a client addresses; `address` is b"" for a node port, which is any node-port address of the family."""

    family: Family
    address: Address
    protocol: Protocol
    port: int

    def __str__(self) -> str:
        if not self.address:
            return f"nodePort:{self.port}/{self.protocol} ({self.family})"
        return f"{format_endpoint(self.address, self.port)}/{self.protocol}"


class Backend(NamedTuple):
    """Where a flow may be sent: an endpoint's address and port."""

    address: Address
    port: int

    def __str__(self) -> str:
        return format_endpoint(self.address, self.port)


class Source(enum.Enum):
    """Where a packet comes from, as the local detector and the routing table see it (section 0: P, H, X)."""

    POD = "pod"
    HOST = "host"
    OUTSIDE = "outside"


class Action(enum.Enum):
    """What happens to a new flow."""

    FORWARD = "forward"
    REJECT = "reject"
    DROP = "drop"


class Reason(enum.Enum):
    """Why an endpoint is in a pool, or is not; the value is the sentence people read."""

    READY = "ready"
    SERVING_TERMINATING = "terminating but still serving, used because no endpoint is ready"
    NOT_READY = "not ready"
    TERMINATING = "terminating, and others are ready"
    NOT_SERVING = "terminating and no longer serving"
    NOT_LOCAL = "on another node, and the policy is Local"
    WRONG_ZONE = "kept for another zone by its hints"
    WRONG_NODE = "kept for another node by its hints"
    FAILED = "failed its health check"
    PANIC = "failed its health check, used because too few endpoints pass"


class Fate(NamedTuple):
    """
    What became of an endpoint in the pool of cluster-wide traffic; most endpoints of a port share one value.

    `detail` is what is known beyond the reason (which check failed), "" when there is nothing.
    """

    chosen: bool
    reason: Reason
    local: bool
    slice_name: str
    detail: str = ""


class Considered(NamedTuple):
    """One endpoint of a service port and its fate."""

    backend: Backend
    chosen: bool
    reason: Reason
    local: bool
    slice_name: str
    detail: str = ""

    @property
    def why(self) -> str:
        """The reason with its detail, as people read it."""
        return f"{self.reason.value} ({self.detail})" if self.detail else self.reason.value


class Pool(msgspec.Struct, frozen=True, gc=False):
    """Endpoints among which new flows are spread: sorted, without duplicates (E8), so equal sets are equal values."""

    name: str
    backends: tuple[Backend, ...]


class Verdict(NamedTuple):
    """What happens to packets of one kind of source: `pool` is None unless the action is FORWARD."""

    action: Action
    pool: Pool | None
    masquerade: bool


class Scheduler(NamedTuple):
    """
    How IPVS spreads new flows over the endpoints of a virtual server; Services share equal values.

    Args:
        name: as the kernel spells it, 1..15 characters.
        flags: IP_VS_SVC_F_SCHED1 (0x08) and IP_VS_SVC_F_SCHED2 (0x10) of include/uapi/linux/ip_vs.h, other bits 0.
    """

    name: str
    flags: int = 0


ROUND_ROBIN = Scheduler("rr")
"""What every kernel with IPVS is expected to have, and what stands in for a scheduler that is missing."""


class FrontendProgram(msgspec.Struct, frozen=True, gc=False):
    """
    A frontend of this node and its fate.

    Args:
        pod, host, outside: the verdict for each kind of source.
        affinity_timeout_s: None without session affinity.
        source_ranges: only these sources may pass (F1); empty means all.
        shadowed: of a node port, the addresses in `NodeFacts.node_port_addresses` on which it does not answer, sorted: there
            a Service has the same number for an address of its own, and the exact frontend wins (V12).
    """

    frontend: Frontend
    kind: FrontendKind
    pod: Verdict
    host: Verdict
    outside: Verdict
    affinity_timeout_s: int | None = None
    source_ranges: tuple[Prefix, ...] = ()
    shadowed: tuple[Address, ...] = ()

    def verdict(self, source: Source) -> Verdict:
        """Return the verdict for a kind of source."""
        return {Source.POD: self.pod, Source.HOST: self.host, Source.OUTSIDE: self.outside}[source]

    def verdicts(self) -> tuple[Verdict, Verdict, Verdict]:
        """Return the three verdicts: pod, host, outside."""
        return (self.pod, self.host, self.outside)


class PortProgram(msgspec.Struct, frozen=True, gc=False):
    """
    A service port in one family.

    Args:
        frontends: those this Service owns here, sorted; frontends lost to another Service are in the findings.
        listed: every endpoint of the port, sorted. fates: what became of each, in the same order. Two tuples rather than one
            of pairs, since both mostly hold values that exist already; there may be a million.
        serving: endpoints that are serving, sorted, whatever the policies say: UDP flows to these live on (U3).
        hairpin: endpoint addresses that may be on this node, thus may reach themselves through a frontend (M16).
    """

    name: PortName
    family: Family
    frontends: tuple[FrontendProgram, ...]
    listed: tuple[Backend, ...]
    fates: tuple[Fate, ...]
    serving: tuple[Backend, ...]
    hairpin: tuple[Address, ...]

    @property
    def considered(self) -> tuple[Considered, ...]:
        """Every endpoint of the port and its reason, sorted by backend."""
        return tuple(Considered(backend, *fate) for backend, fate in zip(self.listed, self.fates, strict=True))


class LocalPolicies(NamedTuple):
    """
    What a Service asks of the node in particular.

    Args:
        internal, external: the traffic policy is Local (V6, V7), whether or not data planes carry it out.
        health_check_port: where the node tells load balancers of its endpoints (V8), 0 for nowhere.
    """

    internal: bool = False
    external: bool = False
    health_check_port: int = 0


NOT_LOCAL = LocalPolicies()


class ServiceProgram(msgspec.Struct, frozen=True, gc=False):
    """
    All that this node forwards for one Service.

    Args:
        ports: one per service port and family, sorted.
        cluster_ips: ClusterIPs whose other ports are refused (R5).
        findings: frontends claimed by an older Service, ports without a usable address, and the like.
        scheduler: for data planes that have schedulers; never one the facts call missing, unless there is no other.
        local: no matter of the data plane, see `kpx.policy.locality`.
        check: likewise; how the agent is to check the endpoints.
    """

    service: ObjectName
    ports: tuple[PortProgram, ...] = ()
    cluster_ips: tuple[Address, ...] = ()
    findings: tuple[Finding, ...] = ()
    scheduler: Scheduler = ROUND_ROBIN
    local: LocalPolicies = NOT_LOCAL
    check: HealthCheck | None = None

    def frontends(self) -> Iterator[tuple[PortProgram, FrontendProgram]]:
        """Yield every frontend with its port."""
        for port in self.ports:
            for frontend in port.frontends:
                yield port, frontend
