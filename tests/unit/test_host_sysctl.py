"""Sysctls: which ones ipvs wants, and that they are written only when different and read back; /proc/sys is a directory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kpx.errors import CapabilityError
from kpx.host import ipvs_sysctls
from kpx.host.sysctl import Sysctl, Unset, different, may_be_set, settle

VS = "net.ipv4.vs."


def put(root: Path, **values: str) -> None:
    """Write sysctls; dots are written as double underscores."""
    for name, value in values.items():
        path = root.joinpath(*name.split("__"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


def names(kernel: tuple[int, int], **options: bool) -> dict[str, str]:
    return {sysctl.name.removeprefix(VS): sysctl.value for sysctl in ipvs_sysctls.wanted(kernel, **options)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A kernel with IPVS, set as it comes."""
    put(
        tmp_path,
        net__ipv4__vs__conntrack="0",
        net__ipv4__vs__expire_nodest_conn="0",
        net__ipv4__vs__conn_reuse_mode="1",
    )
    return tmp_path


@pytest.mark.parametrize(("release", "numbers"), [("6.1.0-31-amd64", (6, 1)), ("5.9-rc1", (5, 9)), ("strange", (0, 0))])
def test_kernel_numbers(release: str, numbers: tuple[int, int]) -> None:
    assert ipvs_sysctls.kernel_numbers(release) == numbers


@pytest.mark.parametrize(
    ("kernel", "value"), [((4, 0), None), ((4, 1), "0"), ((5, 8), "0"), ((5, 9), "1"), ((6, 12), "1"), ((0, 0), None)]
)
def test_reuse_mode_depends_on_the_kernel(kernel: tuple[int, int], value: str | None) -> None:
    """D7, section 17."""
    assert names(kernel).get("conn_reuse_mode") == value


def test_what_is_always_wanted() -> None:
    always = {"conntrack": "1", "expire_nodest_conn": "1", "conn_reuse_mode": "1"}

    assert names((6, 1)) == always
    assert names((6, 1), run_estimation=False) == always | {"run_estimation": "0"}
    assert names((6, 1), strict_arp=True) == always | {"net.ipv4.conf.all.arp_ignore": "1", "net.ipv4.conf.all.arp_announce": "2"}


def test_only_what_differs_is_written_and_a_second_time_nothing(root: Path) -> None:
    reuse = root / "net/ipv4/vs/conn_reuse_mode"
    os.utime(reuse, (1, 1))

    settled = ipvs_sysctls.ensure(ipvs_sysctls.wanted((6, 1)), root)

    assert [sentence.split()[0] for sentence in settled.changed] == [f"{VS}conntrack", f"{VS}expire_nodest_conn"]
    assert settled.changed[0].startswith(f"{VS}conntrack was 0 and is 1 now, so that ")
    assert settled.unset == ()
    assert reuse.stat().st_mtime == 1
    assert different(ipvs_sysctls.wanted((6, 1)), root) == []
    assert ipvs_sysctls.ensure(ipvs_sysctls.wanted((6, 1)), root) == ((), ())


def test_a_kernel_without_tracked_connections_cannot_masquerade(root: Path) -> None:
    (root / "net/ipv4/vs/conntrack").unlink()

    with pytest.raises(CapabilityError, match=r"net\.ipv4\.vs\.conntrack does not exist here: .*CONFIG_IP_VS_NFCT"):
        ipvs_sysctls.ensure(ipvs_sysctls.wanted((6, 1)), root)
    assert not (root / "net/ipv4/vs/conntrack").exists()
    assert (root / "net/ipv4/vs/expire_nodest_conn").read_text() == "1\n"


def test_missing_sysctls_are_reported_unless_the_kernel_is_just_old(root: Path) -> None:
    (root / "net/ipv4/vs/expire_nodest_conn").unlink()

    settled = ipvs_sysctls.ensure(ipvs_sysctls.wanted((5, 10), run_estimation=False), root)

    assert [str(unset) for unset in settled.unset] == [f"{VS}expire_nodest_conn does not exist here"]


def test_what_does_not_keep_a_value_is_reported(tmp_path: Path) -> None:
    """/dev/null takes every value and keeps none, as some sysctls do."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net/odd").symlink_to("/dev/null")

    settled = settle([Sysctl("net.odd", "1", "it is odd")], tmp_path)

    assert settled.changed == ()
    assert str(settled.unset[0]) == (
        "net.odd is empty and cannot be set (it does not keep what is written): "
        "run sysctl -w net.odd=1 as root, so that it is odd"
    )


@pytest.mark.parametrize(
    ("number", "where"),
    [(errno.EROFS, "as root of the host, so"), (errno.EACCES, "as root of the host, so"), (errno.EPERM, "as root, so")],
)
def test_what_cannot_be_set_says_what_to_type_where(number: int, where: str) -> None:
    text = str(Unset(Sysctl("net.x", "1", "y"), "0", number))

    assert text.startswith(f"net.x is 0 and cannot be set ({os.strerror(number)}): run sysctl -w net.x=1 {where}")


def test_may_be_set(root: Path) -> None:
    assert may_be_set(f"{VS}conntrack", root)
    assert not may_be_set(f"{VS}nothing", root)
