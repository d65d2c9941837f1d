"""docs/cli.md and the help texts say everything there is, and nothing there is not."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from kpx.cli import VERBS, main
from kpx.errors import KpxError
from kpx.settings.config import SETTINGS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", DOCUMENT, re.DOTALL | re.MULTILINE))


def command_of(verb: str) -> click.Command:
    """Return the click command of a verb."""
    command = main.get_command(click.Context(main), verb)
    assert command is not None
    return command


def options_of(command: click.Command) -> list[click.Option]:
    """Return the options of a command."""
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


def test_sections_are_the_verbs() -> None:
    assert [title.removeprefix("kpx ") for title in SECTIONS if title.startswith("kpx ")] == list(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_verb_has_help_an_example_and_the_line_of_the_table(verb: str) -> None:
    command = command_of(verb)
    assert command.help

    assert command.help.strip().splitlines()[0] == VERBS[verb]
    assert re.search(rf"^[#$] .*\bkpx {verb}\b", SECTIONS[f"kpx {verb}"], re.MULTILINE), "no example"


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_help_and_is_documented(verb: str) -> None:
    # kpx migrate has options of its own.
    settings = set() if verb == "migrate" else {"--config", *(setting.option for setting in SETTINGS)}
    for option in options_of(command_of(verb)):
        assert option.help, option.opts
        for text in (*option.opts, *option.secondary_opts):
            shared = text in settings or text.startswith("--no-")
            section = SECTIONS["Settings"] if shared else SECTIONS["Output formats"] + SECTIONS[f"kpx {verb}"]
            assert f"`{text}`" in section, f"{text} of kpx {verb}"


def test_options_of_the_group_are_documented() -> None:
    for option in options_of(main):
        for text in option.opts:
            assert f"`kpx {text}`" in DOCUMENT or f"`{text}`" in DOCUMENT


def test_documented_options_exist() -> None:
    known = {text for verb in VERBS for option in options_of(command_of(verb)) for text in (*option.opts, *option.secondary_opts)}
    known |= {"--version", "--help"}

    assert set(re.findall(r"`(--[a-z-]+)`", DOCUMENT)) <= known


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_setting_has_its_default_in_the_documentation(setting) -> None:  # type: ignore[no-untyped-def]
    line = re.search(rf"^\| `{setting.option}`[^|]*\|([^|]*)\|", SECTIONS["Settings"], re.MULTILINE)
    assert line

    assert line[1].strip().strip("`") == (setting.written(setting.default) or "none")


def test_every_exit_code_is_documented() -> None:
    def classes(of: type[KpxError]) -> set[type[KpxError]]:
        return {of}.union(*(classes(kind) for kind in of.__subclasses__()))

    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", SECTIONS["Exit codes"], re.MULTILINE)}

    assert {kind.exit_code for kind in classes(KpxError)} <= documented
