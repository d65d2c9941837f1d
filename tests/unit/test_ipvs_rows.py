"""The ipvs data plane's rows: what programs become, what rows say when read back, and the commands people could type."""

from __future__ import annotations

import pytest
from msgspec import structs

from kpx.dataplanes.base import KernelVerdict
from kpx.dataplanes.ipvs import render
from kpx.dataplanes.ipvs.plane import IpvsDataplane
from kpx.dataplanes.ipvs.schema import BY_NAME, TABLES, element_of, key_of, range_keys, read_server, set_name
from kpx.host.kube_proxy import OUR_RECORDS
from kpx.kernel.wire.ipvs import ServerSettings
from kpx.model.addresses import Family, parse_address, parse_prefix
from kpx.model.facts import LocalDetector, NodeFacts
from kpx.model.names import ObjectName, Protocol
from kpx.model.node import ServiceCIDR
from kpx.policy.desired import Backend, Scheduler, ServiceProgram
from kpx.reconcile.rows import Rows
from tests.lab.programs import service_program

PLANE = IpvsDataplane()
NODE = parse_address("192.0.2.1")
FACTS = NodeFacts(
    "n1",
    node_port_addresses=frozenset((NODE, parse_address("192.0.2.9"), parse_address("2001:db8::1"))),
    local_detector=LocalDetector(prefixes=(parse_prefix("10.244.0.0/16"),)),
)


def commands(program: ServiceProgram, *tables: str) -> list[str]:
    """Return the commands of a program's rows, of some tables or all."""
    rows = PLANE.render_service(program, FACTS)
    return sorted(
        PLANE.row_command(table, key, value)
        for table, content in rows.items()
        if not tables or table.name in tables
        for key, value in content.items()
    )


def test_a_cluster_ip_is_a_virtual_server_that_its_set_steers_to() -> None:
    assert commands(service_program("web", "10.96.0.10", ["10.244.1.2", "10.244.2.2"])) == [
        "ipset add KPX-CLUSTER-IPS 10.96.0.10",
        "ipset add KPX-FRONTENDS 10.96.0.10,tcp:80",
        "ipset add KPX-HAIRPIN 10.244.1.2,10.244.1.2",
        "ipset add KPX-HAIRPIN 10.244.2.2,10.244.2.2",
        "ipset add KPX-MASQ-NONPOD 10.96.0.10,tcp:80",
        "ipset add KPX-SERVERS 10.96.0.10,tcp:80",
        "ipvsadm -A -t 10.96.0.10:80 -s rr",
        "ipvsadm -a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1",
        "ipvsadm -a -t 10.96.0.10:80 -r 10.244.2.2:8080 -m -w 1",
    ]


def test_a_node_port_is_one_on_each_address_of_its_family_and_on_no_vip() -> None:
    """D9, D10."""
    program = service_program("web", "10.96.0.10", ["10.244.1.2"], node_port=30080, external_ip="198.51.100.7")

    assert commands(program, "node-ports") == [
        "ipset add KPX-NODE-PORTS 192.0.2.1,tcp:30080",
        "ipset add KPX-NODE-PORTS 192.0.2.9,tcp:30080",
    ]
    assert not any("30080" in command and ("10.96" in command or "198.51" in command) for command in commands(program))


def test_a_node_port_stays_off_an_address_where_an_exact_frontend_has_its_number() -> None:
    """V12."""
    (port,) = service_program("web", "10.96.0.10", ["10.244.1.2"], node_port=30080).ports
    rows: Rows = {}

    for frontend in port.frontends:
        shadowed = (
            frontend
            if frontend.frontend.address
            else type(frontend)(frontend.frontend, frontend.kind, *frontend.verdicts(), shadowed=(NODE,))
        )
        render._render_frontend(rows, port, shadowed, Scheduler("rr"), FACTS)

    servers = {read_server(Family.IPV4, key) for key in rows[TABLES[Family.IPV4, "node-ports"]] if isinstance(key, bytes)}
    assert {server.address for server in servers if server} == {parse_address("192.0.2.9")}


