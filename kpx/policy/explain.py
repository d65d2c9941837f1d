"""
Explain: the story of one packet, told from the same programs the kernel is written from.

Nothing is decided here. Which frontend catches a packet (V12: an exact address before a node port), the verdict for its
source and the reason of each endpoint are read from compiled programs; what no program catches is judged by sections 7 and 9.
Wording lives in `kpx.policy.wording`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from kpx.model.addresses import Address, family_of, format_address, is_loopback
from kpx.model.facts import NodeFacts
from kpx.model.names import ObjectName
from kpx.model.node import ServiceCIDR
from kpx.model.service import Service
from kpx.policy import outcomes, wording
from kpx.policy.admission import admitted, why_not
from kpx.policy.claims import NODE_PORT_ADDRESS, Claim, Claims, claims_of, families_of
from kpx.policy.desired import Action, Frontend, FrontendKind, FrontendProgram, PortProgram, ServiceProgram, Source
from kpx.policy.eligibility import LOCAL, in_local_pool
from kpx.policy.story import Outcome, Packet, Story


class Caught(NamedTuple):
    """The frontend that catches a packet, and whose it is."""

    program: ServiceProgram
    port: PortProgram
    frontend: FrontendProgram


class Scene(NamedTuple):
    """Everything a story is told from."""

    packet: Packet
    programs: Sequence[ServiceProgram]
    services: Mapping[ObjectName, Service]
    facts: NodeFacts
    cidrs: Sequence[ServiceCIDR]
    claims: Claims
    host_addresses: Collection[Address]


def explain(
    packet: Packet,
    programs: Iterable[ServiceProgram],
    services: Mapping[ObjectName, Service],
    facts: NodeFacts,
    cidrs: Iterable[ServiceCIDR],
    claims: Claims,
    host_addresses: Collection[Address],
) -> Story:
    """
    Tell what this node does with the first packet of a flow.

    Args:
        packet: the packet.
        programs: of every Service, from `compile_all`.
        services: the Services themselves, skipped ones included.
        facts: this node.
        cidrs: ranges ClusterIPs come from.
        claims: as used for compiling.
        host_addresses: every address of this host.
    """
    scene = Scene(packet, tuple(programs), services, facts, tuple(cidrs), claims, host_addresses)
    family = family_of(packet.destination)
    if packet.source is not None and family_of(packet.source) != family:
        return Story((f"No packet goes from {format_address(packet.source)} to {packet}: two IP families.",), "pass")
    if family not in facts.families:
        alone = outcomes.left_alone(packet, host_addresses)
        return Story((f"kpx does not forward {family} on this node.", wording.PASSED), "pass", outcomes=alone)
    caught = _caught(scene)
    return _of_uncaught(scene) if caught is None else _of_caught(scene, caught)


def source_kind(
    source: Address | None, facts: NodeFacts, host_addresses: Collection[Address], interface: str = ""
) -> Source | None:
    """
    Return which kind of source an address is, None when it is not given or its interface would have to be known (6.3).

    The range of pod addresses decides first, as it does in the kernel: a bridge address inside it counts as a pod.
    """
    if source is None:
        return None
    prefix = facts.local_detector.prefix(family_of(source))
    if prefix is not None and source in prefix:
        return Source.POD
    if source in host_addresses or is_loopback(source):
        return Source.HOST
    if not facts.local_detector.by_interface:
        return Source.OUTSIDE
    if not interface:
        return None
    return Source.POD if facts.local_detector.is_of_pods(interface) else Source.OUTSIDE


def answers_on_node_ports(address: Address, facts: NodeFacts, host_addresses: Collection[Address]) -> bool:
    """Tell whether an address of this node answers on node ports (N1, N4)."""
    if wording.all_answer(family_of(address), facts):
        return address in host_addresses and not is_loopback(address)
    return address in facts.node_port_addresses


def _caught(scene: Scene) -> Caught | None:
    """Return what catches the packet: the exact frontend, else the node port (V12)."""
    destination, number, protocol = scene.packet[:3]
    family = family_of(destination)
    exact = Frontend(family, destination, protocol, number)
    node_port = Frontend(family, NODE_PORT_ADDRESS, protocol, number)
    fallback = None
    for program in scene.programs:
        for port, frontend in program.frontends():
            if frontend.frontend == exact:
                return Caught(program, port, frontend)
            if frontend.frontend == node_port:
                fallback = Caught(program, port, frontend)
    return fallback if answers_on_node_ports(destination, scene.facts, scene.host_addresses) else None


def _of_caught(scene: Scene, caught: Caught) -> Story:
    packet, facts = scene.packet, scene.facts
    program, port, frontend = caught
    kind = source_kind(packet.source, facts, scene.host_addresses, packet.interface)
    kinds = tuple(Source) if kind is None else (kind,)
    steps = [wording.caught(packet, port, frontend), *_rivals(scene, frontend.frontend), *_shadowed(scene, frontend)]
    steps.append(wording.source(packet.source, kind, facts))
    if frontend.source_ranges and packet.source is not None and not any(packet.source in r for r in frontend.source_ranges):
        steps.append(wording.outside_ranges(packet.source, frontend.source_ranges))  # F2, F3
        dropped = frozenset({Outcome(Action.DROP.value)})
        return Story(tuple(steps), Action.DROP.value, port.name, frontend.frontend, source_kind=kind, outcomes=dropped)
    if frontend.source_ranges and packet.source is None:
        steps.append(wording.only_from(frontend.source_ranges))
    steps += wording.warnings(program)
    verdicts = {each: frontend.verdict(each) for each in kinds}
    decisive = verdicts.get(Source.OUTSIDE, verdicts[kinds[0]])
    # Only a Local policy drops: no endpoint of this node can be used (M6, M11).
    is_local = decisive.action is Action.DROP or (decisive.pool is not None and decisive.pool.name == LOCAL)
    fates = in_local_pool(port.considered) if is_local else port.considered
    steps += wording.per_source(kinds, lambda each: wording.verdict(verdicts[each], port))
    masquerade = {verdict.masquerade for verdict in verdicts.values() if verdict.action is Action.FORWARD}
    if masquerade:
        forwarded = tuple(each for each in kinds if verdicts[each].action is Action.FORWARD)
        steps += wording.per_source(forwarded, lambda each: wording.masquerade(frontend, each, facts))
        steps += wording.hairpin(packet.source, port, decisive)
        steps += wording.affinity(frontend.affinity_timeout_s)
    return Story(
        steps=tuple(steps),
        verdict=decisive.action.value,
        service=port.name,
        frontend=frontend.frontend,
        pool=None if decisive.pool is None else decisive.pool.name,
        endpoints=fates,
        masquerade=_masquerade(packet.source, port, frontend, kinds),
        source_kind=kind,
        outcomes=outcomes.of_verdict(packet, decisive, port, scene.host_addresses) if kind else frozenset(),
    )


def _masquerade(source: Address | None, port: PortProgram, frontend: FrontendProgram, kinds: Sequence[Source]) -> bool | None:
    """Return whether the source address is replaced; None when that depends on the kind of source or the endpoint picked."""
    verdicts = [frontend.verdict(each) for each in kinds]
    values = {verdict.masquerade for verdict in verdicts if verdict.action is Action.FORWARD}
    if len(values) != 1:
        return None
    value = values.pop()
    picked = {backend.address for verdict in verdicts if verdict.pool for backend in verdict.pool.backends}
    if value or source not in port.hairpin or source not in picked:
        return value
    return True if len(picked) == 1 else None  # M16


def _rivals(scene: Scene, frontend: Frontend) -> list[str]:
    """Return a sentence for each Service that asks for a frontend and does not have it (V11)."""
    claim = Claim(frontend.address, frontend.protocol, frontend.port)
    owner = scene.claims.owner(claim)
    asked = ((name, admitted(service, scene.facts)) for name, service in scene.services.items() if name != owner)
    names = (name for name, service in asked if _asks_for(service, claim))
    return [wording.rival(name, owner) for name in sorted(names)]


def _shadowed(scene: Scene, frontend: FrontendProgram) -> list[str]:
    """Return a sentence when the packet would reach a node port if no Service had the address itself (V12)."""
    packet = scene.packet
    owner = scene.claims.owner(Claim(NODE_PORT_ADDRESS, packet.protocol, packet.port))
    if owner is None or frontend.kind is FrontendKind.NODE_PORT:
        return []
    if family_of(packet.destination) not in families_of(scene.services[owner]):
        return []
    if not answers_on_node_ports(packet.destination, scene.facts, scene.host_addresses):
        return []
    return [wording.node_port_shadowed(packet, owner)]


def _asks_for(service: Service, claim: Claim) -> bool:
    if claim.address:
        return claim.address in _addresses(service) and claim in claims_of(service)
    return any(port.node_port == claim.port for port in service.ports) and claim in claims_of(service)


def _addresses(service: Service) -> tuple[Address, ...]:
    return (*service.cluster_ips, *service.external_ips, *service.load_balancer_ips)


def _of_uncaught(scene: Scene) -> Story:
    """Tell the story of a packet that no frontend catches: refused (R5), dropped (R6) or left alone."""
    packet = scene.packet
    text = format_address(packet.destination)
    kind = source_kind(packet.source, scene.facts, scene.host_addresses, packet.interface)
    mentions = _mentions(scene)
    is_here = packet.destination in scene.host_addresses
    for program in scene.programs:
        if packet.destination in program.cluster_ips and not is_here:
            first = wording.unknown_port(packet, scene.services.get(program.service), program)
            return _refused((first, *mentions, wording.REFUSED_PORT), Action.REJECT, kind)
    ranges = [(cidr.name.name, prefix) for cidr in scene.cidrs for prefix in cidr.prefixes if packet.destination in prefix]
    if ranges and not is_here and not _is_external(scene):
        name, prefix = ranges[0]
        first = f"{text} lies in {prefix}, a range for ClusterIPs (ServiceCIDR {name}), and no Service on this node owns it."
        return _refused((first, *mentions, wording.DROPPED_UNOWNED), Action.DROP, kind)
    first = f"No Service is reached at {packet} on this node."
    alone = outcomes.left_alone(packet, scene.host_addresses)
    return Story((first, *mentions, wording.PASSED), "pass", source_kind=kind, outcomes=alone)


def _refused(steps: tuple[str, ...], action: Action, kind: Source | None) -> Story:
    return Story(steps, action.value, source_kind=kind, outcomes=frozenset({Outcome(action.value)}))


def _is_external(scene: Scene) -> bool:
    """Tell whether the destination is somebody's external or load-balancer IP; R6 spares those."""
    kinds = (FrontendKind.EXTERNAL_IP, FrontendKind.LOAD_BALANCER_IP)
    destination = scene.packet.destination
    frontends = (frontend for program in scene.programs for _, frontend in program.frontends())
    return any(one.frontend.address == destination and one.kind in kinds for one in frontends)


