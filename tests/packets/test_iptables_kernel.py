"""iptables through its programs: rules are restored whole or not at all, others stay, and what went wrong is said in one line."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpx.errors import CapabilityError, KernelError, PermissionDenied
from kpx.kernel import iptables as module
from kpx.kernel.iptables import Iptables, read_tables
from tests.lab.netns import Namespace

pytestmark = [pytest.mark.alike, pytest.mark.packets, pytest.mark.needs("iptables")]

TEXT = """\
*mangle
:KPX-STEER - [0:0]
-A KPX-STEER -p tcp -m comment --comment "steer it" -j MARK --set-xmark 0x1000/0x1000
-I PREROUTING 1 -j KPX-STEER
COMMIT
*filter
:KPX-REFUSE - [0:0]
-A KPX-REFUSE -j DROP
COMMIT
"""
STEER = '-A KPX-STEER -p tcp -m comment --comment "steer it" -j MARK --set-xmark 0x1000/0x1000'


@pytest.fixture
def host() -> Iterator[Namespace]:
    namespace = Namespace("host")
    with namespace.entered():
        yield namespace
    namespace.close()


@pytest.fixture(params=["nft", "legacy"])
def tables(request, host) -> Iptables:
    """Both flavours, where they are installed and the kernel has them."""
    tool = Iptables(request.param)
    if shutil.which(tool.name(4), path=module.DIRECTORIES) is None:
        pytest.skip(f"{tool.name(4)} is not installed")
    assert tool.legacy == (request.param == "legacy")
    return tool


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_restored_is_saved_and_restoring_again_changes_only_what_is_named(tables, family):
    tables.restore(family, TEXT)
    saved = tables.save(family, ["mangle", "filter"])

    assert ":KPX-STEER -" in saved["mangle"]
    assert ":PREROUTING ACCEPT" in saved["mangle"]
    assert [line for line in saved["mangle"] if line.startswith("-A")] == ["-A PREROUTING -j KPX-STEER", STEER]
    assert saved["filter"][-1] == "-A KPX-REFUSE -j DROP"

    tables.restore(family, "*mangle\n-A INPUT -j ACCEPT\nCOMMIT\n")
    rules = [line for line in tables.save(family, ["mangle"])["mangle"] if line.startswith("-A")]
    assert rules == ["-A PREROUTING -j KPX-STEER", "-A INPUT -j ACCEPT", STEER]
    tables.restore(family, "*mangle\n:KPX-STEER -\nCOMMIT\n")
    assert STEER not in tables.save(family, ["mangle"])["mangle"]
    assert tables.save(family, ["filter"])["filter"] == saved["filter"]


def test_the_families_are_strangers(tables):
    tables.restore(4, TEXT)

    assert not any("KPX" in line for line in tables.save(6, ["mangle"])["mangle"])


def test_a_table_changes_as_a_whole_or_not_at_all(tables):
    with pytest.raises(KernelError):
        tables.restore(4, "*mangle\n:KPX-X -\n-A KPX-X -j ACCEPT\n-A KPX-X -p tcp --dport 99999 -j ACCEPT\nCOMMIT\n")

    assert not any("KPX" in line for line in tables.save(4, ["mangle"])["mangle"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-A INPUT -p tcp --dport 99999 -j ACCEPT", r"\(invalid port/service `99999' specified, line 2\)$"),
        ("-A INPUT -m set --match-set KPX-NONE dst -j ACCEPT", r"\(Set KPX-NONE doesn't exist\., line 2\)$"),
        ("-A KPX-NONE -j ACCEPT", r"\(line 2 failed.*\)$"),
    ],
    ids=["port", "set", "chain"],
)
def test_a_refusal_is_one_line_in_the_programs_own_words(tables, line, said):
    with pytest.raises(KernelError, match=rf"^iptables-{tables.variant}-restore: Invalid argument {said}") as error:
        tables.restore(4, f"*mangle\n{line}\nCOMMIT\n")

    assert "\n" not in str(error.value)


def test_the_whole_is_saved_when_no_table_is_named(host):
    Iptables().restore(4, TEXT)

    assert {"mangle", "filter"} <= Iptables().save(4).keys()


def test_a_table_that_does_not_exist_has_no_lines(tables):
    assert tables.save(4, ["nosuch", "mangle"])["nosuch"] == []


def test_a_missing_program_says_what_to_install(host, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(module, "DIRECTORIES", "/nowhere/else")

    with pytest.raises(CapabilityError, match=r"^iptables-restore is not installed: install the package iptables"):
        Iptables().restore(4, TEXT)


def test_programs_are_found_without_administrators_directories_in_the_path(host, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")

    assert Iptables().save(4, ["filter"])["filter"]


def test_a_kernel_without_ipv6_is_told_apart(host, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "IPV6_IS_HERE", str(tmp_path / "if_inet6"))

    with pytest.raises(CapabilityError, match="runs without IPv6"):
        Iptables().restore(6, TEXT)
    Iptables().restore(4, TEXT)


def program(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_program_that_hangs_is_given_up(host, monkeypatch, tmp_path):
    program(tmp_path, "iptables-restore", "exec sleep 60")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)

    with pytest.raises(KernelError, match="who else holds iptables' lock") as error:
        Iptables().restore(4, TEXT)
    assert error.value.errno == errno.ETIMEDOUT


def test_no_right_to_is_told_apart(host, monkeypatch, tmp_path):
    said = "iptables-restore v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)"
    program(tmp_path, "iptables-restore", f"echo '{said}' >&2; exit 4")
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(PermissionDenied, match=r"\(Could not fetch rule set generation id: Permission denied \(you must"):
        Iptables().restore(4, TEXT)


def test_a_saved_text_is_read_without_counters_and_comments():
    saved = "# Generated\n*nat\n:INPUT ACCEPT [3:180]\n:KPX-X - [0:0]\n[1:60] -A INPUT -j KPX-X\n-A KPX-X -j RETURN\nCOMMIT\n"
    saved += "# Done\n*raw\nCOMMIT\n"

    assert read_tables(saved) == {"nat": [":INPUT ACCEPT", ":KPX-X -", "-A INPUT -j KPX-X", "-A KPX-X -j RETURN"], "raw": []}
