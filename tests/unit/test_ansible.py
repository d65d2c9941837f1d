"""ansible/: the role knows every setting, what it writes is what kpx reads, and ansible takes the plays."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kpx.settings.config import SETTINGS, make_config
from kpx.sources.manifests import read_directory
from scripts import ansible_settings

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = ROOT / "ansible"
ROLE = ANSIBLE / "roles" / "kpx"
PLAYS = sorted(path.name for path in ANSIBLE.glob("*.yml") if path.name != "galaxy.yml")
BUILD = ROLE / "files/build-wheel"
VARIABLES = {ansible_settings.variable(setting): setting for setting in SETTINGS}

SETTINGS_IN_USE = {
    "kpx_manifests": "/srv/my manifests",
    "kpx_proxy_mode": "ipvs",
    "kpx_cluster_cidr": ["10.1.0.0/16", "fd00:1::/64"],
    "kpx_masquerade_all": True,
    "kpx_ipvs_run_estimation": False,
    "kpx_drain_timeout": "1m30s",
    "kpx_drain_grace": 5,
    "kpx_mark_bits": "0xc000",
    "kpx_metrics_bind_address": "",
    "kpx_verbosity": 4,
}


def read(path: str) -> Any:
    return yaml.safe_load((ROLE / path).read_text())


def run(*command: str, directory: Path = ANSIBLE, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program of this environment, without the settings of whoever runs the tests."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "KPX_"))}
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(
        command, cwd=directory, env={**inherited, **own, **variables},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("path", ansible_settings.PARTS)
def test_role_has_a_variable_for_every_setting(path: str) -> None:
    text = (ROLE / path).read_text()

    assert ansible_settings.rewritten(path, text) == text, "run python -m scripts.ansible_settings, and read the diff"
    assert set(VARIABLES) <= set(re.findall(r"\bkpx_\w+", text))


def test_every_variable_has_a_default_and_says_what_it_is() -> None:
    specs = read("meta/argument_specs.yml")["argument_specs"]

    assert read("defaults/main.yml").keys() == specs["main"]["options"].keys()
    assert {"main"} | {path.stem for path in (ROLE / "tasks").glob("*.yml")} >= specs.keys()
    assert [] == [name for name, option in specs["main"]["options"].items() if not option["description"]]


def test_role_installs_the_files_of_systemd() -> None:
    """They are links: a collection that is built of this directory gets their contents."""
    links = {path.name: path.resolve() for path in (ROLE / "files").iterdir() if path.is_symlink()}

    assert {
        "kpx.service": ROOT / "systemd/kpx.service",
        "kpx-iptables-legacy.conf": ROOT / "systemd/kpx-iptables-legacy.conf",
        "modules-load.conf": ROOT / "systemd/modules-load.d/kpx.conf",
        "sysctl.conf": ROOT / "systemd/sysctl.d/90-kpx.conf",
    } == links
    assert all(path.is_file() for path in links.values())


def test_role_and_unit_agree_about_paths() -> None:
    paths = {name: value.split(" #")[0] for name, value in read("vars/main.yml").items() if str(value).startswith("/")}
    unit = (ROOT / "systemd/kpx.service").read_text()

    assert f"ExecStart={paths['__kpx_home']}/bin/kpx run" in unit
    assert f"EnvironmentFile=-{paths['__kpx_etc']}/kpx.conf" in unit
    assert f"Environment=KPX_MANIFESTS={ansible_settings.SET_BY_THE_ROLE['manifests']}" in unit


def test_everything_that_is_installed_is_uninstalled() -> None:
    """What is below a directory that is removed as a whole is not listed."""
    removed = next(task for task in read("tasks/uninstall.yml") if task["name"] == "Remove files")["loop"]
    made = set(
        re.findall(r"(?:dest|path): \"\{\{ (__kpx_\w+)", "".join(path.read_text() for path in (ROLE / "tasks").glob("*.yml")))
    )

    assert made
    assert {f"{{{{ {name} }}}}" for name in made - {"__kpx_room", "__kpx_config", "__kpx_staging", "__kpx_stamp"}} <= set(removed)


def test_example_names_variables_that_exist_and_manifests_without_a_mistake() -> None:
    example = yaml.safe_load((ANSIBLE / "inventory/example.yml").read_text())["kpx"]
    named = {name for name in example["vars"] if name.startswith("kpx_")}
    findings = read_directory(str(ANSIBLE / "inventory/manifests")).findings

    assert named
    assert named <= read("defaults/main.yml").keys()
    assert [] == list(findings)


def test_readme_lists_the_variables_that_are_no_settings() -> None:
    table = "".join(re.findall(r"^\| `kpx_.*", (ANSIBLE / "README.md").read_text(), re.MULTILINE))

    assert read("defaults/main.yml").keys() - VARIABLES.keys() == set(re.findall(r"`(kpx_\w+)`", table)) - VARIABLES.keys()


def test_readme_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", (ANSIBLE / "README.md").read_text())

    assert targets
    assert [] == [target for target in targets if not (ANSIBLE / target).exists()]


@pytest.mark.parametrize("play", PLAYS)
def test_ansible_takes_the_play(play: str) -> None:
    done = run("ansible-playbook", "-i", "inventory/example.yml", "--syntax-check", play)

    assert (0, "") == (done.returncode, done.stderr), done.stdout


def test_settings_arrive_as_they_were_given(tmp_path: Path) -> None:
    """What the role writes is read by a shell, as the command does, and by kpx."""
    play = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars": {"ansible_python_interpreter": sys.executable},
            "vars_files": [str(ROLE / "defaults/main.yml"), str(ROLE / "vars/main.yml")],
            "tasks": [
                {"ansible.builtin.template": {"src": str(ROLE / "templates/kpx.conf.j2"), "dest": str(tmp_path / "kpx.conf")}}
            ],
        }
    ]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
    (tmp_path / "given.yml").write_text(yaml.safe_dump(SETTINGS_IN_USE))
    done = run("ansible-playbook", "-i", "localhost,", "-e", "@given.yml", "play.yml", directory=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "kpx.conf").read_text()
    written = dict(shlex.split(line)[0].partition("=")[::2] for line in text.splitlines() if not line.startswith("#"))
    told = {VARIABLES[name.lower()]: value for name, value in written.items()}

    assert written.keys() == {VARIABLES[name].variable for name in SETTINGS_IN_USE}
    assert make_config({setting.field: value for setting, value in told.items()}) == make_config(
        {VARIABLES[name].field: value for name, value in SETTINGS_IN_USE.items()}
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "give a checkout and nothing else"),
        (("--no-such-flag",), "unknown argument --no-such-flag"),
        (("/nowhere",), "/nowhere is not a directory"),
        ((str(ROLE),), "is not a checkout of kpx, it has no kpx"),
    ],
    ids=str,
)
def test_building_refuses_what_it_cannot_build(arguments: tuple[str, ...], complaint: str) -> None:
    done = run(str(BUILD), *arguments)

    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("build-wheel: ")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
