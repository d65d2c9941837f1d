"""Programs to nftables rows and back: what is written for a Service, and that rows say what they mean."""

from __future__ import annotations

import msgspec
import pytest

from kpx.dataplanes.nftables.chains import chain_of
from kpx.dataplanes.nftables.plane import NftablesDataplane
from kpx.dataplanes.nftables.schema import CHAINS
from kpx.errors import KernelError
from kpx.model.addresses import Family, disjoint, parse_address, parse_prefix
from kpx.model.endpointslice import Endpoint
from kpx.model.facts import DetectLocal, LocalDetector, NodeFacts
from kpx.model.names import ObjectName, Protocol
from kpx.model.node import ServiceCIDR
from kpx.policy.desired import Action, Backend, Pool, ServiceProgram, Verdict
from kpx.reconcile.plan import Plan
from kpx.reconcile.rows import Rows
from tests.lab.programs import as_rows_say, service_program
from tests.unit.policy_builders import compiled, endpoint, one_slice, service

FACTS = NodeFacts(
    "n1",
    node_port_addresses=frozenset([parse_address("192.168.0.2")]),
    local_detector=LocalDetector(prefixes=(parse_prefix("10.0.0.0/8"),)),
)
PLANE = NftablesDataplane()


def commands(rows: Rows) -> set[str]:
    return {
        PLANE.row_command(table, key, value).removeprefix("add element ip kpx ").removeprefix("add chain ip kpx ")
        for table, content in rows.items()
        for key, value in content.items()
    }


def render(*arguments, **keywords) -> Rows:
    return PLANE.render_service(service_program(*arguments, **keywords), FACTS)


def test_a_cluster_ip_is_a_frontend_its_slots_its_masquerading_and_its_hairpins():
    rows = render("web", "10.96.0.10", ["10.0.1.2", "10.0.1.1"])

    assert commands(rows) == {
        "pick-2  # one of 2 endpoints",
        "endpoints { 10.96.0.10 . tcp . 80 . 0x00000000 : 10.0.1.1 . 8080 }",
        "endpoints { 10.96.0.10 . tcp . 80 . 0x00000001 : 10.0.1.2 . 8080 }",
        "hairpin { 10.0.1.1 . 10.0.1.1 }",
        "hairpin { 10.0.1.2 . 10.0.1.2 }",
        "masquerades { 10.96.0.10 . tcp . 80 : goto masquerade-unless-pod }",
        "frontends { 10.96.0.10 . tcp . 80 : goto pick-2 }",
        "cluster-ips { 10.96.0.10 }",
    }


def test_a_node_port_is_keyed_without_address_and_masquerades_by_endpoint():
    """Its masquerading names the endpoint, so a foreign DNAT of the same port number is left alone (6.4)."""
    rows = render("web", "10.96.0.10", ["10.0.1.1"], node_port=30080)

    assert {
        "nodeports { tcp . 30080 : goto nodeport-pick-1 }",
        "nodeport-endpoints { tcp . 30080 . 0x00000000 : 10.0.1.1 . 8080 }",
        "nodeport-masquerades { tcp . 30080 . 10.0.1.1 . 8080 : goto nodeport-masquerade-always }",
    } <= commands(rows)


def test_an_external_ip_is_masqueraded_for_everybody_and_never_dropped_as_unowned():
    rows = render("web", "10.96.0.10", ["10.0.1.1"], external_ip="203.0.113.5")

    assert {"masquerades { 203.0.113.5 . tcp . 80 : goto masquerade-always }", "captured { 203.0.113.5 }"} <= commands(rows)


def test_without_a_detector_only_hairpin_flows_are_masqueraded():
    rows = render("web", "10.96.0.10", ["10.0.1.1"], pods_known=False)

    assert "masquerades { 10.96.0.10 . tcp . 80 : goto masquerade-hairpin }" in commands(rows)


def test_a_frontend_without_endpoints_is_refused_and_nothing_else():
    """R1: no slot, no verdict to a chain; the node port too."""
    rows = render("web", "10.96.0.10", [], node_port=30080)

    assert commands(rows) == {
        "refused { 10.96.0.10 . tcp . 80 }",
        "nodeport-refused { tcp . 30080 }",
        "cluster-ips { 10.96.0.10 }",
    }


def test_affinity_of_one_frontend_uses_a_chain_that_all_such_services_share():
    rows = render("web", "10.96.0.10", ["10.0.1.1"], affinity_s=600)

    assert {
        "frontends { 10.96.0.10 . tcp . 80 : goto stick-1 }",
        "sticky { 10.96.0.10 . tcp . 80 : jump record-600 }",
        "record-600  # remember for 600s",
    } <= commands(rows)