def test_without_endpoints_new_flows_are_refused_and_the_virtual_server_stays() -> None:
    """R1, and connections to endpoints that drain live on."""
    assert commands(service_program("web", "10.96.0.10", [])) == [
        "ipset add KPX-CLUSTER-IPS 10.96.0.10",
        "ipset add KPX-FRONTENDS 10.96.0.10,tcp:80",
        "ipset add KPX-REFUSED 10.96.0.10,tcp:80",
        "ipset add KPX-SERVERS 10.96.0.10,tcp:80",
        "ipvsadm -A -t 10.96.0.10:80 -s rr",
    ]


def test_what_nftables_carries_is_a_virtual_server_that_new_flows_are_not_steered_to() -> None:
    """Decision 0019: it has the connections it had before; nobody is remembered by IPVS."""
    program = service_program("web", "10.96.0.10", ["10.244.1.2"], affinity_s=60)

    tables = ("servers", "virtual-servers", "destinations", "masq-nonpod", "refused", "by-nftables", "frontends")
    assert commands(program, *tables) == [
        "ipset add KPX-BY-NFTABLES 10.96.0.10,tcp:80",
        "ipset add KPX-FRONTENDS 10.96.0.10,tcp:80",
        "ipset add KPX-SERVERS 10.96.0.10,tcp:80",
        "ipvsadm -A -t 10.96.0.10:80 -s rr",
    ]
    (held,) = PLANE.frontends_of(PLANE.render_service(program, FACTS))
    assert held.outside == KernelVerdict("pass")


def udp(pool: list[str], serving: list[str], listed: list[str], affinity_s: int | None = None) -> ServiceProgram:
    """A Service of UDP, some of whose endpoints serve and some are only listed."""
    program = service_program("dns", "10.96.0.53", pool, 53, protocol=Protocol.UDP, affinity_s=affinity_s)
    (port,) = program.ports
    backends = [tuple(Backend(parse_address(each), 8080) for each in endpoints) for endpoints in (listed, serving)]
    return structs.replace(program, ports=(structs.replace(port, listed=backends[0], serving=backends[1]),))


A, B, C = "10.244.1.2", "10.244.1.3", "10.244.1.4"


@pytest.mark.parametrize(
    ("program", "takes_new", "keeps"),
    [
        (udp([A], [A, B], [A, B, C]), [A], [B]),
        (udp([A, B], [A], [A, B]), [A, B], []),
        (udp([], [], [A, B]), [], [A, B]),
        (udp([A], [A, B], [A, B], affinity_s=60), [], [A, B]),
        (service_program("web", "10.96.0.10", [A]), [A], []),
    ],
    ids=["terminating", "ready though not serving", "nobody serves", "carried by nftables", "TCP drains instead"],
)
def test_endpoints_of_udp_that_take_no_new_flows_keep_theirs_while_they_serve(
    program: ServiceProgram, takes_new: list[str], keeps: list[str]
) -> None:
    """U4, U6: what connection tracking does not forget IPVS does not forget either."""
    taking, keeping = commands(program, "destinations"), commands(program, "spared")

    assert [command.split("-r ")[1] for command in taking] == [f"{each}:8080 -m -w 1" for each in takes_new]
    assert [command.split("-r ")[1] for command in keeping] == [f"{each}:8080 -m -w 0" for each in keeps]


def test_persistence_and_flags_are_spelled_as_ipvsadm_does() -> None:
    table = TABLES[Family.IPV6, "virtual-servers"]
    key = bytes(parse_address("fd00::1")) + bytes((17, 0, 53))

    assert PLANE.row_command(table, key, ServerSettings("mh", 0x19, 10800)) == (
        "ipvsadm -A -u [fd00::1]:53 -s mh -p 10800 -b mh-fallback,mh-port"
    )
    assert PLANE.row_command(table, key, ServerSettings("wlc", 0x18, 0)) == "ipvsadm -A -u [fd00::1]:53 -s wlc -b flag-1,flag-2"
    assert PLANE.row_command(table, key[:-3] + bytes((132, 0, 53)), ServerSettings("sh", 8, 0)) == (
        "ipvsadm -A --sctp-service [fd00::1]:53 -s sh -b sh-fallback"
    )


