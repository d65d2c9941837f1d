"""systemd/: whatever it names must exist in kpx, systemd takes it, and the powers of the agent stay as small as they are."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from kpx.cli import VERBS
from kpx.settings.config import SETTINGS

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "kpx.service"
LEGACY = SYSTEMD / "kpx-iptables-legacy.conf"
MOST_EXPOSED = 29
"""Tenths, as --threshold takes them: under 3.0."""


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser["Service"]


def test_it_runs_a_verb_with_options_that_exist(service: configparser.SectionProxy) -> None:
    program, verb, *options = shlex.split(service["ExecStart"])

    assert program.endswith("/kpx")
    assert verb in VERBS
    assert {option.partition("=")[0] for option in options} <= {setting.option for setting in SETTINGS}


def test_variables_are_settings(service: configparser.SectionProxy) -> None:
    names = {assignment.partition("=")[0] for assignment in shlex.split(service["Environment"])}

    assert names
    assert names <= {setting.variable for setting in SETTINGS}


def test_it_holds_the_capabilities_over_the_network_and_no_others(service: configparser.SectionProxy) -> None:
    """CAP_NET_RAW: without it iptables says "Can't open socket to ipset" to every rule with a set."""
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == "CAP_NET_ADMIN CAP_NET_RAW"
    assert service["NoNewPrivileges"] == "yes"


def test_systemd_is_told_what_it_waits_for(service: configparser.SectionProxy) -> None:
    """READY=1 and WATCHDOG=1 are what `kpx.agent.notify` says."""
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) >= 10


def analyze(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze, which needs no running systemd for this."""
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("CI"):
            pytest.fail("systemd-analyze is not installed: apt-get install systemd")
        pytest.skip("systemd-analyze is not installed")
    command = ["systemd-analyze", "--no-pager", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(params=["", "iptables-legacy"])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory with the unit, with a program that is there, and with or without the drop-in for iptables-legacy."""
    unit = re.sub(r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", UNIT.read_text(), flags=re.MULTILINE)
    (tmp_path / UNIT.name).write_text(unit)
    if request.param:
        (tmp_path / f"{UNIT.name}.d").mkdir()
        shutil.copy(LEGACY, tmp_path / f"{UNIT.name}.d")
    return tmp_path


def test_systemd_takes_the_unit(installed: Path) -> None:
    done = analyze("verify", f"./{UNIT.name}", directory=installed)

    assert (0, "") == (done.returncode, done.stdout + done.stderr)


def test_systemd_finds_the_unit_hardened(installed: Path) -> None:
    """Scripts/check prints what systemd says of it."""
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", UNIT.name, directory=installed)

    print(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr


def test_settings_are_those_of_kpx_and_a_shell_can_read_them() -> None:
    text = (SYSTEMD / "kpx.conf").read_text()
    named = re.findall(r"^#?(KPX_[A-Z_]+)=", text, re.MULTILINE)
    every_setting = re.sub(r"^#(?=KPX_)", "", text, flags=re.MULTILINE)
    read = subprocess.run(["sh", "-eu"], input=every_setting, capture_output=True, text=True, timeout=30, check=False)

    assert named
    assert set(named) <= {setting.variable for setting in SETTINGS}
    assert (0, "", "") == (read.returncode, read.stdout, read.stderr)


def test_modules_and_sysctls_are_written_as_systemd_reads_them() -> None:
    modules = [line for line in (SYSTEMD / "modules-load.d/kpx.conf").read_text().splitlines() if line[:1] not in ("", "#")]
    sysctls = [line for line in (SYSTEMD / "sysctl.d/90-kpx.conf").read_text().splitlines() if line[:1] not in ("", "#")]

    assert {"ip_vs", "ip_set", "nf_tables"} <= set(modules)
    assert [] == [name for name in modules if not re.fullmatch(r"[a-z0-9_]+", name)]
    assert "net.ipv4.ip_forward = 1" in sysctls
    assert [] == [line for line in sysctls if not re.fullmatch(r"net\.[\w.*]+ = \d", line)]