def _mentions(scene: Scene) -> list[str]:
    """Return, for each Service that names the destination, why the packet is not caught by it."""
    result = []
    for name, service in sorted(scene.services.items()):
        if scene.packet.destination in _addresses(service):
            sentence = _why_not_caught(scene, service)
            if sentence:
                result.append(sentence)
        elif _is_node_port(scene, service):
            result.append(wording.node_port_elsewhere(scene.packet, name, scene.facts))
    return result


def _is_node_port(scene: Scene, service: Service) -> bool:
    if service.skipped or family_of(scene.packet.destination) not in families_of(service):
        return False
    return any((port.node_port, port.protocol) == scene.packet[1:3] for port in service.ports)


def _why_not_caught(scene: Scene, service: Service) -> str:
    destination, number, protocol = scene.packet[:3]
    text, family = format_address(destination), family_of(destination)
    if service.skipped:
        return f"Service {service.name} names {text}, but kpx leaves it alone: {service.skipped}."
    if family not in families_of(service):  # V1
        return f"Service {service.name} names {text}, but without an {family} ClusterIP it has no part in {family}."
    if destination in service.cluster_ips:
        owner = scene.claims.owner(Claim(destination, None, 0))
        return "" if owner in (None, service.name) else wording.rival(service.name, owner)
    if all((port.port, port.protocol) != (number, protocol) for port in service.ports):  # R7
        return f"{text} is an external address of Service {service.name}, but only for {wording.ports_of(service)}."
    owner = scene.claims.owner(Claim(destination, protocol, number))
    if owner not in (None, service.name):
        return wording.rival(service.name, owner)
    why = wording.refused_external_ip(why_not(destination, scene.facts), scene.facts)
    return f"Service {service.name} names {text}, but {why}."
