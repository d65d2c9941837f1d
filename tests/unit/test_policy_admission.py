"""V2: external IPs that the operator does not let Services have are as if nobody had asked for them."""

from __future__ import annotations

import pytest
from msgspec import structs
from policy_builders import FACTS, addresses, claims_for, compiled, frontends, named, service

from kpx.agent.compiler import Compiler
from kpx.cluster.events import Synced, Upsert
from kpx.model.addresses import Address, parse_prefix
from kpx.model.facts import NodeFacts
from kpx.model.findings import Severity
from kpx.policy.admission import admitted, concerned, same_but_for_admission, turned_away
from kpx.policy.compile import compile_service
from tests.lab.memory_dataplane import MemoryDataplane

INSIDE, OUTSIDE = "203.0.113.5", "198.51.100.5"


def facts(*ranges: str) -> NodeFacts:
    return structs.replace(FACTS, external_ip_ranges=tuple(map(parse_prefix, ranges)))


def test_without_ranges_every_external_ip_is_admitted() -> None:
    asked = service(eip=(INSIDE, OUTSIDE))

    assert admitted(asked, FACTS) is asked


@pytest.mark.parametrize(
    ("ranges", "left"),
    [
        (["203.0.113.0/24"], {INSIDE}),
        (["203.0.113.0/24", "198.51.100.5"], {INSIDE, OUTSIDE}),
        (["0.0.0.0/0"], {INSIDE, OUTSIDE}),
        (["2001:db8::/32"], set()),
        ([], set()),
    ],
)
def test_what_is_in_no_range_is_not_forwarded(ranges: list[str], left: set[str]) -> None:
    """A range of one family leaves out the other, unlike with --nodeport-addresses: a list of what is allowed is all there is."""
    program = compiled(service(eip=(INSIDE, OUTSIDE)), facts=facts(*ranges))

    assert {name.partition(":")[0] for name in frontends(program)} == {"10.96.0.1", "nodePort", *left}
    assert len(program.findings) == 2 - len(left)


def test_turning_away_is_said_on_the_service() -> None:
    (finding,) = compiled(service(eip=(OUTSIDE,)), facts=facts()).findings

    assert finding.severity is Severity.WARNING
    assert str(finding) == (
        "Service shop/web: spec.externalIPs[0]: 198.51.100.5 is outside of --external-ip-ranges and is not answered; "
        "remove it, or let Services have it"
    )


def test_load_balancer_ips_are_not_meant() -> None:
    """They are in the status, which users cannot write; the same address as an external IP changes nothing."""
    program = compiled(service(lb=(OUTSIDE,), eip=(OUTSIDE,)), facts=facts())

    assert f"{OUTSIDE}:80/TCP" in frontends(program)


def test_what_is_turned_away_keeps_nobody_out() -> None:
    """An older Service that names somebody's ClusterIP as external IP takes nothing from it (V11)."""
    thief = service("a/thief", "10.96.0.9", eip=("10.96.0.1",), created="2020-01-01T00:00:00Z")
    victim = service("shop/web", "10.96.0.1", created="2024-01-01T00:00:00Z")

    def forwarded(now: NodeFacts) -> bool:
        claims = claims_for(admitted(thief, now), victim)
        return "10.96.0.1:80/TCP" in frontends(compile_service(victim, (), now, claims))

    assert not forwarded(FACTS)
    assert forwarded(facts())


def test_other_ranges_hold_from_the_next_round_on() -> None:
    """The setting is a fact of the node; whoever lost an address to somebody that is turned away has it back."""
    compiler = Compiler(MemoryDataplane(), FACTS)
    thief = service("a/thief", "10.96.0.9", eip=("10.96.0.1",), created="2020-01-01T00:00:00Z")
    victim = service("shop/web", "10.96.0.1", created="2024-01-01T00:00:00Z")
    compiler.fold([Upsert(thief), Upsert(victim), Synced()])
    compiler.compile()
    assert "10.96.0.1:80/TCP" in frontends(compiler.programs[named("a/thief")])

    compiler.facts = facts()
    compiler.compile()

    assert "10.96.0.1:80/TCP" not in frontends(compiler.programs[named("a/thief")])
    assert "10.96.0.1:80/TCP" in frontends(compiler.programs[named("shop/web")])


