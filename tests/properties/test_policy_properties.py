"""
Laws of the policy room: what exists decides, never how it came about.

The worlds are tiny on purpose: few names, addresses and ports, so that Services collide all the time.
"""

from __future__ import annotations

from collections import Counter
from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from kpx.cluster.events import Delete, Event, Upsert
from kpx.cluster.view import ClusterView
from kpx.model.addresses import Address, Family, family_of, parse_address, parse_prefix
from kpx.model.endpointslice import Endpoint, EndpointSlice, SlicePort
from kpx.model.facts import LocalDetector, NodeFacts
from kpx.model.health_check import CheckKind, EndpointHealth, Failing, HealthCheck
from kpx.model.names import ObjectName, Protocol
from kpx.model.service import Service, ServicePort
from kpx.policy.claims import NODE_PORT_ADDRESS, Claim, Claims, claims_of
from kpx.policy.compile import compile_all, compile_service
from kpx.policy.desired import Action, Frontend, PortProgram, ServiceProgram

NAMES = [ObjectName("a", "one"), ObjectName("a", "two"), ObjectName("b", "one")]
VIPS = [parse_address(text) for text in ("10.96.0.1", "10.96.0.2", "10.96.0.3")]
SIX = [parse_address(text) for text in ("fd00:96::1", "fd00:96::2")]
FACTS = NodeFacts(
    "n1",
    zone="a",
    node_port_addresses=frozenset((VIPS[0], VIPS[2], SIX[1])),
    node_port_any=frozenset(Family),
    local_detector=LocalDetector(prefixes=(parse_prefix("10.244.0.0/16"),)),
)
PODS = [parse_address(f"10.244.{node}.{pod}") for node in (1, 2) for pod in (1, 2)]

service_ports = st.builds(
    ServicePort, st.sampled_from(["", "", "http"]), st.sampled_from([Protocol.TCP, Protocol.TCP, Protocol.TCP, Protocol.UDP]),
    st.sampled_from([80, 80, 81, 30000]), st.sampled_from([0, 0, 0, 30000]),
)  # fmt: skip


def some(values: list[Address], most: int = 2) -> st.SearchStrategy[tuple[Address, ...]]:
    return st.lists(st.sampled_from(values), max_size=most, unique=True).map(tuple)


services = st.builds(
    Service,
    st.sampled_from(NAMES),
    created=st.sampled_from(["", "2023-01-01T00:00:00Z", "2024-01-01T00:00:00Z"]),
    skipped=st.sampled_from(["", "", "", "", "", "", "headless"]),
    cluster_ips=st.sampled_from([*((vip,) for vip in VIPS), (), SIX[:1], (VIPS[0], SIX[0]), (SIX[1], VIPS[1])]).map(tuple),
    ports=st.lists(service_ports, min_size=1, max_size=2).map(tuple),
    external_ips=some(VIPS + SIX),
    load_balancer_ips=some(VIPS + SIX),
    source_ranges=st.sampled_from([(), (), (parse_prefix("192.0.2.0/24"),)]),
    external_policy_local=st.booleans(),
    internal_policy_local=st.booleans(),
    affinity_timeout_s=st.sampled_from([None, 60]),
    health_check=st.sampled_from([None, None, HealthCheck(CheckKind.TCP), HealthCheck(CheckKind.TCP, 9, panic_percent=60)]),
)
health = st.builds(
    EndpointHealth,
    st.sampled_from(NAMES),
    st.lists(st.builds(Failing, st.sampled_from(PODS), st.sampled_from([8080, 8081]), st.just("no answer")), max_size=3).map(
        tuple
    ),
)
endpoints = st.builds(
    Endpoint,
    st.sampled_from(PODS),
    ready=st.sampled_from([True, True, False]),
    serving=st.sampled_from([True, True, False]),
    terminating=st.sampled_from([False, False, True]),
    node_name=st.sampled_from([None, "n1", "n2"]),
    zone_hints=st.sampled_from([(), ("a",), ("b",)]),
    node_hints=st.sampled_from([(), (), ("n1",), ("n2",)]),
)
slices = st.builds(
    EndpointSlice,
    st.sampled_from([ObjectName("a", "s1"), ObjectName("a", "s2"), ObjectName("b", "s1")]),
    st.sampled_from(NAMES),
    st.sampled_from([Family.IPV4, Family.IPV4, Family.IPV6]),
    ports=st.lists(
        st.builds(
            SlicePort,
            st.sampled_from(["", "", "http"]),
            st.sampled_from([Protocol.TCP, Protocol.TCP, Protocol.UDP]),
            st.sampled_from([8080, 8081]),
        ),
        min_size=1,
        max_size=2,
    ).map(tuple),
    endpoints=st.lists(endpoints, min_size=1, max_size=4).map(tuple),
    skipped=st.sampled_from(["", "", "", "", "", "headless"]),
)
events = st.one_of(
    services.map(Upsert),
    slices.map(Upsert),
    health.map(Upsert),
    st.builds(Delete, st.just(EndpointHealth), st.sampled_from(NAMES)),
    st.builds(Delete, st.just(Service), st.sampled_from(NAMES)),
    st.builds(
        Delete, st.just(EndpointSlice), st.sampled_from([ObjectName("a", "s1"), ObjectName("a", "s2"), ObjectName("b", "s1")])
    ),
)


