"""Programs made by hand, for tests of a data plane: what policy would have said, in a line."""

from __future__ import annotations

from kpx.dataplanes.base import KernelFrontend, KernelVerdict
from kpx.model.addresses import Address, family_of, parse_address, parse_prefix
from kpx.model.names import ObjectName, PortName, Protocol
from kpx.policy.desired import (
    Action,
    Backend,
    Frontend,
    FrontendKind,
    FrontendProgram,
    Pool,
    PortProgram,
    ServiceProgram,
    Verdict,
)


def service_program(
    name: str,
    cluster_ip: str,
    endpoints: list[str],
    port: int = 80,
    *,
    external_ip: str = "",
    node_port: int = 0,
    affinity_s: int | None = None,
    protocol: Protocol = Protocol.TCP,
    target_port: int = 8080,
    pods_known: bool = True,
    here: list[str] | None = None,
    source_ranges: tuple[str, ...] = (),
) -> ServiceProgram:
    """
    Return the program of a Service with one port; without endpoints it rejects.

    Args:
        here: where externalTrafficPolicy is Local, the endpoints of this node. source_ranges: of the external IP.
    """
    address = parse_address(cluster_ip)
    family = family_of(address)
    pool = Pool("cluster", tuple(sorted(Backend(parse_address(e), target_port) for e in endpoints)))

    def program(frontend: Frontend, kind: FrontendKind, masquerade: tuple[bool, bool, bool]) -> FrontendProgram:
        action = Action.FORWARD if endpoints else Action.REJECT
        pod, host, outside = (Verdict(action, pool if endpoints else None, m and bool(endpoints)) for m in masquerade)
        if here is not None and endpoints and kind is not FrontendKind.CLUSTER_IP:
            near = Pool("local", tuple(backend for backend in pool.backends if backend.address in map(parse_address, here)))
            outside = Verdict(Action.FORWARD, near, False) if near.backends else Verdict(Action.DROP, None, False)
        ranges = tuple(map(parse_prefix, source_ranges)) if kind is FrontendKind.LOAD_BALANCER_IP else ()
        return FrontendProgram(frontend, kind, pod, host, outside, affinity_s, ranges)

    inside = (False, True, True) if pods_known else (False, False, False)
    always = (True, True, True) if here is None else (False, True, False)
    frontends = [program(Frontend(family, address, protocol, port), FrontendKind.CLUSTER_IP, inside)]
    if external_ip:
        external = Frontend(family, parse_address(external_ip), protocol, port)
        kind = FrontendKind.LOAD_BALANCER_IP if source_ranges else FrontendKind.EXTERNAL_IP
        frontends.append(program(external, kind, always))
    if node_port:
        frontends.append(program(Frontend(family, Address(b""), protocol, node_port), FrontendKind.NODE_PORT, always))
    port_name = PortName(ObjectName("test", name), "p", protocol)
    hairpin = tuple(backend.address for backend in pool.backends)
    ports = (PortProgram(port_name, family, tuple(sorted(frontends, key=lambda f: f.frontend)), (), (), (), hairpin),)
    return ServiceProgram(port_name.service, ports, (address,))


def as_rows_say(program: FrontendProgram) -> KernelFrontend:
    """Return what a data plane that keeps the whole promise reads back from the rows of a frontend."""
    verdicts = [
        KernelVerdict(each.action.value, each.pool.backends if each.pool else (), each.masquerade) for each in program.verdicts()
    ]
    is_told = program.kind in (FrontendKind.CLUSTER_IP, FrontendKind.NODE_PORT)
    is_used = any(each.action == "forward" for each in verdicts)
    affinity = program.affinity_timeout_s if is_used else None
    return KernelFrontend(program.frontend, program.kind if is_told else None, *verdicts, affinity, program.source_ranges)
