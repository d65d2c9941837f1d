"""The public API: its names, its weight, and the example of docs/api.md."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kpx

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "api.md").read_text()


def test_example_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    examples = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    assert len(examples) == 1

    exec(compile(examples[0], "docs/api.md", "exec"), {"__name__": "example"})

    printed = capsys.readouterr().out.splitlines()
    assert "shop/web:http/TCP is reached at 10.96.0.10:80/TCP" in printed
    assert any(line.startswith("+ add element ip kpx frontends { 10.96.0.10 . tcp . 80") for line in printed)
    assert any("10.1.0.7 . 8080" in line for line in printed)
    assert not any("10.1.0.8 . 8080" in line for line in printed), "an endpoint that is not ready is in the rows"
    assert "forward" in printed


def test_examples_that_need_root_are_python(capsys: pytest.CaptureFixture[str]) -> None:
    examples = re.findall(r"^```python no-run\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    assert examples

    for example in examples:
        compile(example, "docs/api.md", "exec")
        for name in re.findall(r"\bkpx\.(\w+)\(", example):
            assert name in kpx.__all__


@pytest.mark.parametrize("name", kpx.__all__)
def test_every_name_exists_and_is_documented(name: str) -> None:
    assert getattr(kpx, name) is not None
    assert re.search(rf"^\| .*`{re.escape(name)}\b", DOCUMENT, re.MULTILINE), f"docs/api.md does not list {name}"


def test_what_is_documented_exists() -> None:
    rows = re.findall(r"^\| (`.*?) \|", DOCUMENT.partition("## Names")[2], re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`(\w+)", row)}

    assert names == set(kpx.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = kpx.nonsense


def test_version_is_that_of_the_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")

    assert setup["metadata"]["version"] == kpx.__version__


@pytest.mark.parametrize("heavy", ["pyroute2", "yaml", "msgspec", "click", "prometheus_client", "kpx.api"])
def test_import_is_light(heavy: str) -> None:
    script = f"import sys, kpx; sys.exit({heavy!r} in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_names_are_imported_when_asked_for() -> None:
    script = "import kpx; from kpx.errors import KpxError; assert kpx.KpxError is KpxError; assert 'compile' in dir(kpx)"

    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
