"""What is found about a host, and the remedy for it; /proc is a directory the test writes."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from kpx.errors import CapabilityError, KernelError, PermissionDenied
from kpx.host import features
from kpx.host.sysctl import read_sysctl
from kpx.model.addresses import Family


def sysctl(proc: Path, name: str, value: str) -> None:
    path = proc / "sys" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value + "\n")


@pytest.mark.parametrize(("version", "ok"), [((3, 10, 1), False), ((3, 11, 0), True), ((4, 0, 0), True)])
def test_python(version: tuple[int, ...], ok: bool) -> None:
    check = features.python_version(version)

    assert (check.ok, bool(check.remedy)) == (ok, not ok)


@pytest.mark.parametrize(("release", "ok"), [("6.1.0-31-amd64", True), ("5.10.0", True), ("5.9.16", None), ("strange", None)])
def test_kernel_version_is_a_hint_only(release: str, ok: bool | None) -> None:
    assert features.kernel_version(release).ok is ok


@pytest.mark.parametrize(("effective", "ok"), [("000001ffffffffff", True), ("00001000", True), ("ffffefff", False)])
def test_net_admin_is_bit_12(tmp_path: Path, effective: str, ok: bool) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text(f"Name:\tx\nCapPrm:\t0\nCapEff:\t{effective}\n")

    assert features.net_admin(tmp_path).ok is ok


def test_net_admin_without_proc_is_unknown(tmp_path: Path) -> None:
    assert features.net_admin(tmp_path).ok is None


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (PermissionDenied("read", errno.EPERM), "run as root"),
        (CapabilityError("no netlink protocol 12"), "modprobe nf_tables"),
        (KernelError("read", errno.EOPNOTSUPP), "modprobe nf_tables"),
    ],
)
def test_nf_tables_that_does_not_answer_has_a_remedy(error: Exception, remedy: str) -> None:
    def read() -> None:
        raise error

    check = features.nf_tables(read)

    assert (check.ok, check.found) == (False, str(error))
    assert check.remedy.startswith(remedy)


def test_nf_tables_that_answers() -> None:
    assert features.nf_tables(lambda: None).ok is True


def test_missing_expressions_are_named() -> None:
    check = features.expressions(lambda: ["IPv4: numgen", "IPv6: numgen"])

    assert (check.ok, check.found) == (False, "IPv4: numgen; IPv6: numgen")
    assert features.expressions(list).ok is True


def test_conntrack(tmp_path: Path) -> None:
    assert features.conntrack(tmp_path).ok is None
    sysctl(tmp_path, "net/netfilter/nf_conntrack_max", "262144")
    assert features.conntrack(tmp_path) == features.Check("connection tracking", True, "0 of at most 262144 flows")
    sysctl(tmp_path, "net/netfilter/nf_conntrack_count", "262144")
    check = features.conntrack(tmp_path)
    assert (check.ok, check.found) == (None, "262144 of at most 262144 flows")
    assert "new connections are dropped" in check.remedy


@pytest.mark.parametrize(
    ("family", "name"), [(Family.IPV4, "net/ipv4/ip_forward"), (Family.IPV6, "net/ipv6/conf/all/forwarding")]
)
def test_forwarding(tmp_path: Path, family: Family, name: str) -> None:
    assert features.forwarding(family, tmp_path).ok is None
    sysctl(tmp_path, name, "0")
    check = features.forwarding(family, tmp_path)
    assert (check.ok, check.remedy.split(";")[0]) == (None, f"sysctl -w {name.replace('/', '.')}=1")
    sysctl(tmp_path, name, "1")
    assert features.forwarding(family, tmp_path).ok is True


def test_strict_reverse_path_filter_is_named_by_interface(tmp_path: Path) -> None:
    """The kernel takes the larger of the interface's value and that of all (ip-sysctl)."""
    values = {"all": "0", "default": "1", "lo": "1", "eth0": "1", "eth0.100": "1", "eth1": "2", "eth2": "0"}
    for interface, value in values.items():
        sysctl(tmp_path, f"net/ipv4/conf/{interface}/rp_filter", value)
    assert features.reverse_path(tmp_path).found == "strict on eth0, eth0.100"
    sysctl(tmp_path, "net/ipv4/conf/all/rp_filter", "1")
    assert features.reverse_path(tmp_path).found == "strict on eth0, eth0.100, eth2"
    sysctl(tmp_path, "net/ipv4/conf/all/rp_filter", "2")
    assert features.reverse_path(tmp_path).ok is True


def test_other_agent_is_no_obstacle_to_checking() -> None:
    assert features.other_agent(None).ok is True
    assert features.other_agent(17).found == "an agent runs here (pid 17)"
    assert features.other_agent(17).ok is None


def test_port_that_is_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = other.getsockname()
        check = features.port_free("--metrics-bind-address", address)
    assert (check.ok, check.found) == (None, "Address already in use")
    assert "--metrics-bind-address" in check.remedy
    assert features.port_free("--metrics-bind-address", address).ok is True


def test_sysctl_names_may_have_dots_of_their_own(tmp_path: Path) -> None:
    sysctl(tmp_path, "net/ipv4/conf/eth0.100/rp_filter", "2")

    assert read_sysctl("net/ipv4/conf/eth0.100/rp_filter", tmp_path / "sys") == "2"
    assert read_sysctl("net.ipv4.conf.eth1.rp_filter", tmp_path / "sys") is None


def test_kube_proxy_is_worth_a_look() -> None:
    assert features.kube_proxy(None, "").ok is True
    assert features.kube_proxy(17, "1 ipset").found == "runs here (pid 17)"
    left = features.kube_proxy(None, "1 ipset")
    assert (left.ok, left.found) == (None, "left behind: 1 ipset")
    assert left.remedy.endswith("kpx cleanup --kube-proxy")
