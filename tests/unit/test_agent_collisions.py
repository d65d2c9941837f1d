"""A Service that has an address of this host."""

from __future__ import annotations

from agent_builders import SYNCED, MemoryFlows, eps, svc
from policy_builders import FACTS

from kpx.agent.collisions import collisions
from kpx.agent.engine import Engine
from kpx.model.addresses import parse_address
from tests.lab.memory_dataplane import MemoryDataplane
from tests.lab.programs import service_program

HERE = frozenset({parse_address("192.0.2.1"), parse_address("10.96.0.10")})


def test_each_shared_address_is_named_with_its_ports() -> None:
    program = service_program("web", "10.96.0.10", ["10.244.1.2"], external_ip="192.0.2.1", node_port=30080)

    assert [str(finding) for finding in collisions(program, HERE)] == [
        "Service test/web: its ClusterIP 10.96.0.10 is an address of this host: there 80/TCP is answered by the Service and not "
        "by a process of the host; all other ports stay the host's",
        "Service test/web: its external address 192.0.2.1 is an address of this host: there 80/TCP is answered by the Service "
        "and not by a process of the host; all other ports stay the host's",
    ]
    assert not list(collisions(program, frozenset({parse_address("192.0.2.9")})))


def test_an_address_the_host_gets_later_is_told_then_and_no_longer_when_it_goes() -> None:
    engine = Engine(MemoryDataplane(), FACTS, MemoryFlows())
    engine.fold([svc("shop/a", "10.96.0.10"), eps("shop/a", "10.244.2.1"), SYNCED])
    engine.compile()
    assert engine.findings.every() == []

    engine.set_host(HERE)
    assert ["10.96.0.10" in str(finding) for finding in engine.findings.every()] == [True]
    engine.set_host(frozenset())
    assert engine.findings.every() == []
