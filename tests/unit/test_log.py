"""Log lines: their form, and who reads them."""

from __future__ import annotations

import ast
import datetime as dt
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpx import log
from kpx.agent.rounds import Round, log_round

logger = logging.getLogger("kpx.test")


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Leave the loggers of kpx as other tests expect them: unconfigured."""
    root = logging.getLogger("kpx")
    before = (root.handlers[:], root.propagate, root.level)
    yield
    root.handlers[:], root.propagate = before[0], before[1]
    root.setLevel(before[2])


def written(log_format: str = "text", verbosity: int = 0, level: int = logging.INFO, **fields: object) -> str:
    stream = io.StringIO()
    log.setup(log_format, verbosity, stream, {})
    log.event(logger, level, "round", **fields)
    return stream.getvalue()


def test_text_line_has_time_level_message_and_fields_in_order() -> None:
    line = written(services=3, took_ms=1.25, reason="change")

    assert line.endswith("Z info round services=3 took_ms=1.25 reason=change\n")


@pytest.mark.parametrize(
    ("value", "printed"),
    [("two words", '"two words"'), ('a"b', '"a\\"b"'), ("", '""'), (None, '""'), ("a\nb", '"a\\nb"'), ("[::]:80", "[::]:80")],
)
def test_text_values_can_be_split_again(value: object, printed: str) -> None:
    assert written(x=value).rstrip("\n").endswith(f"round x={printed}")


def test_message_never_breaks_the_line() -> None:
    stream = io.StringIO()
    log.setup("text", 0, stream, {})
    logger.warning("one\ntwo")

    assert stream.getvalue().count("\n") == 1


def test_json_line_is_an_object_with_plain_values() -> None:
    line = json.loads(written("json", count=2, ratio=0.5, thing=Path("/x"), none=None))

    assert {"level": "info", "message": "round", "count": 2, "ratio": 0.5, "thing": "/x", "none": None}.items() <= line.items()


@pytest.mark.parametrize(("verbosity", "wanted"), [(0, False), (3, False), (4, True)])
def test_debug_lines_need_verbosity_4(verbosity: int, wanted: bool) -> None:
    assert bool(written(verbosity=verbosity, level=logging.DEBUG)) is wanted


def test_journal_gets_a_priority_and_no_time(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        log.setup("text", 0, stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        log.event(logger, logging.ERROR, "gone", a=1)
        stream.seek(0)

        assert stream.read() == "<3>gone a=1\n"


def test_stream_that_is_not_the_journal_keeps_its_times(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+") as stream:
        log.setup("text", 0, stream, {"JOURNAL_STREAM": "1:1"})
        log.event(logger, logging.ERROR, "gone")
        stream.seek(0)

        assert "Z error gone" in stream.read()


def test_setting_up_twice_does_not_write_twice() -> None:
    log.setup("text", 0, io.StringIO(), {})

    assert written(a=1).count("\n") == 1


ODD = [
    "\ud800 lone surrogate",
    b"\xff\xfe bytes \n",
    "a\r\nb",
    "\x1b[31mred\x1b[0m",
    "line\u2028separator",
    "tab\tand \x00",
    "naïve ☃ text",
    float("nan"),
    float("inf"),
    2**70,
    type("Odd", (), {"__str__": lambda _: 'x="1" \n'})(),
    {"a": [1, None]},
    OSError(2, "No such file", "/x\udcff"),
]


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_any_value_makes_one_line_that_can_be_written_and_read(tmp_path: Path, value: object, log_format: str) -> None:
    """Files and the journal take UTF-8; what cannot be UTF-8, or would not be shown as it is, is escaped."""
    with (tmp_path / "log").open("w", encoding="utf-8", errors="strict") as stream:
        log.setup(log_format, 0, stream, {})
        log.event(logger, logging.INFO, f"said {value}", value=value, after=1)
    text = (tmp_path / "log").read_text(encoding="utf-8")

    assert text.endswith("\n")
    assert text[:-1].isprintable()
    if log_format == "json":
        line = json.loads(text)
        assert line["message"] == f"said {value}"
        assert line["after"] == 1
    else:
        assert text.endswith(" after=1\n")


def test_languages_are_written_as_they_are() -> None:
    assert 'x="naïve ☃"' in written(x="naïve ☃")
    assert '"x": "naïve ☃"' in written("json", x="naïve ☃")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_time_is_rfc_3339_with_microseconds(log_format: str) -> None:
    line = written(log_format)
    time = json.loads(line)["time"] if log_format == "json" else line.split()[0]

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time)
    assert abs(dt.datetime.fromisoformat(time) - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)


def test_field_does_not_hide_what_every_line_has() -> None:
    stream = io.StringIO()
    log.setup("json", 0, stream, {})
    log.event(logger, logging.INFO, "round", level="x", time="y")
    line = json.loads(stream.getvalue())

    assert (line["level"], line["level_"], line["time_"]) == ("info", "x", "y")


def test_error_with_trace_is_one_line() -> None:
    for log_format in ("text", "json"):
        stream = io.StringIO()
        log.setup(log_format, 0, stream, {})
        try:
            raise ValueError("a\nb")
        except ValueError:
            logger.exception("bug")
        assert stream.getvalue().count("\n") == 1
        assert "ValueError: a\\nb" in stream.getvalue()


def calls_of_logging() -> Iterator[tuple[str, ast.Call]]:
    """Yield every call in kpx that writes a log line, with where it is."""
    for path in sorted(Path(log.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                called = f"{node.func.value.id}.{node.func.attr}"
                if path.name != "log.py" and (called == "log.event" or called.startswith(("logger.", "logging."))):
                    yield f"{path.name}:{node.lineno} {called}", node


def test_every_line_is_an_event_in_words_with_fields() -> None:
    """Lines are found by their words and counted by their fields, so the words are fixed and what varies is in fields."""
    calls = list(calls_of_logging())
    others = [where for where, _ in calls if not where.endswith((" log.event", " logging.getLogger", " logger.isEnabledFor"))]
    events = [(where, call) for where, call in calls if where.endswith(" log.event")]
    wordless = [where for where, call in events if len(call.args) != 3 or not is_words(call.args[2])]

    assert len(events) > 30
    assert (others, wordless) == ([], [])


def is_words(message: ast.expr) -> bool:
    """Tell whether a message is fixed; findings and notes are sentences, made elsewhere and tested there."""
    if isinstance(message, ast.Constant):
        return isinstance(message.value, str) and message.value == message.value.strip(" .") and message.value != ""
    return ast.unparse(message) in ("str(finding)", "f'no longer: {finding}'", "note")


def test_line_of_a_round_has_its_numbers() -> None:
    stream = io.StringIO()
    log.setup("json", 0, stream, {})
    log_round(
        Round("change", 2, 3, 4, 5, refused=1, datagrams=6, written_bytes=700, took_s=0.0012345, lag_s=0.002, flows=8, affinity=9)
    )
    line = json.loads(stream.getvalue())
    del line["time"]

    assert line == {
        "level": "info", "message": "round", "reason": "change", "services": 2, "added": 3, "changed": 4, "removed": 5,
        "refused": 1, "datagrams": 6, "bytes": 700, "took_ms": 1.234, "lag_ms": 2.0, "flows": 8, "affinity": 9,
    }  # fmt: skip


def test_quiet_round_leaves_no_line() -> None:
    stream = io.StringIO()
    log.setup("json", 0, stream, {})
    log_round(Round("retry", took_s=0.1))

    assert stream.getvalue() == ""
