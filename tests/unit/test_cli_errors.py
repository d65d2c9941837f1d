"""What goes wrong is one line and an exit code, never a traceback; and the command starts quickly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kpx
from kpx.cli import VERBS

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m kpx`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KPX_")}
    command = [sys.executable, "-m", "kpx", *arguments]
    return subprocess.run(command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("nonsense",), "nonsense"),
        (("--nonsense",), "--nonsense"),
        (("get", "pods"), "'pods' is not one of"),
        (("get", "rows", "--nonsense"), "--nonsense"),
        (("get", "rows", "-o", "xml"), "'xml' is not one of"),
        (("get", "services"), "KPX_MANIFESTS"),
        (("explain",), "VIP:PORT"),
        (("explain", "10.96.0.10"), "ADDRESS:PORT"),
        (("explain", "10.96.0.10:80", "--from", "here"), "'here' is not an IP address"),
        (("explain", "10.96.0.10:80", "--offline"), "--manifests"),
        (("diff",), "KPX_MANIFESTS"),
        (("sync",), "KPX_MANIFESTS"),
        (("run",), "KPX_MANIFESTS"),
        (("diff", "--manifests", "/nonexistent"), "/nonexistent"),
        (("sync", "--manifests", "/nonexistent"), "/nonexistent"),
        (("diff", "--manifests", ".", "--cluster-cidr", "10.0.0.0/33"), "--cluster-cidr"),
        (("check", "--metrics-bind-address", "nowhere"), "--metrics-bind-address"),
        (("completion", "tcsh"), "tcsh"),
        (("cleanup", "everything"), "everything"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments: tuple[str, ...], part: str) -> None:
    result = run(*arguments)

    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("kpx: error: ")
    assert part in result.stderr


def test_no_verb_prints_help_on_stderr() -> None:
    result = run()

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: kpx ")


def test_help_lists_every_verb_in_a_line() -> None:
    result = run("--help", COLUMNS="120")

    assert result.returncode == 0
    for verb, help_line in VERBS.items():
        assert any(line.split(maxsplit=1) == [verb, help_line] for line in result.stdout.splitlines()), verb


def test_version() -> None:
    assert run("--version").stdout == f"kpx {kpx.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_names_the_command(shell: str) -> None:
    result = run("completion", shell)

    assert result.returncode == 0
    assert "_KPX_COMPLETE" in result.stdout


def test_completion_completes_verbs() -> None:
    result = run(_KPX_COMPLETE="bash_complete", COMP_WORDS="kpx c", COMP_CWORD="1")

    assert result.stdout.split() == ["plain,check", "plain,cleanup", "plain,completion"]


@pytest.mark.parametrize("heavy", ["pyroute2", "yaml", "msgspec", "kpx.api", "kpx.agent", "inotify_simple"])
def test_help_imports_nothing_heavy(heavy: str) -> None:
    script = f"import sys, kpx.cli; sys.exit({heavy!r} in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_reader_that_had_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "kpx", "--help"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)

    assert (result.returncode, result.stderr) == (141, "")


def test_option_beats_variable_and_an_empty_variable_is_a_value() -> None:
    from kpx.cli.options import ALL, given_by
    from kpx.settings.layers import Layers

    environment = {"KPX_PROXY_MODE": "nftables", "KPX_METRICS_BIND_ADDRESS": "", "KPX_CLUSTER_CIDR": "10.0.0.0/8,fd00::/8"}

    config = Layers(given_by({"proxy_mode": "auto", "cluster_cidr": ()}, ALL, environment)).load().config

    assert (config.proxy_mode, config.metrics_bind_address) == ("auto", "")
    assert config.cluster_cidr == ("10.0.0.0/8", "fd00::/8")
    assert Layers(given_by({}, ALL, environment)).load().config.proxy_mode == "nftables"
