"""What it means for ipvs that a part of the kernel or a program is not there, and what gets in its way."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kpx.dataplanes.ipvs.schema import shapes
from kpx.errors import PermissionDenied
from kpx.host import ipvs_checks, ipvs_needs
from kpx.host.features import Check
from kpx.host.ipvs_sysctls import wanted
from kpx.host.modules import Module
from kpx.model.addresses import Family


def sysctl(proc: Path, name: str, value: str) -> Path:
    path = proc / "sys" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value + "\n")
    return path


def test_the_types_of_sets_are_those_the_data_plane_makes() -> None:
    assert set(ipvs_needs.SET_TYPES) == {shape.kind for family in Family for shape in shapes(family)}


@pytest.mark.parametrize(
    ("absent", "permitted", "refusal", "ok", "remedy"),
    [
        ({}, False, "", True, ""),
        ({"ip_vs": Module.ABSENT}, True, "", False, "install the modules of this kernel"),
        ({"ip_vs": Module.UNKNOWN}, True, "", False, "on the host, as root: modprobe ip_vs; or run a kernel"),
        ({"ip_vs": Module.LOADABLE}, True, "", None, "nothing: kpx run loads what it needs; or, as root: modprobe ip_vs"),
        ({"ip_vs": Module.LOADABLE}, False, "", False, "on the host, as root: modprobe ip_vs"),
        ({"ip_vs": Module.LOADABLE}, True, "modprobe: denied", False, "on the host, as root: modprobe ip_vs"),
        ({"ip_vs": Module.LOADED}, True, "", False, "see dmesg"),
        ({"xt_set": Module.LOADED, "nft_compat": Module.LOADABLE}, False, "", False, "on the host, as root: modprobe nft_compat"),
        ({"a": Module.LOADABLE, "b": Module.LOADABLE}, True, "", None, "nothing: kpx run loads what it needs; or, as root:"),
        ({"a": Module.LOADABLE, "b": Module.ABSENT}, True, "", False, "install the modules of this kernel"),
    ],
)  # fmt: skip
def test_a_part_that_does_not_answer(absent: dict, permitted: bool, refusal: str, ok: bool | None, remedy: str) -> None:
    check = ipvs_needs.answer("ip_vs", absent, permitted, refusal)

    assert check.ok is ok
    assert check.remedy.startswith(remedy)
    assert bool(check.remedy) == bool(absent)


def test_words_of_modprobe_are_passed_on() -> None:
    check = ipvs_needs.answer("ip_vs", {"ip_vs": Module.LOADABLE}, True, "modprobe: key rejected")

    assert check.found == "ip_vs is not loaded (modprobe: key rejected), and may not be loaded from here"


def test_without_permission_that_is_the_answer() -> None:
    def missing() -> list[str]:
        raise PermissionDenied("ask IPVS for its version", errno.EPERM)

    check = ipvs_needs.need("ip_vs", missing, loading=True)

    assert check == Check("ip_vs", False, "Operation not permitted", "run kpx as root, for example with sudo")


def test_what_answers_is_not_asked_twice() -> None:
    asked: list[None] = []

    def missing() -> list[str]:
        asked.append(None)
        return []

    assert ipvs_needs.need("ip_set", missing, loading=True).ok is True
    assert len(asked) == 1


def test_raw_sockets_take_a_capability() -> None:
    """CAP_NET_RAW is bit 13; whoever runs the tests has it or not."""
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))

    assert ipvs_needs.raw_sockets().ok == bool(int(effective.split()[1], 16) >> 13 & 1)


def test_tracked_connections(tmp_path: Path) -> None:
    assert ipvs_needs.tracked_connections(tmp_path / "sys").remedy == "run a kernel with CONFIG_IP_VS_NFCT"
    sysctl(tmp_path, "net/ipv4/vs/conntrack", "0")
    assert ipvs_needs.tracked_connections(tmp_path / "sys").ok is True


@pytest.mark.parametrize(("number", "ok"), [(errno.EINVAL, True), (errno.ENOENT, True), (errno.EAFNOSUPPORT, False)])
def test_ipv6_virtual_servers(number: int, ok: bool) -> None:
    assert ipvs_needs.ipv6(number).ok is ok


def test_programs_are_named_by_family(tmp_path: Path) -> None:
    for name in ("iptables-save", "iptables-restore"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)

    assert ipvs_needs.programs([Family.IPV4], str(tmp_path)).ok is True
    assert ipvs_needs.programs(list(Family), str(tmp_path)).found == "no ip6tables-save, ip6tables-restore"


def test_sysctls_that_differ_are_no_obstacle_while_they_may_be_set(tmp_path: Path) -> None:
    for name in ("conntrack", "expire_nodest_conn", "conn_reuse_mode"):
        sysctl(tmp_path, f"net/ipv4/vs/{name}", "1")
    assert ipvs_checks.sysctls(wanted((6, 1)), tmp_path / "sys").ok is True

    sysctl(tmp_path, "net/ipv4/vs/conntrack", "0")
    check = ipvs_checks.sysctls(wanted((6, 1)), tmp_path / "sys")

    assert (check.ok, check.found) == (None, "net.ipv4.vs.conntrack = 0")
    assert check.remedy == "nothing: kpx run sets them; or sysctl -w net.ipv4.vs.conntrack=1"


def test_lookups_of_the_source_by_mark_are_named_by_interface(tmp_path: Path) -> None:
    """Seen on a real kernel: either switch counts for the interface or for all, and accept_local makes up for it."""
    for interface in ("all", "default", "lo", "eth0", "wg0"):
        for what in ("src_valid_mark", "accept_local"):
            sysctl(tmp_path, f"net/ipv4/conf/{interface}/{what}", "0")
    assert ipvs_checks.source_marks(tmp_path).ok is True
    sysctl(tmp_path, "net/ipv4/conf/lo/src_valid_mark", "1")
    assert ipvs_checks.source_marks(tmp_path).ok is True
    sysctl(tmp_path, "net/ipv4/conf/eth0/src_valid_mark", "1")
    assert ipvs_checks.source_marks(tmp_path).found.startswith("src_valid_mark is on for eth0: ")
    sysctl(tmp_path, "net/ipv4/conf/all/src_valid_mark", "1")
    assert ipvs_checks.source_marks(tmp_path).found.startswith("src_valid_mark is on for eth0, wg0: ")
    sysctl(tmp_path, "net/ipv4/conf/eth0/accept_local", "1")
    assert ipvs_checks.source_marks(tmp_path).found.startswith("src_valid_mark is on for wg0: ")
    sysctl(tmp_path, "net/ipv4/conf/all/accept_local", "1")
    assert ipvs_checks.source_marks(tmp_path).ok is True


def test_what_others_have_in_our_place_is_worth_a_look() -> None:
    assert ipvs_checks.contested([]).ok is True
    assert ipvs_checks.contested(["ip -4 rule: 1 of priority 1024 not made by kpx"]).ok is None
