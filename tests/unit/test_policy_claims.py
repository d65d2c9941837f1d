"""Claims: who wins a frontend, and who has to be compiled again (V11)."""

from __future__ import annotations

from policy_builders import HTTP, TCP, UDP, addresses, claims_for, named, parse_address, service

from kpx.model.service import ServicePort
from kpx.policy.claims import NODE_PORT_ADDRESS, Claim, Claims, claims_of

EIP = parse_address("198.51.100.1")
CIP = parse_address("10.96.0.1")
ON_EIP = Claim(EIP, TCP, 80)


def test_a_service_claims_its_cluster_ip_as_a_whole_and_every_other_address_per_port() -> None:
    claims = claims_of(service(eip=("198.51.100.1",)))

    assert claims == {Claim(CIP, None, 0), Claim(CIP, TCP, 80), ON_EIP, Claim(NODE_PORT_ADDRESS, TCP, 30080)}


def test_a_skipped_service_claims_nothing() -> None:
    skipped = service(skipped="headless")

    assert claims_of(skipped) == frozenset()
    assert claims_for(skipped).owner(Claim(CIP, None, 0)) is None


def test_an_external_address_of_a_family_without_cluster_ip_is_not_claimed() -> None:
    assert Claim(parse_address("2001:db8::1"), TCP, 80) not in claims_of(service(eip=("2001:db8::1",)))


def test_the_older_service_wins_whatever_came_first() -> None:
    old = service("z/old", "10.96.0.1", eip=("198.51.100.1",), created="2023-01-01T00:00:00Z")
    new = service(
        "a/new", "10.96.0.2", eip=("198.51.100.1",), created="2024-01-01T00:00:00Z", ports=(HTTP._replace(node_port=0),)
    )

    assert claims_for(old, new).owner(ON_EIP) == claims_for(new, old).owner(ON_EIP) == named("z/old")


def test_an_unknown_age_counts_as_young_and_the_name_decides_among_equals() -> None:
    stated = service("z/stated", "10.96.0.1", eip=("198.51.100.1",), created="2024-01-01T00:00:00Z")
    unknown = service("a/unknown", "10.96.0.2", eip=("198.51.100.1",))
    also = service("b/unknown", "10.96.0.3", eip=("198.51.100.1",))

    assert claims_for(unknown, stated).owner(ON_EIP) == named("z/stated")
    assert claims_for(also, unknown).owner(ON_EIP) == named("a/unknown")


def test_services_may_share_an_address_on_different_ports_and_protocols() -> None:
    web = service("a/web", "10.96.0.1", lb=("198.51.100.1",))
    dns = service("a/dns", "10.96.0.2", lb=("198.51.100.1",), ports=(ServicePort("dns", UDP, 80, 0),))
    claims = claims_for(web, dns)

    assert claims.owner(ON_EIP) == named("a/web")
    assert claims.owner(Claim(EIP, UDP, 80)) == named("a/dns")


def test_a_cluster_ip_claimed_twice_goes_to_one_service_with_all_its_ports() -> None:
    first = service("a/first", created="2023-01-01T00:00:00Z", ports=(ServicePort("", TCP, 80, 0),))
    second = service("a/second", created="2024-01-01T00:00:00Z", ports=(ServicePort("", TCP, 81, 0),))
    claims = claims_for(second, first)

    assert claims.owner(Claim(CIP, None, 0)) == named("a/first")
    assert claims.owner(Claim(CIP, TCP, 81)) is None


def test_an_older_external_ip_takes_a_port_of_a_cluster_ip_and_a_younger_one_does_not() -> None:
    holder = service("a/holder", created="2023-06-01T00:00:00Z")
    older = service(
        "b/older", "10.96.0.9", eip=("10.96.0.1",), created="2023-01-01T00:00:00Z", ports=(ServicePort("", TCP, 80, 0),)
    )
    younger = service(
        "b/younger", "10.96.0.8", eip=("10.96.0.1",), created="2024-01-01T00:00:00Z", ports=(ServicePort("", TCP, 80, 0),)
    )

    assert claims_for(holder, older).owner(Claim(CIP, TCP, 80)) == named("b/older")
    assert claims_for(holder, older).owner(Claim(CIP, None, 0)) == named("a/holder")
    assert claims_for(holder, younger).owner(Claim(CIP, TCP, 80)) == named("a/holder")


def test_a_node_port_is_owned_per_protocol() -> None:
    first = service("a/first", "10.96.0.1", created="2023-01-01T00:00:00Z")
    second = service("a/second", "10.96.0.2", created="2024-01-01T00:00:00Z")
    dns = service("a/dns", "10.96.0.3", ports=(ServicePort("", UDP, 53, 30080),))
    claims = claims_for(first, second, dns)

    assert claims.owner(Claim(NODE_PORT_ADDRESS, TCP, 30080)) == named("a/first")
    assert claims.owner(Claim(NODE_PORT_ADDRESS, UDP, 30080)) == named("a/dns")


def test_an_uncontested_change_makes_nobody_else_dirty() -> None:
    claims = claims_for(service("a/one", "10.96.0.1"), service("a/two", "10.96.0.2", ports=(ServicePort("", TCP, 80, 30081),)))

    assert claims.update(named("a/one"), service("a/one", "10.96.0.3")) == frozenset()


def test_an_equal_service_and_an_unknown_name_change_nothing() -> None:
    claims = claims_for(service("a/one"))

    assert claims.update(named("a/one"), service("a/one")) == frozenset()
    assert claims.update(named("a/ghost"), None) == frozenset()


