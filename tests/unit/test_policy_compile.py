"""Compiling one Service: frontends, their fate, and what is said about what is not in force."""

from __future__ import annotations

import msgspec
import pytest
from policy_builders import (
    FACTS,
    HTTP,
    TCP,
    UDP,
    addresses,
    compiled,
    endpoint,
    frontends,
    named,
    one_slice,
    only_port,
    parse_address,
    pod_backends,
    printed,
    service,
)

from kpx.model.addresses import Address, Family
from kpx.model.endpointslice import Endpoint, EndpointSlice, SlicePort
from kpx.model.facts import NodeFacts
from kpx.model.findings import Severity
from kpx.model.names import PortName
from kpx.model.service import Service, ServicePort
from kpx.policy.claims import Claims
from kpx.policy.compile import compile_all
from kpx.policy.desired import Action, FrontendKind, Scheduler, ServiceProgram, Source
from kpx.policy.scheduling import wanted_scheduler

READY = one_slice(endpoint("10.244.1.1", node="n1"), endpoint("10.244.2.1"))


def test_every_kind_of_frontend_gets_the_same_pool_object() -> None:
    program = compiled(service(eip=("198.51.100.1",), lb=("203.0.113.1",)), READY)
    kinds = {text: one.kind.value for text, one in frontends(program).items()}

    assert kinds == {
        "nodePort:30080/TCP (IPv4)": "NodePort",
        "10.96.0.1:80/TCP": "ClusterIP",
        "198.51.100.1:80/TCP": "ExternalIP",
        "203.0.113.1:80/TCP": "LoadBalancerIP",
    }
    assert {id(verdict.pool) for one in frontends(program).values() for verdict in one.verdicts()} == {
        id(frontends(program)["10.96.0.1:80/TCP"].pod.pool)
    }
    assert program.cluster_ips == addresses("10.96.0.1")
    assert program.findings == ()


def test_frontends_are_sorted() -> None:
    program = compiled(service(eip=("198.51.100.9", "198.51.100.1")), READY)
    listed = [frontend.frontend for _, frontend in program.frontends()]

    assert listed == sorted(listed)


def test_masquerade_follows_the_kind_of_frontend_and_source() -> None:
    """M1, M2, M3 and M7."""
    program = compiled(service(), READY)

    inside, outside = frontends(program)["10.96.0.1:80/TCP"], frontends(program)["nodePort:30080/TCP (IPv4)"]
    assert [inside.verdict(source).masquerade for source in Source] == [False, True, True]
    assert [outside.verdict(source).masquerade for source in Source] == [True, True, True]


def test_without_usable_endpoints_everything_is_refused() -> None:
    """R1, M14."""
    program = compiled(service(eip=("198.51.100.1",)), one_slice(endpoint("10.244.1.1", "unready")))

    assert {verdict.action for one in frontends(program).values() for verdict in one.verdicts()} == {Action.REJECT}
    assert len(frontends(program)) == 3


def test_a_skipped_service_gives_an_empty_program() -> None:
    """S4."""
    assert compiled(service(skipped="headless"), READY) == ServiceProgram(named("shop/web"))


def test_skipped_slices_and_slices_of_the_other_family_do_not_count() -> None:
    """S2, J8."""
    program = compiled(
        service(), one_slice(endpoint("10.244.1.1"), skipped="headless"), one_slice(endpoint("fd00::1"), name="web-6")
    )

    assert only_port(program).considered == ()


def test_ports_of_a_slice_that_the_service_does_not_have_are_unused() -> None:
    """J6."""
    program = compiled(service(), one_slice(endpoint("10.244.1.1"), ports=(SlicePort("ajp", TCP, 8009),)))

    assert frontends(program)["10.96.0.1:80/TCP"].pod.action is Action.REJECT


