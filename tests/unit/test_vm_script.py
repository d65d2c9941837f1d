"""scripts/vm as far as it goes without a virtual machine: what it refuses, in one line, before it starts anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def vm(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [ROOT / "scripts" / "vm", *arguments]
    told = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=told)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "no command"),
        (("--",), "no command"),
        (("--kernel", "5.10", "true"), "--kernel 5.10: there are 6.1 6.12"),
        (("--kernel",), "--kernel needs a value"),
        (("--cpus", "0", "true"), "--cpus 0: not a number of processors"),
        (("--memory", "lots", "true"), "--memory lots: not a size such as 3G or 2048M"),
        (("--timeout", "1m", "true"), "--timeout 1m: not a number of seconds"),
        (("--share", "/no/such/directory", "true"), "--share /no/such/directory: no such directory"),
        (("--prepare", "true"), "--prepare takes no command"),
        (("--list", "true"), "--list takes no command"),
        (("--no-such-flag", "true"), "unknown argument --no-such-flag"),
    ],
)
def test_nonsense_is_refused_in_one_line(arguments: tuple[str, ...], complaint: str) -> None:
    done = vm(*arguments)

    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith(f"scripts/vm: {complaint}")
    assert done.stderr.count("\n") == 1


def test_what_is_not_downloaded_is_listed_as_such(tmp_path: Path) -> None:
    done = vm("--list", KPX_VM_CACHE=str(tmp_path / "empty"))

    assert [["6.1", "bookworm", "not", "downloaded"], ["6.12", "trixie", "not", "downloaded"]] == [
        line.split() for line in done.stdout.splitlines()
    ]
    assert not (tmp_path / "empty").exists()


def test_without_virtme_it_says_what_to_run(tmp_path: Path) -> None:
    done = vm("true", KPX_VENV=str(tmp_path), KPX_VM_CACHE=str(tmp_path))

    assert done.returncode == 2
    assert done.stderr == f"scripts/vm: no virtme-ng in {tmp_path}; run scripts/setup\n"


def test_options_of_the_command_are_the_commands(tmp_path: Path) -> None:
    """What follows the command is not looked at, with or without `--`."""
    for arguments in (("true", "--no-such-flag"), ("--", "true", "--list")):
        assert "no virtme-ng" in vm(*arguments, KPX_VENV=str(tmp_path)).stderr