def test_affinity_of_several_frontends_is_recorded_under_each_of_them():
    """A1: who came by the ClusterIP is known at the node port and at the external IP."""
    rows = render("web", "10.96.0.10", ["10.0.1.1"], affinity_s=600, node_port=30080, external_ip="203.0.113.5")
    printed = commands(rows)
    (recorder,) = (line for line in printed if "-all  #" in line)
    name = recorder.split(" ")[0]

    assert recorder.endswith("# nodePort:30080 for 600s; 10.96.0.10:80 for 600s; 203.0.113.5:80 for 600s")
    assert {
        f"sticky {{ 10.96.0.10 . tcp . 80 : jump {name} }}",
        f"sticky {{ 203.0.113.5 . tcp . 80 : jump {name} }}",
        f"nodeport-sticky {{ tcp . 30080 . 10.0.1.1 . 8080 : jump {name} }}",
    } <= printed


@pytest.mark.parametrize("cluster_ip", ["10.96.0.10", "fd00::10"])
@pytest.mark.parametrize("protocol", list(Protocol))
@pytest.mark.parametrize("affinity", [None, 60])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_rows_read_back_as_the_frontends_they_were_made_from(cluster_ip, protocol, affinity, count):
    pods = [f"10.0.1.{i}" if "." in cluster_ip else f"fd01::{i}" for i in range(1, count + 1)]
    program = service_program("web", cluster_ip, pods, affinity_s=affinity, node_port=30080, protocol=protocol)
    read = PLANE.frontends_of(PLANE.render_service(program, FACTS))

    assert read == [as_rows_say(frontend) for _, frontend in program.frontends()]


def test_every_row_of_a_frontend_knows_its_frontend():
    program = service_program("web", "10.96.0.10", ["10.0.1.1"], affinity_s=60, node_port=30080, external_ip="203.0.113.5")
    rows = PLANE.render_service(program, FACTS)
    found = {PLANE.row_frontend(table, key) for table, content in rows.items() for key in content}

    assert found - {None} == {f.frontend for _, f in program.frontends()}


HERE, THERE = endpoint("10.0.1.1", node="n1"), endpoint("10.0.2.1", node="n2")
ADDRESS, LISTED = "203.0.113.1", "203.0.113.1 . tcp . 80"


def program(*members: Endpoint, facts: NodeFacts = FACTS, **asked) -> ServiceProgram:
    """What policy makes of a Service with a load-balancer IP and node port 30080."""
    return compiled(service(lb=(ADDRESS,), **asked), one_slice(*members), facts=facts)


def of_the_load_balancer_ip(program: ServiceProgram) -> set[str]:
    printed = commands(PLANE.render_service(program, FACTS))
    return {line for line in printed if LISTED in line and not line.startswith(("endpoints", "captured"))}


def test_local_policy_sends_outsiders_to_slots_of_their_own_and_masquerades_this_host_alone():
    """M8, M9, M10."""
    compiled_local = program(HERE, THERE, external_local=True)
    printed = commands(PLANE.render_service(compiled_local, FACTS))

    assert of_the_load_balancer_ip(compiled_local) == {
        f"frontends {{ {LISTED} : goto by-source }}",
        f"frontends-inside {{ {LISTED} : goto pick-2 }}",
        f"frontends-outside {{ {LISTED} : goto pick-1-outside }}",
        f"keeping {{ {LISTED} }}",
    }
    assert {
        f"endpoints {{ {LISTED} . 0x01000000 : 10.0.1.1 . 8080 }}",
        "nodeports { tcp . 30080 : goto nodeport-by-source }",
        "nodeport-keeping { tcp . 30080 . 10.0.2.1 . 8080 }",
        "frontends { 10.96.0.1 . tcp . 80 : goto pick-2 }",
    } <= printed


def test_local_policy_without_an_endpoint_here_drops_outsiders_only():
    """M11, M12; without a way to tell pods they are outsiders, too (6.2)."""
    nobody = msgspec.structs.replace(FACTS, local_detector=LocalDetector())

    assert {
        f"frontends {{ {LISTED} : goto by-source }}",
        f"frontends-inside {{ {LISTED} : goto pick-1 }}",
        f"frontends-outside {{ {LISTED} : drop }}",
    } <= of_the_load_balancer_ip(program(THERE, external_local=True))
    assert f"frontends {{ {LISTED} : goto by-host }}" in of_the_load_balancer_ip(
        program(THERE, external_local=True, facts=nobody)
    )


