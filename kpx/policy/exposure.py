"""
Which frontends a Service port answers on at this node (contract sections 4 and 9), and which it asked for in vain.

An exact address wins over a node port (V12), and within a Service a frontend that is named twice is programmed once: the
ClusterIP before external IPs before load-balancer IPs.
"""

from __future__ import annotations

from typing import NamedTuple

from kpx.model.addresses import Address, Family, Prefix, disjoint, family_of, format_address
from kpx.model.facts import NodeFacts
from kpx.model.findings import Finding
from kpx.model.names import ObjectName
from kpx.model.service import Service, ServicePort
from kpx.policy.claims import NODE_PORT_ADDRESS, Claim, Claims, claim_on
from kpx.policy.desired import Frontend, FrontendKind


class Exposed(NamedTuple):
    """
    A frontend this Service owns.

    Args:
        source_ranges: empty when every source may pass (F1).
        shadowed: of a node port, the addresses that an exact frontend with its number has (V12).
    """

    frontend: Frontend
    kind: FrontendKind
    source_ranges: tuple[Prefix, ...]
    shadowed: tuple[Address, ...] = ()


class Place(NamedTuple):
    """An address of a Service in one family, and what its ports on it are."""

    address: Address
    kind: FrontendKind
    source_ranges: tuple[Prefix, ...] = ()


def where(service: ObjectName) -> str:
    """Return how findings of this room name a Service."""
    return f"Service {service}"


def places(service: Service, family: Family, facts: NodeFacts, claims: Claims, findings: list[Finding]) -> list[Place]:
    """
    Return the addresses of a Service in a family, each once, node ports last; none without a ClusterIP in it (V1).

    A ClusterIP that belongs to another Service is left out and named in `findings` (V11).
    """
    cluster_ip = next((address for address in service.cluster_ips if family_of(address) == family), None)
    if cluster_ip is None:
        return []
    result = []
    owner = claims.owner(Claim(cluster_ip, None, 0))
    if owner in (None, service.name):
        result.append(Place(cluster_ip, FrontendKind.CLUSTER_IP))
    else:
        findings.append(_lost(service.name, "spec.clusterIPs", format_address(cluster_ip), owner))
    if service.external_ips or service.load_balancer_ips:
        _add_external(result, service, family, facts)
    if _answers_on_node_ports(family, facts):
        result.append(Place(NODE_PORT_ADDRESS, FrontendKind.NODE_PORT))
    return result


def expose(
    service: Service,
    port: ServicePort,
    family: Family,
    on: list[Place],
    facts: NodeFacts,
    claims: Claims,
    findings: list[Finding],
) -> list[Exposed]:
    """Return the frontends of one service port, in the order of `on`; what is lost or left out is named in `findings`."""
    result = []
    for address, kind, ranges in on:
        number = port.port if address else port.node_port
        if not number:
            continue  # V5: no node port
        frontend = Frontend(family, address, port.protocol, number)
        owner = claims.owner(claim_on(frontend))
        if owner is not None and owner != service.name:
            findings.append(_lost(service.name, _FIELDS[kind], str(frontend), owner))
        else:
            shadowed = () if address else _shadowed(family, port, facts, claims)
            result.append(Exposed(frontend, kind, ranges, shadowed))
    return result


_FIELDS = {
    FrontendKind.CLUSTER_IP: "spec.clusterIPs",
    FrontendKind.EXTERNAL_IP: "spec.externalIPs",
    FrontendKind.LOAD_BALANCER_IP: "status.loadBalancer.ingress",
    FrontendKind.NODE_PORT: "spec.ports",
}


def _add_external(result: list[Place], service: Service, family: Family, facts: NodeFacts) -> None:
    ranges = _source_ranges(service, family, facts)
    seen = {place.address for place in result}
    balanced = frozenset(service.load_balancer_ips) if ranges else frozenset()
    for addresses, kind in (
        (service.external_ips, FrontendKind.EXTERNAL_IP),
        (service.load_balancer_ips, FrontendKind.LOAD_BALANCER_IP),
    ):
        for address in addresses:
            if family_of(address) == family and address not in seen:
                seen.add(address)
                # A load-balancer IP that is an external IP too stays restricted: F1 speaks of the address.
                result.append(Place(address, kind, ranges if address in balanced else ()))


def _source_ranges(service: Service, family: Family, facts: NodeFacts) -> tuple[Prefix, ...]:
    """
    Return the ranges of a family, sorted, none in another; none, or one of length 0, leaves the family open (V4).

    Where this node may pass, so may its load-balancer addresses: where they are addresses of the host, its own connections to
    them have them as source (F4).
    """
    ranges = disjoint(prefix for prefix in service.source_ranges if family_of(prefix.address) == family)
    if any(prefix.length == 0 for prefix in ranges):
        return ()
    if not any(address in prefix for prefix in ranges for address in facts.node_ips):
        return ranges
    own = (Prefix(address, len(address) * 8) for address in service.load_balancer_ips if family_of(address) == family)
    return disjoint((*ranges, *own))


def _answers_on_node_ports(family: Family, facts: NodeFacts) -> bool:
    """Tell whether any address of this node answers on node ports in a family (N1)."""
    return family in facts.node_port_any or any(family_of(address) == family for address in facts.node_port_addresses)


def _shadowed(family: Family, port: ServicePort, facts: NodeFacts, claims: Claims) -> tuple[Address, ...]:
    """Return the node-port addresses of a family that some Service, maybe this one, has for the same number (V12), sorted."""
    taken = claims.addresses_with(port.protocol, port.node_port, facts.node_port_addresses)
    return tuple(sorted(address for address in taken if family_of(address) == family)) if taken else ()


def _lost(service: ObjectName, field: str, what: str, owner: ObjectName | None) -> Finding:
    message = f"{what} belongs to older Service {owner}; change it in one of the two, until then traffic goes to {owner}"
    return Finding(where(service), field, message)
