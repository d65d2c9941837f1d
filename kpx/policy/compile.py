"""
Compile: a Service, its slices and this node give what the node ought to forward. The door of this room.

Pure: equal arguments give an equal program, whatever happened before, and slices may come in any order. A program depends on
its own Service, on the slices of that Service and what checking their endpoints found out, on the node's facts and on who owns
which claim, on nothing else; that is what makes it enough to compile dirty Services.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from kpx.model.addresses import Address, Family
from kpx.model.endpointslice import EndpointSlice
from kpx.model.facts import NodeFacts
from kpx.model.findings import Finding
from kpx.model.health_check import EndpointHealth
from kpx.model.names import ObjectName, PortName, Protocol
from kpx.model.service import Service, ServicePort
from kpx.policy import matrix
from kpx.policy.admission import admitted, turned_away
from kpx.policy.checked import UNCHECKED, Checked
from kpx.policy.claims import Claims, families_of
from kpx.policy.desired import (
    NOT_LOCAL,
    Backend,
    Frontend,
    FrontendKind,
    FrontendProgram,
    LocalPolicies,
    PortProgram,
    ServiceProgram,
)
from kpx.policy.eligibility import Eligible, choose, join
from kpx.policy.exposure import Exposed, expose, places, where
from kpx.policy.extent import MOST_PAIRS, pairs_asked_for, too_much
from kpx.policy.scheduling import resolve_scheduler


def compile_service(
    service: Service,
    slices: Iterable[EndpointSlice],
    facts: NodeFacts,
    claims: Claims,
    health: EndpointHealth | None = None,
) -> ServiceProgram:
    """
    Return what this node forwards for one Service; an empty program when it is skipped (S1, S4).

    Args:
        service: the Service; `claims` must have been told of it.
        slices: those of the Service, skipped ones may be among them.
        facts: this node.
        claims: who owns which frontend, told of what is `admitted` only.
        health: which endpoints fail their check; ignored when the Service asks for no check.
    """
    if service.skipped:
        return ServiceProgram(service.name)
    usable = [one for one in slices if not one.skipped]
    findings = turned_away(service, facts)
    service = admitted(service, facts)
    if (asked := pairs_asked_for(service, usable)) > MOST_PAIRS:
        return ServiceProgram(service.name, findings=(*findings, too_much(service.name, asked)))
    checked = _checked(service, health)
    ports: list[PortProgram] = []
    cluster_ips: list[Address] = []
    families = families_of(service)
    taken: set[Frontend] = set()
    for family in facts.families:
        if family not in families:
            continue  # V1
        on = places(service, family, facts, claims, findings)
        cluster_ips.extend(place.address for place in on if place.kind is FrontendKind.CLUSTER_IP)
        of_family = [one for one in usable if one.family == family]  # J8
        for port in service.ports:
            exposed = _once(expose(service, port, family, on, facts, claims, findings), port, service.name, taken, findings)
            ports.append(_compile_port(service, port, family, exposed, of_family, facts, _of_port(checked, service, port)))
    if len(ports) > 1:
        ports.sort(key=_port_order)
    scheduler = resolve_scheduler(service, facts, findings)
    addresses = tuple(sorted(cluster_ips))
    return ServiceProgram(
        service.name, tuple(ports), addresses, tuple(findings), scheduler, _local_policies(service), service.health_check
    )


def compile_all(
    services: Mapping[ObjectName, Service],
    slices_of: Callable[[ObjectName], Iterable[EndpointSlice]],
    facts: NodeFacts,
    claims: Claims,
    health: Mapping[ObjectName, EndpointHealth] = MappingProxyType({}),
) -> dict[ObjectName, ServiceProgram]:
    """Return the program of every Service; `claims` must have been told of all of them."""
    return {
        name: compile_service(service, slices_of(name), facts, claims, health.get(name)) for name, service in services.items()
    }


def _checked(service: Service, health: EndpointHealth | None) -> Checked:
    """Return what is known of the endpoints' health; what was found out by a check that nobody asks for any more is nothing."""
    if service.health_check is None or health is None or not health.failing:
        return UNCHECKED
    failing = {Backend(address, port): why for address, port, why in health.failing}
    return Checked(failing, service.health_check.panic_percent)


def _local_policies(service: Service) -> LocalPolicies:
    local = LocalPolicies(service.internal_policy_local, service.external_policy_local, service.health_check_node_port)
    return NOT_LOCAL if local == NOT_LOCAL else local  # one value for nearly all of many thousand Services


def _of_port(checked: Checked, service: Service, port: ServicePort) -> Checked:
    """Return what is known of a port's endpoints: a check of the endpoints' own ports says nothing of UDP and SCTP."""
    of_all = service.health_check is not None and service.health_check.port
    return checked if of_all or port.protocol is Protocol.TCP else UNCHECKED


def _port_order(port: PortProgram) -> tuple[PortName, Family]:
    return (port.name, port.family)


def _frontend_order(program: FrontendProgram) -> Frontend:
    return program.frontend


def _once(
    exposed: list[Exposed], port: ServicePort, service: ObjectName, taken: set[Frontend], findings: list[Finding]
) -> list[Exposed]:
    """Leave out frontends that an earlier port of the same Service has; no API server admits that, but a file may say it."""
    if taken.isdisjoint([one.frontend for one in exposed]):
        taken.update([one.frontend for one in exposed])
        return exposed
    result = []
    for one in exposed:
        if one.frontend in taken:
            message = f"{one.frontend} is asked for twice; port {port.name!r} does not get it, give it a number of its own"
            findings.append(Finding(where(service), "spec.ports", message))
        else:
            taken.add(one.frontend)
            result.append(one)
    return result


def _compile_port(
    service: Service,
    port: ServicePort,
    family: Family,
    exposed: list[Exposed],
    slices: list[EndpointSlice],
    facts: NodeFacts,
    checked: Checked,
) -> PortProgram:
    internal_local, external_local = service.internal_policy_local, service.external_policy_local
    accessible = bool(port.node_port or service.external_ips or service.load_balancer_ips)
    eligible = choose(
        join(slices, port.name, port.protocol),
        facts,
        checked,
        uses_cluster=accessible or not internal_local,  # V10
        uses_local=internal_local or (external_local and accessible),
    )
    return PortProgram(
        name=PortName(service.name, port.name, port.protocol),
        family=family,
        frontends=_frontends(service, exposed, eligible, facts, internal_local, external_local, family),
        listed=eligible.listed,
        fates=eligible.fates,
        serving=eligible.serving,
        hairpin=eligible.hairpin,
    )


def _frontends(
    service: Service,
    exposed: list[Exposed],
    eligible: Eligible,
    facts: NodeFacts,
    internal_local: bool,
    external_local: bool,
    family: Family,
) -> tuple[FrontendProgram, ...]:
    detector = facts.local_detector.works_for(family)
    inside = matrix.cluster_ip(eligible, local=internal_local, detector=detector, masquerade_all=facts.masquerade_all)
    outside = matrix.external(eligible, local=external_local, detector=detector)
    result = []
    for frontend, kind, source_ranges, shadowed in exposed:
        pod, host, other = inside if kind is FrontendKind.CLUSTER_IP else outside
        # A1: one client affinity for all frontends of a service port, so its timeout is the Service's.
        affinity = service.affinity_timeout_s
        result.append(FrontendProgram(frontend, kind, pod, host, other, affinity, source_ranges, shadowed))
    if len(result) > 1:
        result.sort(key=_frontend_order)
    return tuple(result)
