"""What kube-proxy leaves behind, beside what only looks like it: the former goes, and only when somebody asks for it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from kpx.errors import AlreadyRunning
from kpx.host import kube_proxy, kube_proxy_removal
from kpx.kernel.ipset import IpSets
from kpx.kernel.ipvs import Ipvs
from kpx.kernel.netlink import Netlink
from kpx.kernel.wire.ipset import Element, SetShape
from kpx.kernel.wire.ipvs import NEW_SERVER, ServerKey, ServerSettings, server_message
from kpx.model.addresses import parse_address
from tests.lab import features
from tests.lab.netns import PATIENCE, Namespace

pytestmark = [pytest.mark.alike, pytest.mark.packets]

NAT = """\
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAA2 - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-HOSTPORTS - [0:0]
:THEIRS - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j KUBE-HOSTPORTS
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "say -j KUBE-SERVICES there" -j THEIRS
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m comment --comment "hairpin" -m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SERVICES -m comment --comment "cluster IPs" -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m comment --comment "kube-system/kube-dns:dns" -j KUBE-SVC-TCOU7JCQXEZGVUNU
-A KUBE-SVC-TCOU7JCQXEZGVUNU ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SVC-TCOU7JCQXEZGVUNU -j KUBE-SEP-AAAAAAAAAAAAAAA2
-A KUBE-SEP-AAAAAAAAAAAAAAA2 -p udp -j DNAT --to-destination 10.244.0.7:53
-A THEIRS -d 192.0.2.7/32 -j RETURN
COMMIT
*filter
:KUBE-FORWARD - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -j KUBE-ROUTER-FORWARD
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
COMMIT
"""
GONE = (
    "KUBE-SERVICES", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-SVC-", "KUBE-SEP-", "KUBE-FORWARD", "KUBE-IPVS-FILTER",
    "KUBE-LOOP-BACK", "KUBE-CLUSTER-IP", "kube-ipvs0", "table ip kube-proxy", "table ip6 kube-proxy",
)  # fmt: skip
NFT = """
table ip kube-proxy { chain services { }; chain nat-prerouting { type nat hook prerouting priority -100; jump services; }; }
table ip6 kube-proxy { set cluster-ips { type ipv6_addr; }; }
table ip kube-proxies { }
table inet theirs { chain c { type filter hook input priority 0; }; }
"""
VIP, NODE = parse_address("10.96.0.10"), parse_address("192.0.2.1")
RR = ServerSettings("rr", 0, 0)


def sets(*names: str) -> None:
    """Make ipsets with an element each."""
    with contextlib.closing(Netlink()) as netlink:
        door = IpSets(netlink)
        for name in names:
            kind = "hash:ip,port,ip" if name == "KUBE-LOOP-BACK" else "hash:ip,port"
            door.create(SetShape(name, kind, 4, 65536))
            door.write([(name, True, [Element(VIP, None, 17, 53, VIP if kind == "hash:ip,port,ip" else b"")])])


def state(host: Namespace) -> str:
    """Everything there is, as the tools of each part print it, counters left out."""
    with host.entered(), contextlib.closing(Netlink()) as netlink:
        names = "\n".join(sorted(IpSets(netlink).names()))
    rules = "\n".join(
        line.split(" [")[0]
        for program in ("iptables-save", "ip6tables-save")
        for line in host.run(program).stdout.splitlines()
        if not line.startswith("#")
    )
    tables, addresses = host.run("nft", "list", "tables").stdout, host.run("ip", "-o", "address").stdout
    return f"{rules}\n{names}\n{tables}\n{addresses}"


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host on which others have things as well."""
    namespace = Namespace("host")
    with namespace.entered():
        sets("KUBE-SRC-3QXPMCJG7MNLQWSM", "THEIRS")
    yield namespace
    namespace.close()


@pytest.fixture
def before(host: Namespace) -> str:
    """What is there without kube-proxy; then kube-proxy, all its modes at once, has been here."""
    with host.entered():
        sets("KUBE-LOOP-BACK", "KUBE-CLUSTER-IP")
    host.run("iptables-restore", "--noflush", stdin=NAT)
    host.run("ip6tables-restore", "--noflush", stdin="*nat\n:KUBE-SERVICES -\n-A OUTPUT -j KUBE-SERVICES\nCOMMIT\n")
    host.run("nft", "-f", "-", stdin=NFT)
    # Where there is no dummy device, any other will do: kube-proxy's is told by its name.
    for kind in ("dummy", "bridge"):
        if host.run("ip", "link", "add", "kube-ipvs0", "type", kind, check=False).returncode == 0:
            break
    host.ip("address add 10.96.0.10/32 dev kube-ipvs0", "address add 10.96.0.11/32 dev kube-ipvs0")
    return state(host)


def test_nothing_is_found_where_nothing_is(host: Namespace) -> None:
    with host.entered():
        found = kube_proxy.find()

        assert not found
        assert found.counted() == ""
        assert kube_proxy_removal.remove(found) == ((), ())


def test_finding_changes_nothing(host: Namespace, before: str) -> None:
    with host.entered():
        found = kube_proxy.find()

    assert found.counted() == (
        "8 iptables chains, 2 ipsets, the interface kube-ipvs0, "
        "the nftables table ip kube-proxy, the nftables table ip6 kube-proxy"
    )
    assert state(host) == before


