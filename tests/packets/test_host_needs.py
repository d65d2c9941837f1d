"""What kpx finds out about this kernel, compared with what the tools of others can do with it; and sysctls, really set."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator

import pytest

from kpx.host import ipvs_needs, ipvs_sysctls
from kpx.host.sysctl import read_sysctl
from kpx.kernel.extensions import has_match, has_set_type
from kpx.kernel.netlink import Netlink
from tests.lab import features
from tests.lab.netns import Namespace

pytestmark = pytest.mark.packets

NEEDED = ("nf_tables", "ip_vs", "tracked IPVS connections", "ip_set", "iptables", "xt_set")


@pytest.fixture
def host() -> Iterator[Namespace]:
    namespace = Namespace("host")
    yield namespace
    namespace.close()


def makes_set(host: Namespace, kind: str) -> bool:
    return host.run("ipset", "create", "trial", kind, check=False).returncode == 0


@pytest.mark.parametrize("kind", [*ipvs_needs.SET_TYPES, "hash:ip,port,net", "hash:no,such"])
def test_a_type_of_ipset_is_there_when_ipset_can_make_one(host: Namespace, kind: str) -> None:
    if features.lacks("ip_set", f"type {kind}"):
        pytest.skip("this kernel has no ipset, or ipset(8) is missing")
    with host.entered(), contextlib.closing(Netlink()) as netlink:
        found = has_set_type(netlink, 4, kind)

        assert has_set_type(netlink, 6, kind) == found
    assert found == makes_set(host, kind)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("name", "revision", "there"), [("set", 1, "xt_set"), ("conntrack", 3, "iptables"), ("nonsense", 0, "")])
def test_a_match_is_there_when_iptables_can_use_it(host: Namespace, name: str, revision: int, there: str, legacy: bool) -> None:
    """Both of iptables' interfaces to the kernel are asked; the older one loads nothing by being asked, so iptables loads it."""
    variant = "legacy" if legacy else "nft"
    able = all(host.run(f"{program}-{variant}", "-nL", check=False).returncode == 0 for program in ("iptables", "ip6tables"))
    with host.entered(), contextlib.closing(Netlink()) as netlink:
        found = [has_match(netlink, family, name, revision, legacy) for family in (4, 6)]

    assert found == [able and bool(there) and features.has(there)] * 2


def test_auto_is_ipvs_where_others_can_use_all_of_it(host: Namespace) -> None:
    able = all(features.has(feature) for feature in NEEDED) and makes_set(host, "hash:net,net")
    quiet = ("--healthz-bind-address", "", "--metrics-bind-address", "")
    done = host.run(sys.executable, "-m", "kpx", "check", *quiet, "-o", "json", check=False)
    answers = {check["name"]: check for check in json.loads(done.stdout)["checks"]}

    assert answers["proxy mode"]["status"] == "ok"
    assert answers["proxy mode"]["found"].split(":")[0] == ("ipvs" if able else "nftables")
    assert all(answers[name]["remedy"] for name in ("ip_vs", "ip_set", "ipset types") if answers[name]["status"] != "ok")
    assert done.returncode == 0


def test_ipvs_by_name_where_it_cannot_be_is_one_clear_line(host: Namespace, tmp_path) -> None:
    if all(features.has(feature) for feature in NEEDED) and makes_set(host, "hash:net,net"):
        pytest.skip("this kernel has all that ipvs needs")
    done = host.run(sys.executable, "-m", "kpx", "run", "--proxy-mode", "ipvs", "--manifests", str(tmp_path), check=False)

    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert line.startswith("kpx: error: --proxy-mode ipvs: ")
    assert line.endswith("; or use --proxy-mode nftables")


def test_sysctls_are_set_read_back_and_left_alone_afterwards(host: Namespace) -> None:
    """The kernel keeps them for each network namespace, so ours are as they were."""
    everything = ipvs_sysctls.wanted((6, 1), run_estimation=False, strict_arp=True)
    has_ipvs = features.has("tracked IPVS connections")
    sysctls = [one for one in everything if has_ipvs or ".vs." not in one.name]
    before = [read_sysctl(one.name) for one in sysctls]
    with host.entered():
        first, second = (ipvs_sysctls.ensure(tuple(sysctls)) for _ in range(2))
        after = {one.name: read_sysctl(one.name) for one in sysctls}

    assert (first.unset, second) == ((), ((), ()))
    assert {sentence.split()[0] for sentence in first.changed} >= {
        "net.ipv4.conf.all.arp_ignore",
        "net.ipv4.conf.all.arp_announce",
    }
    assert after == {one.name: one.value for one in sysctls}
    assert [read_sysctl(one.name) for one in sysctls] == before
    if has_ipvs:
        assert any(sentence.startswith("net.ipv4.vs.conntrack was 0 and is 1 now") for sentence in first.changed)
