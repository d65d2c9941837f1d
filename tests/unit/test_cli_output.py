"""Answers: aligned, never cut, and the same keys as JSON and YAML."""

from __future__ import annotations

import json

import pytest
import yaml

from kpx.cli import output


def test_columns_are_aligned_and_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    long = "fd00:1234:5678:9abc:def0:1234:5678:9abc " * 5

    text = output.table(("NAME", "WHAT", "LAST"), [("a", long.strip(), "x"), ("bbbbbbb", "", "")])

    assert text.splitlines() == [
        "NAME     " + "WHAT".ljust(len(long.strip())) + "  LAST",
        "a        " + long.strip() + "  x",
        "bbbbbbb  " + "-".ljust(len(long.strip())) + "  -",
    ]


def test_table_without_rows_is_its_headers() -> None:
    assert output.table(("A", "B"), []) == "A  B"


def test_rows_of_another_width_are_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        output.table(("A", "B"), [("1",)])


def test_json_and_yaml_carry_the_same_data(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"rows": [{"name": "shop/web", "ports": [1, 2]}], "none": None}

    output.emit("json", data, lambda: "text")
    as_json = json.loads(capsys.readouterr().out)
    output.emit("yaml", data, lambda: "text")
    as_yaml = yaml.safe_load(capsys.readouterr().out)

    assert as_json == as_yaml == data


def test_text_is_only_made_for_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit(None, {}, lambda: "text")

    assert capsys.readouterr().out == "text\n"


def test_no_colour_for_pipes_nor_for_those_who_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    assert not output.coloured()

    monkeypatch.setattr(output.sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert output.coloured()

    monkeypatch.setenv("NO_COLOR", "1")
    assert not output.coloured()


def test_waiting_says_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with output.waiting("reading"):
        pass

    assert capsys.readouterr() == ("", "")
