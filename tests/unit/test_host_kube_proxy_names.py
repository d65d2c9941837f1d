"""What of an iptables table is kube-proxy's and can go; the rules are as its modes, the kubelet and others write them."""

from __future__ import annotations

import pytest

from kpx.host.kube_proxy_names import SETS, TableLeftovers, is_chain, removal, sets, table_leftovers

SVC, SEP = "KUBE-SVC-TCOU7JCQXEZGVUNU", "KUBE-SEP-AAAAAAAAAAAAAAA2"

IPTABLES_MODE = [
    '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
    '-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
    "-A OUTPUT -j CNI-HOSTPORT-DNAT",
    '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
    "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
    "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
    "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
    f'-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m comment --comment "kube-system/kube-dns:dns" -j {SVC}',
    f"-A {SVC} ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ",
    f"-A {SVC} -j {SEP}",
]
CHAINS = [
    "PREROUTING",
    "OUTPUT",
    "POSTROUTING",
    "CNI-HOSTPORT-DNAT",
    "KUBE-MARK-MASQ",
    "KUBE-POSTROUTING",
    "KUBE-SERVICES",
    SVC,
    SEP,
]
MINE = ("KUBE-MARK-MASQ", "KUBE-POSTROUTING", SEP, "KUBE-SERVICES", SVC)


@pytest.mark.parametrize("name", ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-NODE-PORT", SVC, SEP, "KUBE-FW-TCOU7JCQXEZGVUNU"])
def test_chains_of_kube_proxy(name: str) -> None:
    assert is_chain(name)


@pytest.mark.parametrize(
    "name",
    [
        "KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-MARK-DROP", "KUBE-ROUTER-INPUT", "KUBE-NWPLCY-TCOU7JCQXEZGVUNU",
        "KUBE-HOSTPORTS", "KUBE-POD-FW-TCOU7JCQXEZGVUNU", "KUBE-SVC-short", "KUBE-SVC-TCOU7JCQXEZGVUN1", f"{SVC}X",
        "KPX-STEER", "INPUT",
    ],
)  # fmt: skip
def test_chains_of_others(name: str) -> None:
    assert not is_chain(name)


def test_sets_are_known_by_their_names_as_cut() -> None:
    found = sets(["KUBE-CLUSTER-IP", "KUBE-SRC-3QXPMCJG7MNLQWSM", "KPX-SERVERS", "KUBE-6-LOAD-BALANCER-SOURCE-CID", "KUBE"])

    assert found == ("KUBE-6-LOAD-BALANCER-SOURCE-CID", "KUBE-CLUSTER-IP")
    assert {len(name) for name in SETS if len(name) > 30} == {31}
    assert "KUBE-6-LOAD-BALANCER-SOURCE-CIDR" not in SETS


def test_a_table_without_kube_proxy_has_nothing_to_remove() -> None:
    found = table_leftovers("filter", ["INPUT", "DOCKER", "KUBE-FIREWALL"], ["-A INPUT -j KUBE-FIREWALL", "-A INPUT -j DOCKER"])

    assert found == TableLeftovers("filter", kubelet=("KUBE-FIREWALL",))
    assert removal(found) == ""


def test_chains_and_the_jumps_to_them_go_and_nothing_else() -> None:
    found = table_leftovers("nat", CHAINS, IPTABLES_MODE)

    assert found.chains == MINE
    assert found.jumps == (IPTABLES_MODE[0], IPTABLES_MODE[1], IPTABLES_MODE[3])
    assert found.kept == ()
    lines = removal(found).splitlines()
    assert lines[0] == "*nat"
    assert lines[1:6] == [f":{chain} - [0:0]" for chain in MINE]
    assert lines[6:9] == [
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        '-D OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        '-D POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
    ]
    assert lines[9:] == [*(f"-X {chain}" for chain in MINE), "COMMIT"]


def test_a_chain_somebody_else_uses_stays_with_all_it_needs() -> None:
    """Portmap is told to mark through KUBE-MARK-MASQ; the mark means nothing without KUBE-POSTROUTING."""
    found = table_leftovers("nat", CHAINS, [*IPTABLES_MODE, "-A CNI-HOSTPORT-DNAT -p tcp --dport 80 -j KUBE-MARK-MASQ"])

    assert found.kept == ("KUBE-MARK-MASQ", "KUBE-POSTROUTING")
    assert found.chains == (SEP, "KUBE-SERVICES", SVC)
    assert found.jumps == (IPTABLES_MODE[0], IPTABLES_MODE[1])


def test_what_a_kept_chain_leads_to_is_kept() -> None:
    found = table_leftovers("nat", CHAINS, [*IPTABLES_MODE, f"-A CNI-HOSTPORT-DNAT -g {SVC}"])

    assert found.kept == ("KUBE-MARK-MASQ", "KUBE-POSTROUTING", SEP, SVC)
    assert found.chains == ("KUBE-SERVICES",)


def test_a_jump_of_the_kubelet_keeps_nothing() -> None:
    found = table_leftovers("nat", [*CHAINS, "KUBE-MARK-DROP"], [*IPTABLES_MODE, "-A KUBE-MARK-DROP -j KUBE-MARK-MASQ"])

    assert found.kept == ()
    assert "-A KUBE-MARK-DROP -j KUBE-MARK-MASQ" in found.jumps
    assert found.kubelet == ("KUBE-MARK-DROP",)


def test_a_comment_may_say_anything() -> None:
    rules = [r'-A INPUT -m comment --comment "see \" -j KUBE-SERVICES" -j ACCEPT', "-A INPUT -j KUBE-SERVICES"]

    assert table_leftovers("filter", ["INPUT", "KUBE-SERVICES"], rules).jumps == (rules[1],)