def test_one_number_may_serve_two_protocols_with_different_pods() -> None:
    """J1, N8."""
    one = service(ports=(ServicePort("dns", UDP, 53, 0), ServicePort("dns-tcp", TCP, 53, 0)))
    program = compiled(one, one_slice(endpoint("10.244.1.1"), ports=(SlicePort("dns", UDP, 5353),)))

    assert frontends(program)["10.96.0.1:53/UDP"].pod.action is Action.FORWARD
    assert frontends(program)["10.96.0.1:53/TCP"].pod.action is Action.REJECT
    assert [port.name for port in program.ports] == [
        PortName(named("shop/web"), "dns", UDP),
        PortName(named("shop/web"), "dns-tcp", TCP),
    ]


def test_a_dual_stack_service_is_two_services() -> None:
    program = compiled(
        service(ip=("10.96.0.1", "fd00:96::1"), eip=("198.51.100.1", "2001:db8::1")),
        READY,
        one_slice(endpoint("fd00::1"), name="web-6"),
    )

    assert [port.family for port in program.ports] == [Family.IPV4, Family.IPV6]
    assert pod_backends(program, "[2001:db8::1]:80/TCP") == ["[fd00::1]:8080"]
    assert pod_backends(program, "198.51.100.1:80/TCP") == ["10.244.1.1:8080", "10.244.2.1:8080"]


def test_families_without_cluster_ip_or_not_programmed_here_have_no_frontends() -> None:
    """V1 and NodeFacts.families."""
    six_only = NodeFacts("n1", families=(Family.IPV6,))

    assert "[2001:db8::1]:80/TCP" not in frontends(compiled(service(eip=("2001:db8::1",)), READY))
    assert compiled(service(), READY, facts=six_only) == ServiceProgram(named("shop/web"))


def test_node_ports_exist_where_an_address_answers() -> None:
    """N1, V5."""
    both = service(ip=("10.96.0.1", "fd00:96::1"))
    anywhere = NodeFacts("n1", node_port_any=frozenset({Family.IPV6}))

    assert [text for text in frontends(compiled(both)) if "nodePort" in text] == ["nodePort:30080/TCP (IPv4)"]
    assert [text for text in frontends(compiled(both, facts=anywhere)) if "nodePort" in text] == ["nodePort:30080/TCP (IPv6)"]
    assert "nodePort" not in str(frontends(compiled(service(ports=(HTTP._replace(node_port=0),)))))


def test_a_frontend_named_twice_is_programmed_once_as_the_first_kind() -> None:
    program = compiled(service(eip=("10.96.0.1", "198.51.100.1"), lb=("198.51.100.1",)), READY)

    assert [one.kind for one in frontends(program).values()] == [
        FrontendKind.NODE_PORT,
        FrontendKind.CLUSTER_IP,
        FrontendKind.EXTERNAL_IP,
    ]
    assert len(list(program.frontends())) == 3


def test_two_ports_with_one_number_are_named_and_the_first_keeps_it() -> None:
    program = compiled(service(ports=(ServicePort("a", TCP, 80, 0), ServicePort("b", TCP, 80, 0))), READY)

    assert [(port.name.port, len(port.frontends)) for port in program.ports] == [("a", 1), ("b", 0)]
    assert [str(finding) for finding in program.findings] == [
        "Service shop/web: spec.ports: 10.96.0.1:80/TCP is asked for twice; port 'b' does not get it, give it a number of its own"
    ]


def test_affinity_belongs_to_the_service_port() -> None:
    """A1: all frontends alike."""
    assert {one.affinity_timeout_s for one in frontends(compiled(service(affinity=60), READY)).values()} == {60}
    assert {one.affinity_timeout_s for one in frontends(compiled(service(), READY)).values()} == {None}


def test_a_frontend_of_an_older_service_is_lost_and_named() -> None:
    """V11."""
    older = service(
        "a/b", "10.96.0.2", eip=("198.51.100.1",), created="2023-01-01T00:00:00Z", ports=(HTTP._replace(node_port=0),)
    )
    program = compiled(service(eip=("198.51.100.1",)), READY, rivals=[older])

    assert "198.51.100.1:80/TCP" not in frontends(program)
    assert "10.96.0.1:80/TCP" in frontends(program)
    (finding,) = program.findings
    assert str(finding).startswith("Service shop/web: spec.externalIPs: 198.51.100.1:80/TCP belongs to older Service a/b; ")
    assert finding.severity is Severity.ERROR


