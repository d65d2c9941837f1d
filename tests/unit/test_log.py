"""Log lines: their form, and who reads them."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpx import log

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