def test_internal_policy_local_without_an_endpoint_here_drops_everybody():
    """M6, and not on the way out: by then this host may have said that it knows no way there."""
    printed = commands(PLANE.render_service(program(THERE, internal_local=True), FACTS))

    assert "frontends { 10.96.0.1 . tcp . 80 : drop }" in printed
    assert not any(line.startswith("refused") for line in printed)


def test_endpoints_of_this_node_alone_need_no_telling_apart():
    printed = of_the_load_balancer_ip(program(HERE, external_local=True))

    assert printed == {f"frontends {{ {LISTED} : goto pick-1 }}", f"keeping {{ {LISTED} }}"}


def test_a_remembered_client_goes_back_only_to_endpoints_of_its_way():
    """A2, A8: outsiders to endpoints of this node; the rule list is of those that are fewer."""
    others = [endpoint(f"10.0.2.{number}") for number in range(1, 5)]
    sticky = program(HERE, *others, external_local=True, affinity=60)
    (outside,) = (line for line in commands(PLANE.render_service(sticky, FACTS)) if line.startswith("stick-1-outside"))

    assert outside.partition("# ")[2] == "session affinity: back to 10.0.1.1:8080; a new client"
    assert "stick-5  # session affinity: where this client went before; a new client" in commands(
        PLANE.render_service(sticky, FACTS)
    )


def test_a_pool_without_some_of_the_local_endpoints_sends_nobody_back_to_those():
    """C3: what serves to its end here is used by outsiders only, while others have ready endpoints."""
    draining = endpoint("10.0.1.1", "draining", node="n1")
    sticky = program(draining, THERE, endpoint("10.0.2.2"), external_local=True, affinity=60)
    printed = commands(PLANE.render_service(sticky, FACTS))

    (inside,) = (line for line in printed if line.startswith("stick-2-"))
    assert inside.partition("# ")[2] == (
        "session affinity: not back to 10.0.1.1:8080; session affinity: where this client went before; a new client"
    )


def test_source_ranges_are_a_chain_that_equal_lists_share():
    ranges = ("198.51.100.0/24", "192.0.2.7/32")
    both = compiled(service(lb=(ADDRESS, "203.0.113.2"), ranges=ranges), one_slice(HERE))
    printed = commands(PLANE.render_service(both, FACTS))
    (chain,) = (line for line in printed if line.startswith("ranges-"))
    name, _, words = chain.partition("  # ")

    assert words == "from 192.0.2.7/32; from 198.51.100.0/24; everybody else is kept out"
    for table, verdict in (("frontends", f"goto {name}"), ("ranged", "goto pick-1")):
        assert {line for line in printed if line.startswith(f"{table} {{ 203")} == {
            f"{table} {{ {address} . tcp . 80 : {verdict} }}" for address in (ADDRESS, "203.0.113.2")
        }


def test_source_ranges_hold_without_endpoints():
    """F5."""
    printed = of_the_load_balancer_ip(program(ranges=("198.51.100.0/24",)))

    assert {line.split(" ")[0] for line in printed} == {"frontends", "refused"}


@pytest.mark.parametrize("affinity", [None, 60])
@pytest.mark.parametrize("ranges", [(), ("198.51.100.0/24", "192.0.2.7/32", "2001:db8::/33", "2001:db8:ffff::7/128")])
@pytest.mark.parametrize("policies", [{"external_local": True}, {"internal_local": True}, {}])
@pytest.mark.parametrize("members", [(), (HERE,), (THERE,), (HERE, THERE)])
@pytest.mark.parametrize("detector", [FACTS.local_detector, LocalDetector()])
def test_policies_and_ranges_read_back_from_rows(members, policies, ranges, affinity, detector):
    facts = msgspec.structs.replace(FACTS, local_detector=detector)
    one = program(*members, ranges=ranges, affinity=affinity, facts=facts, **policies)

    assert PLANE.frontends_of(PLANE.render_service(one, facts)) == [as_rows_say(frontend) for _, frontend in one.frontends()]