def test_a_lost_cluster_ip_leaves_the_other_frontends() -> None:
    older = service("a/b", created="2023-01-01T00:00:00Z", ports=(ServicePort("", TCP, 81, 0),))
    program = compiled(service(), READY, rivals=[older])

    assert list(frontends(program)) == ["nodePort:30080/TCP (IPv4)"]
    assert program.cluster_ips == ()
    assert [finding.field for finding in program.findings] == ["spec.clusterIPs"]


def test_policy_local_gives_each_source_its_pool() -> None:
    """M8, M9, M10 beside M1 (M15), and no finding."""
    program = compiled(service(external_local=True), READY)

    pools = [verdict.pool.name for verdict in frontends(program)["nodePort:30080/TCP (IPv4)"].verdicts() if verdict.pool]
    assert pools == ["cluster", "cluster", "local"]
    assert {verdict.pool.name for verdict in frontends(program)["10.96.0.1:80/TCP"].verdicts() if verdict.pool} == {"cluster"}
    assert program.findings == ()


def test_internal_policy_local_concerns_the_cluster_ip_only() -> None:
    """M13, M4."""
    program = compiled(service(internal_local=True), READY)

    assert {verdict.pool.name for verdict in frontends(program)["10.96.0.1:80/TCP"].verdicts() if verdict.pool} == {"local"}
    assert {verdict.pool.name for verdict in frontends(program)["nodePort:30080/TCP (IPv4)"].verdicts() if verdict.pool} == {
        "cluster"
    }


def ranges_of(one: Service, facts: NodeFacts = FACTS) -> dict[str, list[str]]:
    """Return the source ranges of the frontends that have any."""
    held = frontends(compiled(one, READY, facts=facts))
    return {text: printed(each.source_ranges) for text, each in held.items() if each.source_ranges}


def test_source_ranges_go_with_the_load_balancer_ip_only() -> None:
    """F1: also when it is an external IP as well; V4, and a range in another says nothing."""
    ranges = ("198.51.100.0/24", "2001:db8::/32", "198.51.100.128/25")
    one = service(eip=("198.51.100.1", "203.0.113.2"), lb=("203.0.113.1", "203.0.113.2"), ranges=ranges)

    assert ranges_of(one) == {"203.0.113.1:80/TCP": ["198.51.100.0/24"], "203.0.113.2:80/TCP": ["198.51.100.0/24"]}


def test_where_the_node_may_pass_so_may_the_load_balancer_ips() -> None:
    """F4: a host that has such an address has it as source when it connects to it."""
    here = msgspec.structs.replace(FACTS, node_ips=(parse_address("192.0.2.1"), parse_address("2001:db8::1")))
    one = service(lb=("203.0.113.1", "203.0.113.2", "2001:db8::9"), ranges=("192.0.2.0/24",))
    own = ["192.0.2.0/24", "203.0.113.1/32", "203.0.113.2/32"]

    assert ranges_of(one, here) == {"203.0.113.1:80/TCP": own, "203.0.113.2:80/TCP": own}
    assert ranges_of(service(lb=("203.0.113.1",), ranges=("198.51.100.0/24",)), here) == {
        "203.0.113.1:80/TCP": ["198.51.100.0/24"]
    }


def test_ranges_of_the_other_family_or_of_length_zero_restrict_nothing() -> None:
    """V4."""
    for ranges in (("2001:db8::/32",), ("198.51.100.0/24", "0.0.0.0/0")):
        assert "203.0.113.1:80/TCP" in frontends(compiled(service(lb=("203.0.113.1",), ranges=ranges), READY))


def test_hairpin_looks_only_at_pools_that_are_used() -> None:
    """A local endpoint out of this zone is reached by Local traffic only."""
    slices = one_slice(endpoint("10.244.1.1", node="n1", zones=("b",)), endpoint("10.244.2.1", zones=("a",)))

    assert only_port(compiled(service(), slices)).hairpin == ()
    local = compiled(service(external_local=True), slices)
    assert only_port(local).hairpin == (parse_address("10.244.1.1"),)