def test_when_the_winner_leaves_every_claimant_is_dirty() -> None:
    """The next one takes over, and the others lose to somebody else than before."""
    contenders = [
        service(f"a/{n}", f"10.96.0.{n}", eip=("198.51.100.1",), ports=(ServicePort("", TCP, 80, 0),)) for n in (1, 2, 3)
    ]
    claims = claims_for(*contenders)

    assert claims.update(named("a/1"), None) == {named("a/2"), named("a/3")}
    assert claims.owner(ON_EIP) == named("a/2")


def test_a_younger_claimant_makes_nobody_dirty_and_an_older_one_the_former_winner() -> None:
    plain = (ServicePort("", TCP, 80, 0),)
    claims = claims_for(service("b/one", "10.96.0.1", eip=("198.51.100.1",), created="2023-06-01T00:00:00Z", ports=plain))
    younger = service("c/young", "10.96.0.2", eip=("198.51.100.1",), created="2024-01-01T00:00:00Z", ports=plain)
    older = service("c/old", "10.96.0.3", eip=("198.51.100.1",), created="2023-01-01T00:00:00Z", ports=plain)

    assert claims.update(younger.name, younger) == frozenset()
    assert claims.update(older.name, older) == {named("b/one"), named("c/young")}


def test_ports_that_only_the_heir_of_a_cluster_ip_has_change_hands_with_it() -> None:
    """The heir's port 81 beats a younger external IP that had it while the heir owned nothing."""
    holder = service("a/holder", created="2023-01-01T00:00:00Z", ports=(ServicePort("", TCP, 80, 0),))
    heir = service("a/heir", created="2023-06-01T00:00:00Z", ports=(ServicePort("", TCP, 81, 0),))
    guest = service(
        "a/guest", "10.96.0.9", eip=("10.96.0.1",), created="2024-01-01T00:00:00Z", ports=(ServicePort("", TCP, 81, 0),)
    )
    claims = claims_for(holder, heir, guest)
    assert claims.owner(Claim(CIP, TCP, 81)) == named("a/guest")

    assert claims.update(holder.name, None) == {named("a/heir"), named("a/guest")}
    assert claims.owner(Claim(CIP, TCP, 81)) == named("a/heir")


def test_an_external_ip_that_takes_a_port_of_a_cluster_ip_makes_its_holder_dirty() -> None:
    holder = service("a/holder", created="2023-06-01T00:00:00Z")
    older = service(
        "b/older", "10.96.0.9", eip=("10.96.0.1",), created="2023-01-01T00:00:00Z", ports=(ServicePort("", TCP, 80, 0),)
    )
    claims = claims_for(holder)

    assert claims.update(older.name, older) == {named("a/holder")}
    assert claims.update(older.name, None) == {named("a/holder")}


def test_claims_of_a_service_that_becomes_skipped_are_free() -> None:
    claims: Claims = claims_for(service("a/one", eip=("198.51.100.1",)))
    claims.update(
        named("a/one"), service("a/one", eip=("198.51.100.1",), skipped="label service.kubernetes.io/service-proxy-name is set")
    )

    assert claims.owner(ON_EIP) is None


class TestNodePortsOnAddressesThatServicesHave:
    """V12: which node ports an exact frontend shadows, and who has to know when one comes or goes."""

    SIDE = (ServicePort("", TCP, 30080, 0),)

    def test_every_exact_claim_with_the_number_counts(self) -> None:
        by_external = service("b/external", "10.96.0.2", eip=("192.0.2.1",), ports=self.SIDE)
        by_cluster_ip = service("b/cluster", "10.96.0.3", ports=self.SIDE)
        claims = claims_for(service("a/np"), by_external, by_cluster_ip)
        asked = addresses("192.0.2.1", "192.0.2.2", "10.96.0.3", "10.96.0.1")

        assert claims.addresses_with(TCP, 30080, asked) == list(addresses("192.0.2.1", "10.96.0.3"))
        assert claims.addresses_with(UDP, 30080, asked) == []
        assert claims.addresses_with(TCP, 30081, asked) == []

    def test_the_owner_of_the_node_port_is_dirty_when_an_exact_claim_comes_and_goes(self) -> None:
        claims = claims_for(service("a/np"))
        other = service("b/external", "10.96.0.2", lb=("192.0.2.1",), ports=self.SIDE)

        assert claims.update(other.name, other) == {named("a/np")}
        assert claims.update(other.name, other) == frozenset()
        assert claims.update(other.name, None) == {named("a/np")}
        assert claims.addresses_with(TCP, 30080, addresses("192.0.2.1")) == []

    def test_it_is_not_when_the_address_only_changes_hands(self) -> None:
        """It is shadowed before and after."""
        old = service("b/old", "10.96.0.2", eip=("192.0.2.1",), ports=self.SIDE, created="2023-01-01T00:00:00Z")
        new = service("b/new", "10.96.0.3", eip=("192.0.2.1",), ports=self.SIDE, created="2024-01-01T00:00:00Z")
        claims = claims_for(service("a/np"), old, new)

        assert claims.update(old.name, service("b/old", "10.96.0.2", ports=self.SIDE)) == {named("b/new")}

    def test_only_the_winner_of_a_contested_node_port_is_dirty(self) -> None:
        first = service("a/first", "10.96.0.1", created="2023-01-01T00:00:00Z")
        second = service("a/second", "10.96.0.2", created="2024-01-01T00:00:00Z")
        claims = claims_for(first, second)
        other = service("b/external", "10.96.0.3", eip=("192.0.2.1",), ports=self.SIDE)

        assert claims.update(other.name, other) == {named("a/first")}

    def test_another_protocol_or_number_disturbs_nobody(self) -> None:
        claims = claims_for(service("a/np"))
        ports = (ServicePort("u", UDP, 30080, 0), ServicePort("t", TCP, 30081, 0))
        other = service("b/external", "10.96.0.2", eip=("192.0.2.1",), ports=ports)

        assert claims.update(other.name, other) == frozenset()
