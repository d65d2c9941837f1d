"""What there is of a kernel module; /lib/modules and /sys/module are directories the test writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kpx.host.modules import Module, module, program_path

DEP = """\
kernel/net/netfilter/ipvs/ip_vs.ko.xz: kernel/net/netfilter/nf_conntrack.ko.xz
kernel/net/netfilter/ipvs/ip_vs_rr.ko: kernel/net/netfilter/ipvs/ip_vs.ko.xz
kernel/net/netfilter/ipset/ip_set_hash_netnet.ko:
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    directory = tmp_path / "modules" / "6.1.0"
    directory.mkdir(parents=True)
    (directory / "modules.dep").write_text(DEP)
    (directory / "modules.builtin").write_text("kernel/net/netfilter/xt-set.ko\nkernel/fs/ext4.ko\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ip_vs", Module.LOADABLE),
        ("ip_vs_rr", Module.LOADABLE),
        ("ip_set_hash_netnet", Module.LOADABLE),
        ("ip_set_hash_net", Module.ABSENT),
        ("xt_set", Module.BUILT_IN),
        ("vs", Module.ABSENT),
    ],
)
def test_what_depmod_wrote_down(library: Path, name: str, expected: Module) -> None:
    assert module(name, "6.1.0", library / "modules", library / "sys") is expected


def test_what_is_loaded_needs_no_index(library: Path) -> None:
    (library / "sys/ip_vs").mkdir(parents=True)

    assert module("ip_vs", "6.1.0", library / "modules", library / "sys") is Module.LOADED
    assert module("ip_vs", "6.2.0", library / "modules", library / "sys") is Module.LOADED


def test_without_an_index_nobody_knows(library: Path) -> None:
    assert module("ip_vs", "6.2.0", library / "modules", library / "sys") is Module.UNKNOWN


def test_programs_are_found_on_the_path_that_is_given(tmp_path: Path) -> None:
    (tmp_path / "modprobe").write_text("#!/bin/sh\n")
    (tmp_path / "modprobe").chmod(0o755)

    assert program_path("modprobe", str(tmp_path)) == str(tmp_path / "modprobe")
    assert program_path("iptables-restore", str(tmp_path)) is None