def test_rows_read_back_are_the_frontends_they_were_made_of() -> None:
    program = service_program("web", "fd00:96::10", ["fd00:244::2"], node_port=30080, protocol=Protocol.UDP)

    held = PLANE.frontends_of(PLANE.render_service(program, FACTS))

    verdicts = [(f.pod, f.host, f.outside) for f in held]
    assert [str(f.frontend) for f in held] == ["nodePort:30080/UDP (IPv6)", "[fd00:96::10]:80/UDP"]
    assert {each.action for three in verdicts for each in three} == {"forward"}
    assert [[each.masquerade for each in three] for three in verdicts] == [[True, True, True], [False, True, True]]
    assert [str(backend) for f in held for backend in f.backends] == ["[fd00:244::2]:8080"] * 2


def test_a_virtual_server_that_nothing_is_steered_to_is_no_frontend() -> None:
    rows = PLANE.render_service(service_program("web", "10.96.0.10", ["10.244.1.2"]), FACTS)
    del rows[TABLES[Family.IPV4, "frontends"]]

    assert PLANE.frontends_of(rows) == []


def test_a_destination_of_weight_0_takes_no_new_flows() -> None:
    rows = PLANE.render_service(service_program("web", "10.96.0.10", ["10.244.1.2"]), FACTS)
    for key in rows[TABLES[Family.IPV4, "destinations"]]:
        rows[TABLES[Family.IPV4, "destinations"]][key] = 0

    (held,) = PLANE.frontends_of(rows)
    assert held.outside == KernelVerdict("reject")


def test_unowned_addresses_of_a_range_are_dropped_and_unknown_ports_refused() -> None:
    """R5, R6."""
    cidr = ServiceCIDR(ObjectName("", "kubernetes"), (parse_prefix("10.96.0.0/16"),))
    rows = PLANE.render_service(service_program("web", "10.96.0.10", [], external_ip="10.96.0.99"), FACTS)
    rows.update(PLANE.render_node(FACTS, [cidr]))

    def action(address: str, *host: str) -> str | None:
        refusal = PLANE.refusal_of(rows, parse_address(address), set(map(parse_address, host)))
        return refusal.action if refusal else None

    assert action("10.96.0.10") == "reject"
    assert action("10.96.0.77") == "drop"
    assert action("10.96.0.99") is None, "an external address is nobody's to drop"
    assert action("10.96.0.77", "10.96.0.77") is None, "an address of this host is its own"
    assert action("10.97.0.1") is None


def test_all_addresses_are_two_halves_since_no_set_takes_the_whole() -> None:
    for text in ("0.0.0.0/0", "::/0"):
        halves = range_keys(parse_prefix(text))
        assert [key[-1] for key in halves] == [1, 1]
        assert {key[0] for key in halves} == {0x00, 0x80}
    assert range_keys(parse_prefix("10.96.0.0/12")) == (bytes((10, 96, 0, 0, 12)),)


def test_every_set_row_survives_the_way_through_an_element() -> None:
    cidr = ServiceCIDR(ObjectName("", "kubernetes"), (parse_prefix("10.96.0.0/16"), parse_prefix("fd00:96::/108")))
    rows = PLANE.render_node(FACTS, [cidr])
    for address, endpoint in (("10.96.0.10", "10.244.1.2"), ("fd00:96::10", "fd00:244::2")):
        program = service_program("web", address, [endpoint], node_port=30080, external_ip="")
        for table, content in PLANE.render_service(program, FACTS).items():
            rows.setdefault(table, {}).update(content)

    seen = 0
    for (family, name), table in TABLES.items():
        if BY_NAME[name].is_set:
            for key in rows.get(table, {}):
                assert key_of(BY_NAME[name], element_of(BY_NAME[name], family, key)) == key, (set_name(family, name), key)
                seen += 1
    assert seen > 15


def test_who_looks_for_servers_of_others_knows_where_ours_are_on_record() -> None:
    """kpx.host may not ask a data plane, so it repeats the names."""
    assert tuple(set_name(family, "servers") for family in Family) == OUR_RECORDS
