"""Programs made by hand, for tests of a data plane: what policy would have said, in a line."""

from __future__ import annotations

from kpx.model.addresses import Address, family_of, parse_address
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
) -> ServiceProgram:
    """Return the program of a Service with one port; without endpoints it rejects."""
    address = parse_address(cluster_ip)
    family = family_of(address)
    pool = Pool("cluster", tuple(sorted(Backend(parse_address(e), target_port) for e in endpoints)))

    def program(frontend: Frontend, kind: FrontendKind, masquerade: tuple[bool, bool, bool]) -> FrontendProgram:
        action = Action.FORWARD if endpoints else Action.REJECT
        verdicts = [Verdict(action, pool if endpoints else None, m and bool(endpoints)) for m in masquerade]
        return FrontendProgram(frontend, kind, *verdicts, affinity_timeout_s=affinity_s)

    inside = (False, True, True) if pods_known else (False, False, False)
    always = (True, True, True)
    frontends = [program(Frontend(family, address, protocol, port), FrontendKind.CLUSTER_IP, inside)]
    if external_ip:
        external = Frontend(family, parse_address(external_ip), protocol, port)
        frontends.append(program(external, FrontendKind.EXTERNAL_IP, always))
    if node_port:
        frontends.append(program(Frontend(family, Address(b""), protocol, node_port), FrontendKind.NODE_PORT, always))
    port_name = PortName(ObjectName("test", name), "p", protocol)
    hairpin = tuple(backend.address for backend in pool.backends)
    ports = (PortProgram(port_name, family, tuple(sorted(frontends, key=lambda f: f.frontend)), (), (), (), hairpin),)
    return ServiceProgram(port_name.service, ports, (address,))
