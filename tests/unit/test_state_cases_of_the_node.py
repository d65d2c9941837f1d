"""The state cases about one node: its addresses, its object as it comes and changes, its sysctls."""

from __future__ import annotations

from state_cases import CASES, Case, expected, of_kind

from kpx.host.addresses import HostAddresses, LocalAddress, may_answer
from kpx.host.conntrack_sysctls import BUCKETS, Wishes, wanted
from kpx.host.node import NodeSettings, facts_warnings, node_facts
from kpx.model.addresses import Address, Family, family_of, format_address, parse_address, parse_prefix
from kpx.model.facts import DetectLocal, LocalDetector
from kpx.model.names import ObjectName
from kpx.model.node import Node

FAMILIES = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}
SECONDS = {
    "tcpEstablishedTimeout": "tcp_established",
    "tcpCloseWaitTimeout": "tcp_close_wait",
    "udpTimeout": "udp",
    "udpStreamTimeout": "udp_stream",
}
NODE_CIDR = NodeSettings(name="n1", detector=LocalDetector(DetectLocal.NODE_CIDR))


def node(version: Case | None) -> Node | None:
    if version is None:
        return None
    return Node(
        ObjectName("", "n1"), tuple(map(parse_address, version["ips"])), tuple(map(parse_prefix, version["podCIDRs"])), None
    )


@of_kind("node_port_addresses")
def test_node_port_addresses(case: Case) -> None:
    """N1, N2, N4, N5: of loopback, which the cases list, nothing answers (N6)."""
    entries = [each.split("/") for texts in case["interfaces"].values() for each in texts]
    host = HostAddresses(tuple(LocalAddress("eth0", parse_address(text), int(length)) for text, length in entries))
    asked = case["node_port_addresses"]
    ranges = None if asked == ["primary"] else tuple(map(parse_prefix, asked))
    ips = case.get("node_ips", [])
    settings = NodeSettings(name="n1", node_port_ranges=ranges)
    facts = node_facts(settings, node({"ips": ips, "podCIDRs": []}) if ips else None, host)

    for name, family in FAMILIES.items():
        wanted_here = expected(case)[name]
        assert (family in facts.node_port_any) == wanted_here["match_all"]
        if not wanted_here["match_all"]:
            chosen = {format_address(one) for one in facts.node_port_addresses if family_of(one) == family}
            assert chosen == set(wanted_here["addresses"])


@of_kind("ipvs_address_filter")
def test_address_filter(case: Case) -> None:
    """N6, P4: neither loopback nor IPv6 link-local, and of one family only."""
    for row in case["rows"]:
        address: Address = parse_address(row["ip"])
        assert (family_of(address) == FAMILIES[row["family"]] and may_answer(address)) == row["usable"], row


@of_kind("node_startup")
def test_node_startup(case: Case) -> None:
    """16.1, 16.3: the facts are those of the last version; what is missing is said and taken when it comes."""
    (*_, last) = [None, *case["node_versions"]]
    facts = node_facts(NODE_CIDR if case["watch_pod_cidrs"] else NodeSettings(name="n1"), node(last), HostAddresses())
    wanted_here = expected(case)

    assert wanted_here["error"] is None, "kpx always starts"
    assert list(map(format_address, facts.node_ips)) == wanted_here["node_ips"]
    if "pod_cidrs" in wanted_here:
        assert list(map(str, facts.local_detector.prefixes)) == wanted_here["pod_cidrs"]
        assert any("has no IPv4 pod range" in text for text in facts_warnings(facts)) == (not wanted_here["pod_cidrs"])


@of_kind("node_change")
def test_node_change(case: Case) -> None:
    """6.3: where kube-proxy exits to start anew, the facts differ and everything is written by the new ones."""
    before, after = (node_facts(NODE_CIDR, node(case[when]), HostAddresses()) for when in ("before", "after"))

    assert (before != after) == case["expect"]["exits"]


@of_kind("conntrack_sysctls")
def test_conntrack_sysctls(case: Case) -> None:
    """Section 17; where kube-proxy sets the number of buckets by a parameter of the module, kpx has a sysctl for it."""
    config = case["conntrack_config"]
    seconds = {SECONDS[key]: int(value.removesuffix("s")) for key, value in config.items() if key in SECONDS}
    wishes = Wishes(per_core=config.get("maxPerCore", 0), be_liberal=config.get("tcpBeLiberal", False), **seconds)
    found = {one.name: one.value for one in wanted(wishes, cores=4) if one.name != BUCKETS}
    computed = {"computed": str(4 * wishes.per_core)}

    assert found == {key: computed.get(value, str(value)) for key, value in case["expect"]["sysctls_written"].items()}


def test_every_key_of_a_conntrack_case_is_read() -> None:
    """A setting nobody reads would pass as one that writes nothing."""
    keys = {key for case in CASES if case["kind"] == "conntrack_sysctls" for key in case["conntrack_config"]}
    assert keys <= {*SECONDS, "maxPerCore", "tcpBeLiberal"}
