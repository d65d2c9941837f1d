"""What is said about the code is true of the code: metadata, README, documents, unit file, scripts, the house's rules."""

from __future__ import annotations

import ast
import configparser
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kpx
from kpx.cli import VERBS
from kpx.settings.config import SETTINGS, Setting

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path for room in ("kpx", "tests", "benchmarks", "scripts", "vagrant") for path in (ROOT / room).rglob("*.py"))
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "vagrant" / "README.md", *(ROOT / "docs").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
SCRIPTS = ("setup", "check", "test", "bench", "demo", "vm")
WALL_LINES = 500


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text()


def requirements(parser: configparser.ConfigParser) -> list[str]:
    extras = parser["options.extras_require"]
    texts = [parser["options"]["install_requires"], *(extras[name] for name in extras)]
    return [line.strip() for text in texts for line in text.splitlines() if line.strip()]


def test_every_requirement_has_a_minimum_version(setup_cfg: configparser.ConfigParser) -> None:
    assert [] == [line for line in requirements(setup_cfg) if not re.fullmatch(r"[\w-]+>=[\d.]+", line)]


def test_readme_says_why_each_dependency_is_there(setup_cfg: configparser.ConfigParser, readme: str) -> None:
    section = readme.split("\n## Dependencies\n")[1].split("\n## ", maxsplit=1)[0]

    assert [] == [line for line in requirements(setup_cfg) if line.split(">=")[0] not in section]


def test_version_is_said_once(setup_cfg: configparser.ConfigParser) -> None:
    assert setup_cfg["metadata"]["version"] == kpx.__version__


def test_console_script_exists(setup_cfg: configparser.ConfigParser) -> None:
    name, module, function = re.fullmatch(
        r"(\w+) = ([\w.]+):(\w+)", setup_cfg["options.entry_points"]["console_scripts"].strip()
    ).groups()

    assert name == "kpx"
    assert callable(getattr(importlib.import_module(module), function))


def default_in_words(setting: Setting) -> str:
    if setting.kind == "flag":
        return "on" if setting.default else "off"
    if setting.kind == "seconds":
        return f"{setting.default:g} s"
    return setting.written(setting.default) or "none"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_readme_lists_the_option_and_its_default(setting: Setting, readme: str) -> None:
    assert f"\n| `{setting.option}` | {default_in_words(setting)} |" in readme


def test_readme_lists_no_option_that_is_not_there(readme: str) -> None:
    listed = re.findall(r"^\| `(--[\w-]+)`", readme, re.MULTILINE)

    assert [setting.option for setting in SETTINGS] == listed


@pytest.mark.parametrize("verb", VERBS)
def test_readme_lists_the_command(verb: str, readme: str) -> None:
    assert f"| `kpx {verb}" in readme


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())

    assert [] == [target for target in targets if not (path.parent / target).exists()]


@pytest.mark.parametrize("path", DECISIONS, ids=name_of)
def test_decision_has_the_four_parts(path: Path) -> None:
    headings = re.findall(r"^##? (.+)$", path.read_text(), re.MULTILINE)

    assert headings[0].startswith(f"{path.name[:4]}: ")
    assert ["Context", "Choice", "Rejected", "Consequences"] == headings[1:]


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [f"{number:04}" for number in range(1, len(DECISIONS) + 1)] == [path.name[:4] for path in DECISIONS]


@pytest.mark.parametrize("path", sorted((ROOT / "systemd").glob("*.service")) or [ROOT / "systemd" / "kpx.service"], ids=name_of)
def test_unit_file_uses_options_and_commands_that_exist(path: Path) -> None:
    text = path.read_text()
    command = shlex.split(re.search(r"^ExecStart=(.+(?:\\\n.+)*)$", text, re.MULTILINE)[1].replace("\\\n", " "))
    options = {word.partition("=")[0] for word in command if word.startswith("--")}
    variables = set(re.findall(r"\bKPX_[A-Z_]+\b", text)) - {"KPX_OPTIONS"}

    assert Path(command[0]).name == "kpx"
    assert command[1] in VERBS
    assert options <= {"--config", *(setting.option for setting in SETTINGS)}
    assert variables <= {"KPX_CONFIG", *(setting.variable for setting in SETTINGS)}


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_helps_and_refuses_what_it_does_not_know(script: str) -> None:
    helped = subprocess.run([ROOT / "scripts" / script, "--help"], capture_output=True, text=True, timeout=30, check=False)
    refused = subprocess.run(
        [ROOT / "scripts" / script, "--no-such-flag"], capture_output=True, text=True, timeout=30, check=False
    )

    assert (0, "") == (helped.returncode, helped.stderr)
    assert "usage:" in helped.stdout
    assert (2, "") == (refused.returncode, refused.stdout)
    assert refused.stderr.startswith(f"scripts/{script}: ")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_says_why_it_exists(path: Path) -> None:
    text = path.read_text()

    assert ast.get_docstring(ast.parse(text)) or not text.strip()
    assert len(text.splitlines()) <= WALL_LINES


@pytest.mark.parametrize("path", sorted((ROOT / "kpx").rglob("__init__.py")), ids=name_of)
def test_room_has_a_name_plate(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_nothing_names_a_machine_it_was_written_on() -> None:
    """Absolute paths of somebody's working directory mean nothing to anybody else."""
    elsewhere = re.compile(r"(?<![\w.*>}-])/(?:work|home|Users|root)/\w")
    files = [path for path in ROOT.rglob("*") if path.suffix in {".py", ".md", ".cfg", ".toml", ".yaml", ".service"}]
    ours = [path for path in [*files, *(ROOT / "scripts").iterdir()] if path.is_file() and ".venv" not in path.parts]

    assert [] == [name_of(path) for path in ours if elsewhere.search(path.read_text())]


@pytest.mark.parametrize(
    ("module", "planted", "contract"),
    [
        ("reconcile/plan.py", "import socket", "Pure rooms"),
        ("policy/compile.py", "from kpx.cluster import view", "Imports go down only"),
        ("model/names.py", "import kpx.log", "Pure rooms"),
        ("kernel/conntrack.py", "from kpx.model import service", "never heard of Kubernetes"),
        ("host/addresses.py", "import pyroute2", "Only kpx.kernel.netlink"),
        ("agent/loop.py", "import asyncio", "no asyncio"),
    ],
    ids=lambda value: str(value).replace("/", "."),
)
def test_import_contracts_bite(module: str, planted: str, contract: str, tmp_path: Path) -> None:
    """A contract that nothing can break guards nothing."""
    shutil.copytree(ROOT / "kpx", tmp_path / "kpx", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    target = tmp_path / "kpx" / module
    target.write_text(
        target.read_text().replace("from __future__ import annotations\n", f"from __future__ import annotations\n{planted}\n", 1)
    )

    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert re.search(rf"{contract}.* BROKEN", done.stdout)