@pytest.mark.parametrize("ip", ["10.96.0.1", "fd00::1"])
def test_every_chain_is_made_again_from_its_row(ip):
    """An agent that did not make a chain knows its rules by the row alone."""
    wide = ":" in ip
    near, far = (endpoint("fd01::1" if wide else "10.0.1.1", node="n1"), endpoint("fd01::2" if wide else "10.0.2.1"))
    more = [endpoint(f"fd02::{number}" if wide else f"10.0.3.{number}") for number in range(1, 4)]
    ranges = ("2001:db8::/33", "2001:db8:ffff::7/128") if wide else ("198.51.100.0/22", "192.0.2.7/32")
    lb = "fd20::1" if wide else ADDRESS
    asked = service(ip=ip, lb=(lb,), ranges=ranges, external_local=True, internal_local=True, affinity=60)
    family = Family.IPV6 if wide else Family.IPV4
    rows = PLANE.render_service(compiled(asked, one_slice(near, far, *more, family=family)), FACTS)[CHAINS[family]]

    assert {name.split("-")[0] for name in rows} >= {"pick", "stick", "record", "ranges"}
    for name, comments in rows.items():
        made = chain_of(family, name, comments)
        assert (made.name, made.comments) == (name, comments)


def test_what_no_policy_says_is_not_rendered():
    ((port, frontend),) = service_program("web", "10.96.0.10", ["10.0.1.1"]).frontends()
    other = Verdict(Action.FORWARD, Pool("local", (Backend(parse_address("10.0.1.9"), 80),)), False)
    odd = type(frontend)(frontend.frontend, frontend.kind, other, frontend.host, frontend.outside)
    strange = ServiceProgram(port.name.service, (type(port)(port.name, port.family, (odd,), (), (), (), ()),))

    with pytest.raises(ValueError, match="no rows for"):
        PLANE.render_service(strange, FACTS)


def test_node_rows_hold_the_constant_chains_and_the_ranges():
    cidrs = [
        ServiceCIDR(ObjectName("", "a"), (parse_prefix("10.96.0.0/16"),)),
        ServiceCIDR(
            ObjectName("", "b"), (parse_prefix("10.96.0.0/16"), parse_prefix("10.96.4.0/24"), parse_prefix("fd00::/112"))
        ),
    ]
    printed = commands(PLANE.render_node(FACTS, cidrs))

    assert "service-cidrs { 10.96.0.0/16 }" in printed
    assert "pod-sources { 10.0.0.0/8 }" in printed
    assert "node-addresses { 192.168.0.2 }" in printed
    assert "add element ip6 kpx service-cidrs { fd00::/112 }" in printed
    assert any(line.startswith("masquerading  #") for line in printed)


@pytest.mark.parametrize(
    ("address", "action"),
    [
        ("10.96.0.10", "reject"),
        ("10.96.0.11", "drop"),
        ("10.96.9.9", None),
        ("10.96.0.200", None),
        ("192.0.2.1", None),
        ("fd00::7", "drop"),
    ],
)
def test_rows_tell_what_becomes_of_an_address_no_frontend_catches(address, action):
    """R5, R6: an unknown port of a ClusterIP, an unowned address; never an external IP or an address of the host."""
    cidrs = [ServiceCIDR(ObjectName("", "a"), (parse_prefix("10.96.0.0/16"), parse_prefix("fd00::/112")))]
    rows = PLANE.render_node(FACTS, cidrs)
    program = service_program("web", "10.96.0.10", ["10.0.1.1"], external_ip="10.96.9.9")
    for table, content in PLANE.render_service(program, FACTS).items():
        rows.setdefault(table, {}).update(content)
    refusal = PLANE.refusal_of(rows, parse_address(address), {parse_address("10.96.0.200")})

    assert (refusal.action if refusal else None) == action


def test_settings_of_the_node_change_rules_and_with_them_the_rows():
    by_interface = NodeFacts("n1", local_detector=LocalDetector(DetectLocal.BRIDGE_INTERFACE, (), "cbr0"))
    anywhere = NodeFacts("n1", node_port_any=frozenset(Family))
    plain = commands_with_digest(NodeFacts("n1"))

    assert len(plain - commands_with_digest(by_interface)) == 10
    assert len(plain - commands_with_digest(anywhere)) == 4


def commands_with_digest(facts: NodeFacts) -> set[tuple[str, str, tuple]]:
    rows = PLANE.render_node(facts, ())
    return {(t.family, str(k), v) for t, content in rows.items() if t.name == "chains" for k, v in content.items()}


def test_ranges_that_lie_in_another_are_left_out():
    prefixes = [parse_prefix(text) for text in ("10.96.1.0/24", "10.96.0.0/16", "10.97.0.0/16", "10.96.0.0/16")]

    assert [str(p) for p in disjoint(prefixes)] == ["10.96.0.0/16", "10.97.0.0/16"]


def test_without_a_kernel_only_pure_verbs_work():
    with pytest.raises(KernelError, match="opened without a kernel"):
        PLANE.apply(Plan()) if PLANE.observe() else None