def test_an_endpoint_that_only_cluster_traffic_could_reach_has_no_hairpin_when_there_is_none() -> None:
    """V10: internal policy Local and no external address; an endpoint of unknown node is in no pool then."""
    slices = one_slice(endpoint("10.244.1.1", node="n1"), endpoint("10.244.1.2", node=None))
    one = service(ports=(HTTP._replace(node_port=0),), internal_local=True)

    assert only_port(compiled(one, slices)).hairpin == (parse_address("10.244.1.1"),)


def test_compile_all_compiles_every_service() -> None:
    services = {one.name: one for one in (service(), service("a/none", skipped="headless"))}
    claims = Claims()
    for one in services.values():
        claims.update(one.name, one)
    programs = compile_all(services, {named("shop/web"): (READY,), named("a/none"): ()}.__getitem__, FACTS, claims)

    assert programs == {named("shop/web"): compiled(service(), READY), named("a/none"): ServiceProgram(named("a/none"))}


class TestShadowed:
    """V12: a node port does not answer where an exact frontend has the address and number."""

    NODE_PORT = "nodePort:30080/TCP (IPv4)"
    SIDE = (ServicePort("", TCP, 30080, 0),)

    def shadowed(self, *rivals: Service, one: Service | None = None, facts: NodeFacts = FACTS) -> tuple[Address, ...]:
        return frontends(compiled(one or service(), READY, facts=facts, rivals=rivals))[self.NODE_PORT].shadowed

    def test_by_nobody(self) -> None:
        assert self.shadowed() == ()
        assert self.shadowed(service("b/other", "10.96.0.2", eip=("192.0.2.1",), ports=(ServicePort("", TCP, 80, 0),))) == ()

    def test_by_another_service(self) -> None:
        assert self.shadowed(service("b/other", "10.96.0.2", lb=("192.0.2.1",), ports=self.SIDE)) == addresses("192.0.2.1")

    def test_by_the_same_service(self) -> None:
        both = service(eip=("192.0.2.1",), ports=(ServicePort("http", TCP, 80, 30080), ServicePort("alt", TCP, 30080, 0)))

        assert self.shadowed(one=both) == addresses("192.0.2.1")

    def test_only_on_node_port_addresses_and_sorted(self) -> None:
        facts = msgspec.structs.replace(FACTS, node_port_addresses=frozenset(addresses("192.0.2.9", "192.0.2.1", "192.0.2.5")))
        other = service("b/other", "10.96.0.2", eip=("192.0.2.9", "192.0.2.1", "203.0.113.1"), ports=self.SIDE)

        assert self.shadowed(other, facts=facts) == addresses("192.0.2.1", "192.0.2.9")

    def test_only_in_the_family_of_the_frontend(self) -> None:
        facts = msgspec.structs.replace(FACTS, node_port_addresses=frozenset(addresses("192.0.2.1", "fd00::1")))
        other = service("b/other", ("10.96.0.2", "fd00:96::2"), eip=("fd00::1",), ports=self.SIDE)
        program = compiled(service(ip=("10.96.0.1", "fd00:96::1")), READY, facts=facts, rivals=(other,))

        assert frontends(program)[self.NODE_PORT].shadowed == ()
        assert frontends(program)["nodePort:30080/TCP (IPv6)"].shadowed == addresses("fd00::1")

    def test_exact_frontends_have_none(self) -> None:
        other = service("b/other", "10.96.0.2", eip=("192.0.2.1",), ports=(ServicePort("", TCP, 30080, 30080),))
        program = compiled(other, READY)

        assert [one.shadowed for text, one in frontends(program).items() if text != self.NODE_PORT] == [(), ()]


