"""The sentences of a story: what a person on call reads. Words only; which of them applies is decided in `explain`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from kpx.model.addresses import Address, Family, Prefix, family_of, format_address
from kpx.model.facts import NodeFacts
from kpx.model.names import ObjectName
from kpx.model.service import Service
from kpx.policy.admission import Refused
from kpx.policy.desired import (
    Action,
    Considered,
    FrontendKind,
    FrontendProgram,
    PortProgram,
    Reason,
    ServiceProgram,
    Source,
    Verdict,
)
from kpx.policy.eligibility import LOCAL, in_local_pool
from kpx.policy.scheduling import SCHEDULER_FIELD
from kpx.policy.story import Packet

PASSED = "kpx leaves the packet alone: it is routed as usual."
REFUSED_PORT = "New flows to other ports of a ClusterIP are refused at once (port unreachable)."
DROPPED_UNOWNED = "New flows to it are dropped without an answer: routed onwards they could only go in circles."

_KINDS = {
    FrontendKind.CLUSTER_IP: "the ClusterIP",
    FrontendKind.EXTERNAL_IP: "an external IP",
    FrontendKind.LOAD_BALANCER_IP: "a load-balancer IP",
}
_SOURCES = {Source.POD: "a pod", Source.HOST: "this node", Source.OUTSIDE: "outside"}


def caught(packet: Packet, port: PortProgram, frontend: FrontendProgram) -> str:
    """Say which frontend catches the packet."""
    whose = f"of Service {port.name.service}" + (f", port {port.name.port}" if port.name.port else "")
    if frontend.kind is FrontendKind.NODE_PORT:
        text = format_address(packet.destination)
        return f"{text} answers on node ports here, and {packet.port}/{packet.protocol} is the node port {whose}."
    return f"{packet} is {_KINDS[frontend.kind]} {whose}."


def rival(loser: ObjectName, owner: ObjectName | None) -> str:
    """Say who asked in vain."""
    return f"Service {loser} asks for it too; it belongs to {owner}, which is older."


def refused_external_ip(why: Refused | None, facts: NodeFacts) -> str:
    """Say why an external IP is not answered here."""
    if why is Refused.LOOPBACK:
        return "no loopback address is answered"
    if why is Refused.OWN:
        return f"addresses of node {facts.name} are not answered as external IPs; --external-ip-ranges lacks the word node"
    if why is Refused.API_SERVER:
        return "addresses of the API server are not answered as external IPs; --external-ip-ranges lacks the word api-server"
    return "external IPs outside of --external-ip-ranges are not answered"


def source(address: Address | None, kind: Source | None, facts: NodeFacts) -> str:
    """Say what kind of source the packet has, and how that is known."""
    if address is None:
        return "The source is not given, so every kind of source is told."
    text = format_address(address)
    prefix = facts.local_detector.prefix(family_of(address))
    if kind is Source.POD:
        return f"The source {text} counts as a pod: it lies in {prefix}, the range of pod addresses."
    if kind is Source.HOST:
        return f"The source {text} is this node itself."
    if kind is None:
        return f"Whether {text} is a pod is told by the interface its packets come in by, so every kind of source is told."
    if prefix is None:
        return (
            f"The source {text} counts as outside: no range of pod addresses is set, so pods cannot be told from other clients."
        )
    return f"The source {text} is outside: neither in {prefix}, the range of pod addresses, nor an address of this node."


def only_from(ranges: Sequence[Prefix]) -> str:
    """Say that source ranges keep others out."""
    listed = ", ".join(map(str, ranges))
    return f"Only {listed} may use this address (loadBalancerSourceRanges); others are dropped without an answer."


def outside_ranges(address: Address, ranges: Sequence[Prefix]) -> str:
    """Say that source ranges keep the packet out."""
    listed = ", ".join(map(str, ranges))
    return (
        f"Only {listed} may use this address (loadBalancerSourceRanges); {format_address(address)} is dropped without an answer."
    )


def warnings(program: ServiceProgram) -> list[str]:
    """Repeat what is the matter with the scheduler that was asked for."""
    return [f"Note: {finding.field}: {finding.message}." for finding in program.findings if finding.field == SCHEDULER_FIELD]


def per_source(kinds: Sequence[Source], say: Callable[[Source], str]) -> list[str]:
    """Say something once when it is the same for all kinds of source, else for each."""
    said: dict[str, list[str]] = {}
    for kind in kinds:
        said.setdefault(say(kind), []).append(_SOURCES[kind])
    if len(said) == 1:
        return list(said)
    return [f"From {' or '.join(names)}: {text[0].lower()}{text[1:]}" for text, names in said.items()]


def verdict(decided: Verdict, port: PortProgram) -> str:
    """Say what happens to a new flow, to which endpoints it may go, and why the others are left out."""
    if decided.action is Action.DROP:
        return "New flows are dropped without an answer: the policy is Local, and no endpoint on this node can be used."
    if decided.pool is None:
        return f"New flows are refused at once (port unreachable): {_why_nothing(port)}."
    is_local = decided.pool.name == LOCAL
    fates = in_local_pool(port.considered) if is_local else port.considered
    chosen = [fate for fate in fates if fate.chosen]
    whose = "the endpoints on this node, as the policy is Local" if is_local else "endpoints of all nodes"
    why = f"{len(chosen)} of {len(fates)}, {_why_in(chosen)}{_why_out(fates)}"
    return f"New flows go to the {decided.pool.name} pool ({whose}): {why}."


def _why_nothing(port: PortProgram) -> str:
    if port.considered:
        return f"none of {len(port.considered)} endpoints can be used ({_count(port.considered)})"
    name, service = port.name, port.name.service
    what = f"a port named {name.port!r}" if name.port else "a port without a name"
    return f"no EndpointSlice of {service} lists an endpoint on {what} with protocol {name.protocol} for {port.family}"


def _why_in(chosen: Sequence[Considered]) -> str:
    if chosen and all(fate.reason is Reason.SERVING_TERMINATING for fate in chosen):
        return "terminating but still serving, as none is ready"
    failed = sum(fate.reason is Reason.PANIC for fate in chosen)
    return f"ready, {failed} of them although they failed their health check, as too few endpoints pass" if failed else "ready"


def _why_out(fates: Sequence[Considered]) -> str:
    out = [fate for fate in fates if not fate.chosen]
    return f"; left out: {_count(out)}" if out else ""


def _count(fates: Sequence[Considered]) -> str:
    counts = Counter(fate.reason.value for fate in fates)
    return "; ".join(f"{number} {reason}" for reason, number in counts.items())


def masquerade(frontend: FrontendProgram, kind: Source, facts: NodeFacts) -> str:
    """Say which source address the endpoint sees, and why."""
    replaced = frontend.verdict(kind).masquerade
    seen = "The endpoint sees an address of this node as source" if replaced else "The endpoint sees the client's own address"
    if frontend.kind is not FrontendKind.CLUSTER_IP:
        if replaced:
            return f"{seen}: what comes in by a node port or an external address must go back the same way."  # M7, M10
        return f"{seen}: that is what externalTrafficPolicy Local is for."  # M8, M9
    if replaced and facts.masquerade_all:
        return f"{seen}: all traffic to ClusterIPs is masqueraded here (masquerade-all)."  # 6.4
    if replaced:
        return f"{seen}: the client is no pod, and the answer must come back through here."  # M2, M3
    if facts.local_detector.works_for(frontend.frontend.family):
        return f"{seen}: pods answer each other directly."  # M1
    return f"{seen}: no range of pod addresses is set, so ClusterIP traffic is never masqueraded."  # 6.2


def hairpin(address: Address | None, port: PortProgram, decided: Verdict) -> list[str]:
    """Say what happens when a client that is an endpoint reaches itself (M16)."""
    if address not in port.hairpin or decided.pool is None or decided.masquerade:
        return []
    if all(backend.address != address for backend in decided.pool.backends):
        return []
    return ["The client is one of the endpoints: when it reaches itself, it sees an address of this node as source."]


def affinity(timeout_s: int | None) -> list[str]:
    """Say for how long a client stays on its endpoint (A1, A3)."""
    if timeout_s is None:
        return []
    until = f"until {timeout_s} s after its last new flow (session affinity ClientIP)"
    return [f"A client stays on its endpoint {until}, at whichever address of this service port it asks."]


def ports_of(service: Service) -> str:
    """List the ports of a Service."""
    return ", ".join(f"{port.port}/{port.protocol}" + (f" ({port.name})" if port.name else "") for port in service.ports)


def unknown_port(packet: Packet, service: Service | None, program: ServiceProgram) -> str:
    """Say that a ClusterIP has no such port, and which it has."""
    has = f"it has {ports_of(service)}" if service is not None and service.ports else "it has no ports"
    text = format_address(packet.destination)
    return f"{text} is the ClusterIP of Service {program.service}, which has no port {packet.port}/{packet.protocol}: {has}."


def all_answer(family: Family, facts: NodeFacts) -> bool:
    """Tell whether every address of the host but loopback answers on node ports; addresses that are listed are all there are."""
    return family in facts.node_port_any and not any(family_of(address) == family for address in facts.node_port_addresses)


def node_port_shadowed(packet: Packet, service: ObjectName) -> str:
    """Say that an exact frontend has the address and number of a node port (V12)."""
    text = format_address(packet.destination)
    number = f"{packet.port}/{packet.protocol}"
    return f"{number} is also a node port of Service {service}, which does not answer on {text}: an exact address wins."


def node_port_elsewhere(packet: Packet, service: ObjectName, facts: NodeFacts) -> str:
    """Say that the number is a node port, asked of an address that does not answer on node ports (N1, N7)."""
    family = family_of(packet.destination)
    if all_answer(family, facts):
        answering = "only addresses of this node other than loopback do"
    else:
        addresses = sorted(address for address in facts.node_port_addresses if family_of(address) == family)
        answering = f"only {', '.join(map(format_address, addresses))} answers" if addresses else "no address does"
    text = format_address(packet.destination)
    return f"{packet.port}/{packet.protocol} is a node port of Service {service}, but not on {text}: {answering} here."