def claims_of_all(world: dict[ObjectName, Service]) -> Claims:
    claims = Claims()
    for name, service in world.items():
        claims.update(name, service)
    return claims


def owners(claims: Claims, asked: set[Claim]) -> dict[Claim, ObjectName | None]:
    return {claim: claims.owner(claim) for claim in asked}


@given(st.lists(events, max_size=25), st.lists(st.booleans(), min_size=25, max_size=25))
def test_compiling_what_is_dirty_equals_compiling_everything(history: list[Event], rounds: list[bool]) -> None:
    """With a round after some of the events, as an agent that is busy would have it."""
    view, claims = ClusterView(), Claims()
    programs: dict[ObjectName, ServiceProgram] = {}
    for event, is_round in zip(history, [*rounds[: len(history) - 1], True], strict=False):
        view.fold(event)
        if is_round:
            dirty = set(view.take_dirty().services)
            for name in sorted(dirty):
                dirty |= claims.update(name, view.services.get(name))
            for name in dirty:
                programs.pop(name, None)
                if name in view.services:
                    programs[name] = compile_service(
                        view.services[name], view.slices_of(name), FACTS, claims, view.health.get(name)
                    )

    anew = compile_all(view.services, view.slices_of, FACTS, claims_of_all(dict(view.services)), view.health)
    assert programs == anew


@settings(max_examples=300)
@given(st.lists(services, max_size=12))
def test_claims_depend_on_the_services_present_only(history: list[Service]) -> None:
    """Any history that ends in the same Services gives the same owners."""
    claims, world = Claims(), {}
    for service in history:
        claims.update(service.name, service)
        world[service.name] = service
    gone = world.pop(NAMES[0], None)
    if gone is not None:
        claims.update(gone.name, None)
    asked = {claim for service in history for claim in claims_of(service)}

    expected = owners(claims, asked)
    for order in permutations(world):
        assert owners(claims_of_all({name: world[name] for name in order}), asked) == expected


@settings(max_examples=300)
@given(st.lists(services, max_size=12))
def test_claims_name_every_service_whose_winnings_change(history: list[Service]) -> None:
    claims = Claims()
    asked = {claim for service in history for claim in claims_of(service)}
    for service in history:
        before = owners(claims, asked)
        dirty = claims.update(service.name, service)
        after = owners(claims, asked)
        affected = {name for claim in asked if before[claim] != after[claim] for name in (before[claim], after[claim])}

        assert affected - {None, service.name} <= dirty
        assert service.name not in dirty


crowded = st.builds(
    Service,
    st.sampled_from(NAMES),
    cluster_ips=st.sampled_from([(vip,) for vip in VIPS]),
    ports=st.just((ServicePort("", Protocol.TCP, 30000, 0),)) | st.just((ServicePort("", Protocol.TCP, 80, 30000),)),
    external_ips=some(VIPS),
)


@given(st.lists(crowded, max_size=12))
def test_claims_name_every_service_whose_node_port_is_shadowed_elsewhere_than_before(history: list[Service]) -> None:
    """V12."""
    claims, node_port = Claims(), Claim(NODE_PORT_ADDRESS, Protocol.TCP, 30000)
    for service in history:
        before = (claims.owner(node_port), claims.addresses_with(Protocol.TCP, 30000, VIPS))
        dirty = claims.update(service.name, service)
        after = (claims.owner(node_port), claims.addresses_with(Protocol.TCP, 30000, VIPS))

        assert before == after or after[0] in (*dirty, None, service.name)