class TestScheduler:
    """What a Service asks for, what the node prefers, and what the kernel has."""

    @pytest.mark.parametrize(
        ("asked", "flags", "node", "expected"),
        [
            (None, None, "rr", Scheduler("rr", 0)),
            (None, None, "wlc", Scheduler("wlc", 0)),
            ("lc", None, "wlc", Scheduler("lc", 0)),
            ("mh", None, "rr", Scheduler("mh", 0x18)),
            (None, None, "mh", Scheduler("mh", 0x18)),
            ("sh", None, "rr", Scheduler("sh", 0x08)),
            ("mh", (), "rr", Scheduler("mh", 0)),
            ("mh", ("port",), "rr", Scheduler("mh", 0x10)),
            (None, ("fallback", "port"), "sh", Scheduler("sh", 0x18)),
        ],
    )
    def test_the_kernel_has_all(self, asked: str | None, flags: tuple[str, ...] | None, node: str, expected: Scheduler) -> None:
        """D14: without the fallback flag, mh and sh refuse clients of an endpoint that drains."""
        wish = msgspec.structs.replace(service(), scheduler=asked, scheduler_flags=flags)
        facts = msgspec.structs.replace(FACTS, scheduler=node)
        program = compiled(wish, READY, facts=facts)

        assert (program.scheduler, program.findings) == (expected, ())
        assert wanted_scheduler(wish, facts) == expected.name

    def test_one_that_the_kernel_lacks_is_replaced_and_named(self) -> None:
        wish = msgspec.structs.replace(service(), scheduler="mh", scheduler_flags=("port",))
        program = compiled(
            wish, READY, facts=msgspec.structs.replace(FACTS, scheduler="wlc", missing_schedulers=frozenset({"mh"}))
        )

        assert program.scheduler == Scheduler("rr", 0)
        assert [(str(finding), finding.severity) for finding in program.findings] == [
            (
                "Service shop/web: metadata.annotations.kpx.io/scheduler: this kernel has no scheduler 'mh', so new connections"
                " are spread by rr; run modprobe ip_vs_mh, or name another",
                Severity.WARNING,
            )
        ]

    def test_one_of_the_node_that_the_kernel_lacks_is_not_said_of_each_service(self) -> None:
        facts = msgspec.structs.replace(FACTS, scheduler="wlc", missing_schedulers=frozenset({"wlc"}))
        program = compiled(service(), READY, facts=facts)

        assert (program.scheduler, program.findings) == (Scheduler("rr", 0), ())

    def test_without_round_robin_there_is_nothing_to_fall_back_to(self) -> None:
        facts = msgspec.structs.replace(FACTS, missing_schedulers=frozenset({"rr"}))
        wish = msgspec.structs.replace(service(), scheduler="rr")

        assert (compiled(wish, READY, facts=facts).scheduler, compiled(wish, READY, facts=facts).findings) == (
            Scheduler("rr"),
            (),
        )

    def test_services_share_the_value(self) -> None:
        first, second = (msgspec.structs.replace(service(name), scheduler="mh") for name in ("a/one", "a/two"))

        assert compiled(first, READY).scheduler is compiled(second, READY).scheduler
        assert compiled(service("a/one"), READY).scheduler is compiled(service("a/two"), READY).scheduler


def test_a_service_that_asks_for_more_than_a_node_can_hold_gets_nothing() -> None:
    """Ports, endpoints and addresses multiply; what is within the bound is as it ever was."""
    ports = tuple(ServicePort(f"p{number}", TCP, number, 0) for number in range(1, 501))
    of_slice = tuple(SlicePort(port.name, port.protocol, port.port) for port in ports)
    asked = msgspec.structs.replace(service(), ports=ports)

    def asked_with(count: int) -> ServiceProgram:
        listed = tuple(Endpoint(Address(number.to_bytes(4, "big"))) for number in range(count))
        return compiled(asked, EndpointSlice(named("shop/web-1"), asked.name, Family.IPV4, of_slice, listed))

    assert len(asked_with(100).ports) == 500
    refused = asked_with(1001)
    assert refused.ports == ()
    said = "1,001,000 pairs of address, port and endpoint are more than the 1,000,000 one Service may have; split it"
    assert [str(finding) for finding in refused.findings] == [f"Service shop/web: spec.ports: {said}"]
