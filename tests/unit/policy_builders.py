"""Short ways to write Services, slices and node facts in tests of the policy room."""

from __future__ import annotations

from collections.abc import Iterable

from kpx.model.addresses import Address, Family, Prefix, family_of, parse_address, parse_prefix
from kpx.model.endpointslice import Endpoint, EndpointSlice, SlicePort
from kpx.model.facts import LocalDetector, NodeFacts
from kpx.model.names import ObjectName, Protocol
from kpx.model.service import Service, ServicePort
from kpx.policy.claims import Claims
from kpx.policy.compile import compile_service
from kpx.policy.desired import Backend, FrontendProgram, PortProgram, ServiceProgram

TCP, UDP = Protocol.TCP, Protocol.UDP
HTTP = ServicePort("http", TCP, 80, 30080)
FACTS = NodeFacts(
    name="n1",
    zone="a",
    node_ips=(parse_address("192.0.2.1"),),
    node_port_addresses=frozenset({parse_address("192.0.2.1")}),
    local_detector=LocalDetector(prefixes=(parse_prefix("10.244.0.0/16"),)),
)
HOST = (parse_address("192.0.2.1"), parse_address("192.0.2.99"), parse_address("127.0.0.1"))


def named(text: str) -> ObjectName:
    namespace, _, name = text.partition("/")
    return ObjectName(namespace, name)


def addresses(*texts: str) -> tuple[Address, ...]:
    return tuple(map(parse_address, texts))


def service(
    name: str = "shop/web",
    ip: str | tuple[str, ...] = "10.96.0.1",
    *,
    ports: tuple[ServicePort, ...] = (HTTP,),
    eip: tuple[str, ...] = (),
    lb: tuple[str, ...] = (),
    ranges: tuple[str, ...] = (),
    created: str = "",
    skipped: str = "",
    internal_local: bool = False,
    external_local: bool = False,
    affinity: int | None = None,
) -> Service:
    return Service(
        named(name),
        created=created,
        skipped=skipped,
        cluster_ips=addresses(*([ip] if isinstance(ip, str) else ip)),
        ports=ports,
        external_ips=addresses(*eip),
        load_balancer_ips=addresses(*lb),
        source_ranges=tuple(map(parse_prefix, ranges)),
        internal_policy_local=internal_local,
        external_policy_local=external_local,
        affinity_timeout_s=affinity,
    )


def endpoint(
    address: str,
    state: str = "ready",
    *,
    node: str | None = "n2",
    zones: tuple[str, ...] = (),
    nodes: tuple[str, ...] = (),
) -> Endpoint:
    """Write an endpoint; `state` is ready, unready, draining (terminating and serving), gone (terminating only)."""
    ready, serving, terminating = {
        "ready": (True, True, False),
        "unready": (False, False, False),
        "draining": (False, True, True),
        "gone": (False, False, True),
    }[state]
    return Endpoint(parse_address(address), ready, serving, terminating, node, None, zones, nodes)


def one_slice(
    *endpoints: Endpoint,
    name: str = "web-1",
    ports: tuple[SlicePort, ...] = (SlicePort("http", TCP, 8080),),
    family: Family | None = None,
    skipped: str = "",
) -> EndpointSlice:
    if family is None:
        family = family_of(endpoints[0].address) if endpoints else Family.IPV4
    return EndpointSlice(ObjectName("shop", name), named("shop/web"), family, ports, endpoints, skipped)


def claims_for(*services: Service) -> Claims:
    claims = Claims()
    for one in services:
        claims.update(one.name, one)
    return claims


def compiled(one: Service, *slices: EndpointSlice, facts: NodeFacts = FACTS, rivals: Iterable[Service] = ()) -> ServiceProgram:
    return compile_service(one, slices, facts, claims_for(one, *rivals))


def frontends(program: ServiceProgram) -> dict[str, FrontendProgram]:
    """Return the frontends of a program by their printed form."""
    return {str(frontend.frontend): frontend for _, frontend in program.frontends()}


def printed(values: Iterable[Backend | Prefix]) -> list[str]:
    return [str(value) for value in values]


def pod_backends(program: ServiceProgram, frontend: str) -> list[str]:
    """Return where packets of pods to a frontend go."""
    pool = frontends(program)[frontend].pod.pool
    assert pool is not None
    return printed(pool.backends)


def only_port(program: ServiceProgram) -> PortProgram:
    (port,) = program.ports
    return port