@given(st.lists(services, max_size=6))
def test_no_frontend_belongs_to_two_services(history: list[Service]) -> None:
    """And what a Service asked for and is not programmed is named in its findings."""
    world = {service.name: service for service in history}
    programs = compile_all(world, lambda _: (), FACTS, claims_of_all(world))
    counts = Counter(frontend.frontend for program in programs.values() for _, frontend in program.frontends())

    assert all(count == 1 for count in counts.values())
    for name, service in world.items():
        asked = {(claim.address, claim.protocol, claim.port) for claim in claims_of(service) if claim.protocol is not None}
        got = {frontend.frontend[1:] for _, frontend in programs[name].frontends()}
        assert got <= asked
        assert programs[name].findings or got == asked


@settings(max_examples=300)
@given(st.lists(services, max_size=6))
def test_a_node_port_is_shadowed_exactly_where_an_exact_frontend_has_its_number(history: list[Service]) -> None:
    """V12; so a data plane that writes a row an address writes each row once."""
    world = {service.name: service for service in history}
    programs = compile_all(world, lambda _: (), FACTS, claims_of_all(world))
    everything = [frontend for program in programs.values() for _, frontend in program.frontends()]
    exact = {one.frontend for one in everything if one.frontend.address}
    for one in everything:
        mine = {Frontend(one.frontend.family, address, *one.frontend[2:]) for address in one.shadowed}
        if one.frontend.address:
            assert not mine
        else:
            addresses = [a for a in FACTS.node_port_addresses if family_of(a) == one.frontend.family]
            assert mine == exact & {Frontend(one.frontend.family, a, *one.frontend[2:]) for a in addresses}
            assert list(one.shadowed) == sorted(one.shadowed)


@given(services, st.lists(slices, max_size=4))
def test_the_order_of_slices_does_not_matter(service: Service, parts: list[EndpointSlice]) -> None:
    named = [
        EndpointSlice(ObjectName("a", f"s{index}"), service.name, part.family, part.ports, part.endpoints, part.skipped)
        for index, part in enumerate(parts)
    ]
    claims = claims_of_all({service.name: service})

    assert len({str(compile_service(service, order, FACTS, claims)) for order in permutations(named)}) == 1


@given(
    st.lists(endpoints, max_size=6, unique_by=lambda endpoint: endpoint.address),
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
)
def test_how_endpoints_are_spread_over_slices_does_not_matter(members: list[Endpoint], places: list[int]) -> None:
    """But for the slice names in the reasons."""
    service = Service(
        NAMES[0], cluster_ips=(VIPS[0],), ports=(ServicePort("http", Protocol.TCP, 80, 30000),), external_policy_local=True
    )
    ports = (SlicePort("http", Protocol.TCP, 8080),)
    parts = [
        EndpointSlice(
            ObjectName("a", f"s{place}"),
            NAMES[0],
            Family.IPV4,
            ports,
            tuple(m for m, p in zip(members, places, strict=False) if p == place),
        )
        for place in (0, 1, 2)
    ]
    whole = EndpointSlice(ObjectName("a", "whole"), NAMES[0], Family.IPV4, ports, tuple(members))
    claims = claims_of_all({service.name: service})

    spread = compile_service(service, parts, FACTS, claims)
    at_once = compile_service(service, [whole], FACTS, claims)
    assert [anonymous(port) for port in spread.ports] == [anonymous(port) for port in at_once.ports]


def anonymous(port: PortProgram) -> object:
    fates = [fate._replace(slice_name="") for fate in port.considered]
    return (port.name, port.frontends, fates, port.serving, port.hairpin)


@given(services, st.lists(slices, max_size=3))
def test_a_flow_is_forwarded_to_a_non_empty_pool_or_not_at_all(service: Service, parts: list[EndpointSlice]) -> None:
    """What is chosen in the cluster pool is what the reasons say; and only a Local policy drops, or tells sources apart."""
    program = compile_service(service, parts, FACTS, claims_of_all({service.name: service}))
    for port, frontend in program.frontends():
        chosen = tuple(fate.backend for fate in port.considered if fate.chosen)
        for verdict in frontend.verdicts():
            assert (verdict.action is Action.FORWARD) == (verdict.pool is not None)
            if verdict.pool is not None:
                assert verdict.pool.backends
                if verdict.pool.name == "cluster":
                    assert verdict.pool.backends == chosen
        if not (service.internal_policy_local or service.external_policy_local):
            assert len({id(verdict.pool) for verdict in frontend.verdicts()}) == 1
            assert Action.DROP not in {verdict.action for verdict in frontend.verdicts()}