def test_only_what_is_kube_proxys_goes_and_twice_is_no_error(host: Namespace, before: str) -> None:
    with host.entered():
        found = kube_proxy.find()
        done = kube_proxy_removal.remove(found)
        again = kube_proxy_removal.remove(kube_proxy.find())

    after = state(host)
    assert done.failed == ()
    assert len(done.removed) == 8
    assert again == ((), ())
    assert [name for name in GONE if name not in before] == []
    assert [name for name in GONE if name in after.replace("say -j KUBE-SERVICES", "")] == []
    kept = [line for line in before.splitlines() if not any(name in line for name in GONE) or "THEIRS" in line]
    assert after.splitlines() == kept
    assert sorted(found.staying()) == [
        "iptables table filter: KUBE-FIREWALL: the kubelet's",
        "iptables table nat: KUBE-KUBELET-CANARY: the kubelet's",
    ]


def test_what_somebody_elses_rules_use_stays_and_is_named(host: Namespace, before: str) -> None:
    host.run("iptables", "-t", "nat", "-A", "THEIRS", "-j", "KUBE-MARK-MASQ")
    with host.entered():
        found = kube_proxy.find()
        done = kube_proxy_removal.remove(found)

    after = state(host)
    assert "iptables table nat: KUBE-MARK-MASQ, KUBE-POSTROUTING: rules of somebody else use them" in found.staying()
    assert '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING' in after
    assert "KUBE-SERVICES" not in after.replace("say -j KUBE-SERVICES", "")
    # A rule of KUBE-POSTROUTING looks into this set.
    assert [sentence.split(":")[0] for sentence in done.failed] == ["ipset KUBE-LOOP-BACK"]
    assert "in use" in done.failed[0]


def test_rules_of_the_other_iptables_go_as_well(host: Namespace) -> None:
    other = "iptables-legacy" if "nf_tables" in host.run("iptables", "--version").stdout else "iptables-nft"
    host.run(other, "-t", "nat", "-N", "KUBE-SERVICES")
    host.run(other, "-t", "nat", "-A", "OUTPUT", "-j", "KUBE-SERVICES")
    with host.entered():
        done = kube_proxy_removal.remove(kube_proxy.find())

    assert done.removed == (f"{other} table nat: chains KUBE-SERVICES, and the rules that lead there",)
    assert "KUBE" not in host.run(f"{other}-save").stdout


def test_virtual_servers_on_kube_ipvs0_go_and_others_are_named(host: Namespace, before: str) -> None:
    if features.lacks("ip_vs", "virtual servers of kube-proxy"):
        pytest.skip("this kernel has no IPVS")
    bound, ours, node_port = ServerKey(4, VIP, 17, 53), ServerKey(4, VIP, 6, 80), ServerKey(4, NODE, 6, 30080)
    marked = ServerKey(4, b"", 0, 0, 7)
    with host.entered(), contextlib.closing(Ipvs()) as ipvs, contextlib.closing(Netlink()) as netlink:
        assert ipvs.write([server_message(NEW_SERVER, key, RR) for key in (bound, ours, node_port, marked)]) == [0] * 4
        IpSets(netlink).create(SetShape("KPX-SERVERS", "hash:ip,port", 4, 65536))
        IpSets(netlink).write([("KPX-SERVERS", True, [Element(VIP, None, 6, 80)])])
        found = kube_proxy.find()
        done = kube_proxy_removal.remove(found)

        assert found.servers == (bound,)
        assert set(found.doubtful) == {node_port, marked}
        assert done.failed == ()
        assert "virtual server 10.96.0.10:53/UDP" in done.removed
        assert {key for key, _ in ipvs.servers()} == {ours, node_port, marked}
        assert "virtual server 192.0.2.1:30080/TCP: not on kube-ipvs0, so it may be anybody's" in found.staying()


def test_the_command_line_looks_and_removes_only_when_asked(host: Namespace, before: str) -> None:
    def kpx(*arguments: str) -> subprocess.CompletedProcess[str]:
        return host.run(sys.executable, "-m", "kpx", *arguments, check=False)

    looked = json.loads(kpx("check", "--healthz-bind-address", "", "--metrics-bind-address", "", "-o", "json").stdout)
    (said,) = [check for check in looked["checks"] if check["name"] == "kube-proxy"]
    assert (said["status"], said["remedy"]) == ("look", "if it is gone for good: kpx cleanup --kube-proxy")
    assert kpx("cleanup").stdout == ""
    assert state(host) == before

    removed, again = kpx("cleanup", "--kube-proxy"), kpx("cleanup", "--kube-proxy")

    assert (removed.returncode, again.returncode) == (0, 0), removed.stderr
    assert "interface kube-ipvs0 and its addresses" in removed.stdout.splitlines()
    assert "kpx: left alone: iptables table filter: KUBE-FIREWALL: the kubelet's" in removed.stderr.splitlines()
    assert again.stdout == ""
    assert "kpx: nothing of kube-proxy is in the kernel" in again.stderr


def test_a_kube_proxy_that_runs_is_found_in_its_own_namespace_only(host: Namespace, tmp_path) -> None:
    program = tmp_path / "kube-proxy"
    program.symlink_to("/bin/sleep")
    running = host.start([str(program), "60"])
    try:
        with host.entered():
            # It is known by its name, which it has a moment after it was started.
            deadline = time.monotonic() + 10 * PATIENCE
            while kube_proxy.running() != running.pid:
                assert time.monotonic() < deadline, "a kube-proxy that runs is not found"
            with pytest.raises(AlreadyRunning, match=rf"kube-proxy \(pid {running.pid}\)"):
                kube_proxy_removal.refuse_while_running()
        assert kube_proxy.running() != running.pid
    finally:
        running.kill()
        running.wait()
    with host.entered():
        assert kube_proxy.running() is None