def _one(text: str) -> frozenset[Address]:
    return frozenset(addresses(text)) if text else frozenset()


def reserved(*, own: str = "", api_server: str = "") -> NodeFacts:
    """A node that is known to have an address, and an API server that is."""
    return structs.replace(FACTS, own_addresses=_one(own), api_server_addresses=_one(api_server))


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (reserved(own=OUTSIDE), "is an address of node n1 and is not answered; remove it, or add the word node"),
        (
            reserved(api_server=OUTSIDE),
            "is an address of the API server and is not answered; remove it, or add the word api-server",
        ),
    ],
)
def test_addresses_of_the_node_and_of_the_api_server_are_turned_away(now: NodeFacts, said: str) -> None:
    """The Service keeps its other addresses, in ranges of any width; a load-balancer IP is not meant (V3, decision 0021)."""
    wide = structs.replace(now, external_ip_ranges=(parse_prefix("0.0.0.0/0"),))
    for facts_now in (now, wide):
        program = compiled(service(eip=(INSIDE, OUTSIDE)), facts=facts_now)

        assert {name.partition(":")[0] for name in frontends(program)} == {"10.96.0.1", "nodePort", INSIDE}
        assert str(program.findings[0]) == f"Service shop/web: spec.externalIPs[1]: {OUTSIDE} {said} to --external-ip-ranges"
        assert f"{OUTSIDE}:80/TCP" in frontends(compiled(service(lb=(OUTSIDE,)), facts=facts_now))


def test_no_setting_lets_a_service_have_loopback() -> None:
    """The API refuses such an object; a file may say it, and then every process of the host would ask somebody else."""
    anything = structs.replace(FACTS, external_ip_ranges=None)
    for text in ("127.0.0.1", "127.9.9.9", "::1"):
        (finding,) = turned_away(service(eip=(text,)), anything)

        assert finding.message == f"{text} is a loopback address and is not answered; remove it"


def test_an_address_that_comes_to_the_node_is_turned_away_and_given_back() -> None:
    """Only Services that ask for it are compiled again; who lost the address to one of them has it meanwhile (V11)."""
    compiler = Compiler(MemoryDataplane(), reserved())
    thief = service("a/thief", "10.96.0.9", eip=("10.96.0.1",), created="2020-01-01T00:00:00Z")
    victim = service("shop/web", "10.96.0.1", created="2024-01-01T00:00:00Z")
    compiler.fold([Upsert(thief), Upsert(victim), Upsert(service("shop/other", "10.96.0.8")), Synced()])
    compiler.compile()

    def holder() -> list[str]:
        return [str(name) for name, program in compiler.programs.items() if "10.96.0.1:80/TCP" in frontends(program)]

    assert holder() == ["a/thief"]
    for now, owner in ((reserved(own="10.96.0.1"), "shop/web"), (reserved(), "a/thief")):
        compiler.facts = now
        assert set(compiler.compile()) == {named("a/thief"), named("shop/web")}
        assert holder() == [owner]


def test_who_is_concerned_by_an_address_that_comes_or_goes() -> None:
    asks, other = service("shop/asks", eip=(OUTSIDE,)), service("shop/other", eip=(INSIDE,))
    services = {one.name: one for one in (asks, other)}

    assert concerned(services, reserved(), reserved(own=OUTSIDE)) == {asks.name}
    assert concerned(services, reserved(api_server=INSIDE), reserved()) == {other.name}
    assert concerned(services, reserved(own=INSIDE), reserved(own=INSIDE)) == set()
    assert same_but_for_admission(reserved(), reserved(own=OUTSIDE))
    assert not same_but_for_admission(reserved(), structs.replace(reserved(), masquerade_all=True))
