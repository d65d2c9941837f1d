"""
The machine somebody runs ansible on: this one, with this checkout, a mirror of Python packages, and ansible itself.

What takes long to make is kept in the cache, under a name made of what it is made from.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.bare_metal.machine import Machine

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = ("kpx", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
GUEST = REPOSITORY / "tests/bare_metal/guest"
GUEST_PYTHON = "3.11"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
RECAP = re.compile(r"^lb1 +: ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE)
HOST = "lb1"


class PlaybookError(Exception):
    """A playbook failed; the text is what ansible says about it."""


class Recap(NamedTuple):
    """
    What a playbook did to the host.

    Args:
        ok: how many tasks were carried out; changed: how many of them changed something.
        changes: the names of those tasks.
    """

    ok: int
    changed: int
    changes: list[str]


def cache_directory() -> Path:
    """Where images, wheels and ansible are kept."""
    chosen = os.environ.get("KPX_BARE_METAL_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else base / "kpx/bare-metal"


def image() -> Path:
    """Return the directory of the system image; the first time it is made, which takes minutes."""
    done = subprocess.run([REPOSITORY / "tests/bare_metal/image"], stdout=subprocess.PIPE, check=True)
    return Path(done.stdout.decode().strip())


def wheels() -> list[Path]:
    """Return wheels of everything kpx depends on, for the Python of the image."""
    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / "setup.cfg")
    wanted = settings["options"]["install_requires"].split("\n")[1:]
    directory = cache_directory() / f"wheels-{hashlib.sha256(repr((wanted, PLATFORMS)).encode()).hexdigest()[:16]}"
    if not directory.exists():
        unfinished = directory.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        options = ["--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--python-version", GUEST_PYTHON]
        options += [argument for platform in PLATFORMS for argument in ("--platform", platform)]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, "--dest", unfinished, *wanted], cwd=unfinished.parent, check=True
        )
        unfinished.rename(directory)
    return sorted(directory.glob("*.whl"))


def ansible_playbook() -> Path:
    """Return the program: that beside this Python, else one installed into the cache."""
    beside = Path(sys.executable).with_name("ansible-playbook")
    if beside.exists():
        return beside
    directory = cache_directory() / f"ansible-{sys.version_info.major}.{sys.version_info.minor}"
    if not (directory / "bin/ansible-playbook").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
        options = ["--quiet", "--disable-pip-version-check", "--no-input"]
        subprocess.run(
            [directory / "bin/python", "-m", "pip", "install", *options, "ansible-core>=2.14"], cwd=directory, check=True
        )
    return directory / "bin/ansible-playbook"


def another_version(directory: Path, version: str) -> Path:
    """Return a wheel of this checkout that says it is `version`, made in `directory`."""
    checkout = directory / "sources"
    checkout.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy2
        copy(REPOSITORY / name, checkout / name)
    for name, line in (("setup.cfg", "version = {}"), ("kpx/__init__.py", '__version__ = "{}"')):
        text = (checkout / name).read_text()
        (checkout / name).write_text(
            re.sub("^" + line.format(".*") + "$", line.format(version), text, count=1, flags=re.MULTILINE)
        )
    build = [REPOSITORY / "ansible/roles/kpx/files/build-wheel", checkout]
    environment = {**os.environ, "XDG_CACHE_HOME": str(directory)}
    return Path(subprocess.run(build, stdout=subprocess.PIPE, env=environment, check=True).stdout.decode().strip())


class Controller:
    """Runs the playbooks of ansible/ against the machine."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self._machine = machine
        self._directory = directory
        self._runs = 0
        self._inventory = directory / "inventory.yml"
        self._inventory.write_text(
            f"kpx:\n"
            f"  hosts:\n"
            f"    {HOST}:\n"
            f"      ansible_host: machine\n"
            f"  vars:\n"
            f"    ansible_user: root\n"
            f"    ansible_ssh_common_args: -F {machine.ssh_config}\n"
            f"    ansible_python_interpreter: /usr/bin/python3\n"
            f"    kpx_gate_seconds: 300\n"
            f"    kpx_manifest_contents:\n"
            f"      shop.yaml: \"{{{{ lookup('ansible.builtin.file', '{REPOSITORY}/tests/bare_metal/manifests.yaml') }}}}\"\n"
        )

    def play(self, playbook: str, timeout: float, variables: Mapping[str, str] | None = None) -> Recap:
        """
        Run a playbook of ansible/.

        Args:
            timeout: seconds.
            variables: more than the inventory has.

        Raises:
            PlaybookError: something failed, or it was not through in time.
        """
        self._runs += 1
        log = self._directory / f"ansible-{self._runs}-{Path(playbook).stem}.log"
        given = [argument for name, value in (variables or {}).items() for argument in ("--extra-vars", f"{name}={value}")]
        command = [
            str(ansible_playbook()),
            "--inventory",
            str(self._inventory),
            "--diff",
            *given,
            str(REPOSITORY / "ansible" / playbook),
        ]
        with log.open("wb") as output:
            # Long in minutes and short in output: an emulated processor takes seconds for each task.
            play = subprocess.Popen(
                command,
                cwd=REPOSITORY / "ansible",
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            try:
                status = play.wait(timeout)
            except subprocess.TimeoutExpired:
                raise PlaybookError(f"{playbook} was not through after {timeout:.0f} s; {self._last_words(log)}") from None
            finally:
                play.kill()
                play.wait()
        if status:
            raise PlaybookError(f"{playbook} ended with {status}; {self._last_words(log)}")
        return recap(log.read_text(errors="replace"))

    def _environment(self) -> dict[str, str]:
        settings = {
            "HOME": str(self._directory),
            "HOST_KEY_CHECKING": "false",
            "NOCOLOR": "1",
            "PIPELINING": "true",
            "TIMEOUT": "60",
            "LOCAL_TEMP": str(self._directory / "ansible-tmp"),
        }
        others = {
            name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_") and name != "SSH_AUTH_SOCK"
        }
        return {**others, **{f"ANSIBLE_{name}": value for name, value in settings.items()}}

    @staticmethod
    def _last_words(log: Path) -> str:
        text = log.read_text(errors="replace")
        failed = text.rfind("\nTASK [", 0, text.find("fatal:")) if "fatal:" in text else max(0, len(text) - 2000)
        return f"{log.name} says:\n{text[failed : failed + 4000].strip()}"


def recap(text: str) -> Recap:
    """Read what ansible-playbook prints."""
    found = RECAP.search(text)
    if not found:
        raise PlaybookError(f"no recap: {text[-2000:]}")
    task = ""
    changes: list[str] = []
    for line in text.splitlines():
        heading = re.match(r"(?:TASK|RUNNING HANDLER) \[(.*)\]", line)
        task = heading[1] if heading else task
        if line.startswith("changed:") and (not changes or changes[-1] != task):
            changes.append(task)
    return Recap(int(found[1]), int(found[2]), changes)
