"""Rows of the settings that are about no frontend: pings and strays (packets in tests/packets/test_courtesies)."""

from __future__ import annotations

from msgspec import structs
from policy_builders import compiled, endpoint, one_slice, service

from kpx.dataplanes.nftables import courtesies
from kpx.dataplanes.nftables.plane import NftablesDataplane
from kpx.dataplanes.nftables.skeleton import skeleton
from kpx.model.addresses import Family, parse_address
from kpx.model.endpointslice import SlicePort
from kpx.model.facts import NodeFacts
from kpx.model.names import Protocol
from kpx.model.service import ServicePort
from kpx.reconcile.rows import Rows

FACTS = NodeFacts("n1", node_ips=(parse_address("192.168.0.2"),))
ALL = structs.replace(FACTS, answer_ping=True, drop_invalid=True)
PLANE = NftablesDataplane()


def named(rows: Rows) -> set[str]:
    return {PLANE.row_command(table, key, value) for table, content in rows.items() for key, value in content.items()}


def words(facts: NodeFacts, family: Family = Family.IPV4) -> set[str]:
    return {rule.words for chain in skeleton(facts, family) for rule in chain.rules}


def test_a_service_has_its_addresses_and_the_ports_of_its_endpoints() -> None:
    """All that are listed: a flow may outlive its endpoint's place in a pool."""
    asked = service(eip=("203.0.113.5",))
    program = compiled(asked, one_slice(endpoint("10.0.1.1"), endpoint("10.0.1.2", "unready")))

    assert named(courtesies.render(program, ALL)) == {
        "add element ip kpx pingable { 10.96.0.1 }",
        "add element ip kpx pingable { 203.0.113.5 }",
        "add element ip kpx servers { 10.0.1.1 . tcp . 8080 }",
        "add element ip kpx servers { 10.0.1.2 . tcp . 8080 }",
    }


def test_udp_has_no_strays() -> None:
    port = (ServicePort("dns", Protocol.UDP, 53, 0),)
    program = compiled(service(ports=port), one_slice(endpoint("10.0.1.1"), ports=(SlicePort("dns", Protocol.UDP, 5353),)))

    assert program.ports[0].listed
    assert named(courtesies.render(program, ALL)) == {"add element ip kpx pingable { 10.96.0.1 }"}


def test_nothing_of_it_costs_a_row_unless_it_is_set() -> None:
    program = compiled(service(), one_slice(endpoint("10.0.1.1")))

    assert courtesies.render(program, FACTS) == {}
    assert set(PLANE.render_service(program, ALL)) > set(PLANE.render_service(program, FACTS))


def test_settings_are_rules() -> None:
    pings, strays = {"pings to a Service"}, {"what an endpoint says in no flow", "what a ClusterIP is told in no flow"}

    assert words(ALL) - words(FACTS) == pings | strays | {"packets of no flow"}
    assert pings <= words(structs.replace(FACTS, answer_ping=True))
    assert strays <= words(structs.replace(FACTS, drop_invalid=True))


def test_a_family_without_address_of_the_node_answers_no_ping() -> None:
    """There is nowhere to send it; the other family is none the worse (P1)."""
    assert "pings to a Service" in words(ALL, Family.IPV4)
    assert "pings to a Service" not in words(ALL, Family.IPV6)
