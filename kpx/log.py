"""
How kpx speaks to operators: one line per happening, `key=value` or JSON, on stderr.

The only caller of logging configuration. A line is an event in words and its fields: `event(logger, level, "round", took_ms=3)`.
Values come from manifests, other processes and the kernel, so a line stays one line, valid and harmless to a terminal whatever
they are. Under systemd lines carry no timestamp and no level word but the `<n>` prefix the journal understands, since the
journal has both.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from typing import IO, Any, Final

DEBUG_VERBOSITY: Final = 4
"""From this -v on debug lines are written; klog, which Kubernetes uses, gives levels the same meaning."""

_FIELDS: Final = "kpx_fields"
_PRIORITY: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:+~@%[](),<>")


def event(logger: logging.Logger, level: int, message: str, /, **fields: object) -> None:
    """Write one line: what happened, then its fields in the order given; costs next to nothing when the level is off."""
    if logger.isEnabledFor(level):
        logger.log(level, message, extra={_FIELDS: fields}, stacklevel=2)


def setup(
    log_format: str = "text", verbosity: int = 0, stream: IO[str] | None = None, environ: Mapping[str, str] = os.environ
) -> None:
    """
    Send the lines of all kpx loggers to `stream` (stderr); calling it again replaces what an earlier call set up.

    Args:
        log_format: "text" (key=value) or "json".
        verbosity: `DEBUG_VERBOSITY` and more writes debug lines, less does not.
        stream: where lines go.
        environ: tells whether a journal reads the stream.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(journal=_is_journal(stream, environ)))
    root = logging.getLogger("kpx")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(logging.DEBUG if verbosity >= DEBUG_VERBOSITY else logging.INFO)


class TextFormatter(logging.Formatter):
    """`time level message key=value ...`; values with blanks are quoted as in JSON, so a line is one line and can be split."""

    def __init__(self, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        head = f"<{_PRIORITY.get(record.levelno, 6)}>" if self._journal else f"{_time_of(record)} {record.levelname.lower()} "
        parts = [head + _one_line(record.getMessage())]
        parts += [f"{key}={_text(value)}" for key, value in _fields_of(record).items()]
        if record.exc_info and record.exc_info[0] is not None:
            parts.append(f"trace={_text(self.formatException(record.exc_info))}")
        return " ".join(parts)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with `time`, `level`, `message`, and the fields beside them, which have other names."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: dict[str, Any] = {"time": _time_of(record), "level": record.levelname.lower(), "message": record.getMessage()}
        for key, value in _fields_of(record).items():
            line[f"{key}_" if key in line else key] = _plain(value)
        if record.exc_info and record.exc_info[0] is not None:
            line["trace"] = self.formatException(record.exc_info)
        return _json(line)


def _fields_of(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, _FIELDS, None)
    return fields if isinstance(fields, dict) else {}


def _time_of(record: logging.LogRecord) -> str:
    moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _plain(value: object) -> object:
    """Return what JSON has for a value; it has no word for infinity, and none for bytes."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else str(value)
    return _string(value)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "" if value is None else _string(value)
    return text if text and _BARE.issuperset(text) else _json(text)


def _string(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _one_line(message: str) -> str:
    """Return a message as it is, but for what a terminal or a reader of lines would not take as text."""
    return message if message.isprintable() else " ".join(_json(line)[1:-1] for line in message.splitlines())


def _json(value: object) -> str:
    """Write JSON; characters of all languages as they are, unless one among them cannot be written or would end a line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def _is_journal(stream: IO[str], environ: Mapping[str, str]) -> bool:
    """Tell whether the journal reads `stream`: systemd names device and inode of what it connected (sd-journal(3))."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))
