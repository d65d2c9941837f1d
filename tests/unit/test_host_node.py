"""NodeFacts from settings, the Node object and the host (16.3, 16.4, N1-N5, P2)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kpx.errors import CapabilityError
from kpx.host.addresses import HostAddresses, LocalAddress
from kpx.host.node import NodeSettings, facts_warnings, node_facts, node_name, supported_families
from kpx.model.addresses import Address, Family, Prefix, parse_address, parse_prefix
from kpx.model.facts import DetectLocal, LocalDetector
from kpx.model.names import ObjectName
from kpx.model.node import Node
from kpx.policy.admission import same_but_for_admission

V4, V6 = Family.IPV4, Family.IPV6
HOST = HostAddresses(
    (
        LocalAddress("lo", parse_address("127.0.0.1"), 8),
        LocalAddress("eth0", parse_address("192.0.2.1"), 24),
        LocalAddress("eth0", parse_address("fd00::1"), 64),
        LocalAddress("eth1", parse_address("198.51.100.1"), 24),
    ),
    (parse_address("192.0.2.1"), parse_address("fd00::1")),
)


def ips(*texts: str) -> tuple[Address, ...]:
    return tuple(map(parse_address, texts))


def ranges(*texts: str) -> tuple[Prefix, ...]:
    return tuple(map(parse_prefix, texts))


def node(*addresses: str, pods: tuple[str, ...] = (), zone: str | None = None) -> Node:
    return Node(ObjectName("", "n1"), ips(*addresses), ranges(*pods), zone)


SETTINGS = NodeSettings(name="n1")


class TestNodeIps:
    """16.3."""

    def test_stated_address_wins_and_the_node_fills_in_the_other_family(self) -> None:
        settings = NodeSettings(name="n1", bind_address=parse_address("198.51.100.1"))
        facts = node_facts(settings, node("192.0.2.1", "fd00::1"), HOST)

        assert facts.node_ips == ips("198.51.100.1", "fd00::1")

    def test_node_object_beats_the_host(self) -> None:
        assert node_facts(SETTINGS, node("198.51.100.1"), HOST).node_ips == ips("198.51.100.1")

    def test_first_address_of_each_family_counts(self) -> None:
        facts = node_facts(SETTINGS, node("fd00::1", "192.0.2.1", "198.51.100.1"), HOST)

        assert (facts.node_ips, facts.families) == (ips("fd00::1", "192.0.2.1"), (V6, V4))

    def test_without_a_node_object_the_host_knows(self) -> None:
        assert node_facts(SETTINGS, None, HOST).node_ips == ips("192.0.2.1", "fd00::1")

    def test_primary_family_that_is_switched_off_is_fatal(self) -> None:
        """P2."""
        settings = NodeSettings(name="n1", families=(V4,))
        with pytest.raises(CapabilityError, match="the address of this node is IPv6, and this host has IPv6 switched off"):
            node_facts(settings, node("fd00::1"), HOST)

    def test_secondary_family_that_is_switched_off_is_left_out(self) -> None:
        settings = NodeSettings(name="n1", families=(V4,), node_port_ranges=ranges("fd00::/8"))
        facts = node_facts(settings, node("192.0.2.1", "fd00::1"), HOST)

        assert (facts.families, facts.node_ips, facts.node_port_any) == ((V4,), ips("192.0.2.1"), {V4})


class TestNodePortAddresses:
    """N1-N5."""

    def facts(self, *texts: str) -> tuple[frozenset[Address], frozenset[Family]]:
        facts = node_facts(NodeSettings(name="n1", node_port_ranges=ranges(*texts)), None, HOST)
        return facts.node_port_addresses, facts.node_port_any

    def test_primary_is_the_address_of_the_node(self) -> None:
        facts = node_facts(SETTINGS, None, HOST)

        assert (facts.node_port_addresses, facts.node_port_any) == (set(ips("192.0.2.1", "fd00::1")), frozenset())

    def test_primary_is_never_loopback(self) -> None:
        """N2."""
        assert node_facts(SETTINGS, node("127.0.0.1"), HOST).node_port_addresses == frozenset()

    def test_ranges_of_both_families(self) -> None:
        assert self.facts("198.51.0.0/16", "fd00::/8") == (set(ips("198.51.100.1", "fd00::1")), frozenset())

    def test_family_without_a_range_answers_everywhere(self) -> None:
        assert self.facts("192.0.2.0/24") == (set(ips("192.0.2.1")), {V6})

    def test_zero_range_answers_everywhere(self) -> None:
        assert self.facts("0.0.0.0/0", "192.0.2.0/24", "::/0") == (frozenset(), {V4, V6})

    def test_range_without_an_address_of_this_host_answers_nowhere(self) -> None:
        assert self.facts("203.0.113.0/24", "2001:db8::/32") == (frozenset(), frozenset())


class TestRowsForEachAddress:
    """D10: where every address needs rows of its own, one that is added after the start is a new fact."""

    MORE = HOST._replace(addresses=(*HOST.addresses, LocalAddress("eth2", parse_address("203.0.113.1"), 24)))
    LINK = HOST._replace(addresses=(*HOST.addresses, LocalAddress("eth0", parse_address("fe80::1"), 64)))

    def test_a_family_in_which_any_address_answers_lists_them_all(self) -> None:
        """N4, and P4: neither loopback nor IPv6 link-local."""
        settings = NodeSettings(name="n1", node_port_ranges=ranges("0.0.0.0/0", "::/0"), per_address=True)
        facts = node_facts(settings, None, self.LINK)

        assert facts.node_port_any == {V4, V6}
        assert facts.node_port_addresses == set(ips("192.0.2.1", "198.51.100.1", "fd00::1"))
        assert node_facts(settings, None, self.MORE) != node_facts(settings, None, HOST)

    def test_ranges_of_the_other_family_still_restrict_it(self) -> None:
        settings = NodeSettings(name="n1", node_port_ranges=ranges("192.0.2.0/24"), per_address=True)

        assert node_facts(settings, None, HOST).node_port_addresses == set(ips("192.0.2.1", "fd00::1"))

    def test_otherwise_an_address_that_comes_is_no_news(self) -> None:
        settings = NodeSettings(name="n1", node_port_ranges=ranges("0.0.0.0/0"))

        assert same_but_for_admission(node_facts(settings, None, self.MORE), node_facts(settings, None, HOST))


class TestOwnAddresses:
    """What no external IP may be: whatever is known to be an address of this node (decision 0021)."""

    def test_they_are_what_is_stated_what_the_node_says_and_what_interfaces_have(self) -> None:
        (stated,) = ips("198.51.100.1")
        facts = node_facts(NodeSettings(name="n1", bind_address=stated), node("203.0.113.1"), HOST)

        assert facts.own_addresses == {*ips("198.51.100.1", "203.0.113.1"), *HOST.answering()}

    def test_addresses_of_services_that_kube_proxy_put_on_its_interface_are_not(self) -> None:
        (service,) = ips("203.0.113.5")
        left = HostAddresses((*HOST.addresses, LocalAddress("kube-ipvs0", service, 32)))

        assert service not in node_facts(NodeSettings(name="n1"), None, left).own_addresses

    def test_the_operator_may_let_services_have_them_and_those_of_the_api_server(self) -> None:
        servers = frozenset(ips("192.0.2.200"))
        kept = node_facts(NodeSettings(name="n1"), None, HOST, servers)
        let = node_facts(NodeSettings(name="n1", own_external_ips=True, api_server_external_ips=True), None, HOST, servers)

        assert (kept.api_server_addresses, let.api_server_addresses) == (servers, frozenset())
        assert kept.own_addresses
        assert not let.own_addresses


def test_what_ipvs_needs_to_know_is_passed_on() -> None:
    facts = node_facts(NodeSettings(name="n1", scheduler="wlc", mark_bits=0xC000), None, HOST)

    assert (facts.scheduler, facts.mark_bits, facts.missing_schedulers) == ("wlc", 0xC000, frozenset())


def test_a_missing_scheduler_of_the_node_is_said_once() -> None:
    detector = LocalDetector(prefixes=ranges("10.244.0.0/16", "fd01::/48"))
    facts = node_facts(NodeSettings(name="n1", detector=detector, scheduler="wlc"), None, HOST)
    without = msgspec.structs.replace(facts, missing_schedulers=frozenset({"wlc", "mh"}))

    assert facts_warnings(facts) == ()
    assert facts_warnings(without) == (
        "--ipvs-scheduler: this kernel has no scheduler 'wlc', so new connections are spread by rr; "
        "run modprobe ip_vs_wlc, or name another",
    )


def test_node_cidr_mode_takes_the_pod_ranges_of_the_node() -> None:
    settings = NodeSettings(name="n1", detector=LocalDetector(DetectLocal.NODE_CIDR, ranges("10.0.0.0/8")))
    facts = node_facts(settings, node("192.0.2.1", pods=("10.244.1.0/24", "10.244.2.0/24", "fd01::/64")), HOST)

    assert facts.local_detector.prefixes == ranges("10.244.1.0/24", "fd01::/64")
    assert node_facts(settings, None, HOST).local_detector.prefixes == ()


def test_zone_comes_from_the_node() -> None:
    assert node_facts(SETTINGS, node("192.0.2.1", zone="a"), HOST).zone == "a"


def test_what_is_probably_not_meant_is_said() -> None:
    detector = LocalDetector(prefixes=ranges("10.244.0.0/16"))
    settings = NodeSettings(name="n1", detector=detector, node_port_ranges=ranges("203.0.113.0/24"))

    assert facts_warnings(node_facts(settings, None, HOST)) == (
        "no IPv4 address of this node answers on node ports",
        "--cluster-cidr has no IPv6 range: IPv6 traffic to ClusterIPs is not masqueraded",
    )


@pytest.mark.parametrize("override", ["Node-1 ", " NODE-1"])
def test_name_is_lower_case_without_blanks(override: str) -> None:
    """16.4."""
    assert node_name(override) == "node-1"


@pytest.mark.parametrize(
    ("disabled", "if_inet6", "families"), [("0", True, (V4, V6)), ("1", True, (V4,)), ("0", False, (V4,)), (None, True, (V4,))]
)
def test_families_of_the_host(tmp_path: Path, disabled: str | None, if_inet6: bool, families: tuple[Family, ...]) -> None:
    """P2."""
    sysctl = tmp_path / "sys/net/ipv6/conf/all/disable_ipv6"
    sysctl.parent.mkdir(parents=True)
    (tmp_path / "net").mkdir()
    if disabled is not None:
        sysctl.write_text(disabled + "\n")
    if if_inet6:
        (tmp_path / "net/if_inet6").touch()

    assert supported_families(tmp_path) == families
