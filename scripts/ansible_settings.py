"""
The settings of the agent as variables of the ansible role, written from the one table of settings.

`python -m scripts.ansible_settings` rewrites the marked parts of the role's defaults, argument specs and vars; a test fails while
they say something else than the table. A variable that is null leaves the default to kpx, since some defaults depend on others.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from kpx.settings.config import SETTINGS, Setting

ROLE: Final = Path(__file__).resolve().parents[1] / "ansible" / "roles" / "kpx"
BEGIN: Final = "# Settings, from here (python -m scripts.ansible_settings)"
END: Final = "# Settings, to here"

SET_BY_THE_ROLE: Final = {"manifests": "/etc/kpx/manifests.d"}
"""Settings that the role does not leave to kpx."""

TYPES: Final = {"flag": "bool", "number": "int", "list": "list"}
"""What ansible calls the kinds of settings; the others are text, durations such as 1m30s among them."""


def variable(setting: Setting) -> str:
    """Return the name of the role's variable: that of the option."""
    return "kpx_" + setting.name.replace("-", "_")


def defaults(settings: Iterable[Setting]) -> Iterable[str]:
    """Yield lines of defaults/main.yml."""
    for setting in settings:
        default = setting.written(setting.default) or "none"
        yield f"{variable(setting)}: {SET_BY_THE_ROLE.get(setting.name, f'null # {default}')}"


def argument_specs(settings: Iterable[Setting]) -> Iterable[str]:
    """Yield lines of meta/argument_specs.yml."""
    for setting in settings:
        yield f"{variable(setting)}:"
        yield f"  type: {TYPES.get(setting.kind, 'str')}"
        if setting.kind == "list":
            yield "  elements: str"
        unit = f" ({setting.unit})" if setting.unit else ""
        choices = f": {', '.join(setting.choices)}" if setting.choices else ""
        yield "  description: >-"
        yield from textwrap.wrap(setting.help + unit + choices, 120, initial_indent="    ", subsequent_indent="    ")


def names(settings: Iterable[Setting]) -> Iterable[str]:
    """Yield lines of vars/main.yml."""
    for setting in settings:
        yield f"- {variable(setting)}"


PARTS: Final = {
    "defaults/main.yml": ("", defaults),
    "meta/argument_specs.yml": ("      ", argument_specs),
    "vars/main.yml": ("  ", names),
}
"""The files, how far their part is indented, and what makes its lines."""


def rewritten(path: str, text: str) -> str:
    """Return the text of a file of the role with its marked part as it must be."""
    indent, lines = PARTS[path]
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"ansible_settings: {path} has no lines {BEGIN!r} and {END!r}")
    return before + "\n".join([BEGIN, *(indent + line for line in lines(SETTINGS)), indent + END]) + after


def rewrite(role: Path = ROLE) -> Mapping[str, bool]:
    """Write the files that differ; tell for each whether it did."""
    differed = {}
    for path in PARTS:
        text = (role / path).read_text()
        right = rewritten(path, text)
        differed[path] = right != text
        if right != text:
            (role / path).write_text(right)
    return differed


if __name__ == "__main__":
    for name, changed in rewrite().items():
        print(f"{name}: {'rewritten' if changed else 'as it must be'}")
