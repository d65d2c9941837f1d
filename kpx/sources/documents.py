"""
The bytes of one manifest file to decoded objects, each with the line its document starts at.

A file counts as a whole: when it cannot be parsed to its end, nothing of it counts, since nobody knows what the rest says.
When only some of its objects are wrong, the others count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final, NamedTuple

import msgspec
import yaml

from kpx.model.decode import Decoded, Object, decode_document
from kpx.model.findings import Finding
from kpx.model.names import ObjectName
from kpx.model.type_errors import one_line
from kpx.sources.yaml_lines import line_of, node_of
from kpx.sources.yaml_text import TOO_DEEP, UnreadableText, yaml_documents

_LINES_UP_TO = 1 << 18
"""JSON documents up to this many characters are searched for the line of a field; in larger ones the field path has to do."""
_BLANK = " \t\r\n"

MOST_JSON_VALUES: Final = 10_000_000
"""Values in one JSON file, about: the commas are counted. A hundred thousand Services of ten endpoints are half of it."""
MOST_FINDINGS: Final = 100
"""Findings about one file that are told; the rest is counted."""


class Held(NamedTuple):
    """An object of a file, and the line its document starts at."""

    kind: str
    name: ObjectName
    line: int
    values: tuple[Object, ...]


class Content(NamedTuple):
    """
    What a file says.

    Args:
        whole: False when the file cannot be parsed; then it has one finding and nothing else.
        failed: kind and name of objects that are there and cannot be decoded.
    """

    objects: tuple[Held, ...] = ()
    findings: tuple[Finding, ...] = ()
    failed: frozenset[tuple[str, ObjectName]] = frozenset()
    whole: bool = True


class _Piece(NamedTuple):
    """A document: the line it starts at, what it holds, and which line a field of it is in."""

    line: int
    decoded: Decoded
    line_of: Callable[[str], int]


def read_content(path: str, data: bytes) -> Content:
    """Return what a file says; `path` is for the findings, and its end decides between JSON and YAML."""
    try:
        text = data.decode("utf-8-sig")
        return _content(path, _json_pieces(text, path) if path.endswith(".json") else _yaml_pieces(text, path))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return _broken(path, line, "the file is not UTF-8 text; convert it")
    except UnreadableText as error:
        return _broken(path, error.line, str(error))


def _content(path: str, pieces: Iterable[_Piece]) -> Content:
    objects: list[Held] = []
    findings: list[Finding] = []
    failed: set[tuple[str, ObjectName]] = set()
    unsaid = 0
    for piece in pieces:
        objects += [Held(*found[:2], piece.line, found.values) for found in piece.decoded.objects]
        failed.update(piece.decoded.failed)
        said = piece.decoded.findings[: MOST_FINDINGS - len(findings)]
        unsaid += len(piece.decoded.findings) - len(said)
        findings += [found._replace(where=f"{path}:{piece.line_of(found.field)}") for found in said]
    if unsaid:
        findings.append(Finding(path, "", f"and {unsaid} more like these; correct those that are named first"))
    return Content(tuple(objects), tuple(findings), frozenset(failed))


def _broken(path: str, line: int, message: str) -> Content:
    """Return the content of a file that cannot be parsed."""
    where = f"{path}:{line}" if line else path
    return Content(findings=(Finding(where, "", f"{one_line(message)}; what the file said before stays in force"),), whole=False)


def _yaml_pieces(text: str, path: str) -> Iterator[_Piece]:
    """Yield each YAML document."""
    for node, document in yaml_documents(text):
        yield _Piece(node.start_mark.line + 1, decode_document(document, path), partial(line_of, node))


def _json_pieces(text: str, path: str) -> Iterator[_Piece]:
    """Yield each JSON document; they may follow each other with or without newlines."""
    if text.count(",") > MOST_JSON_VALUES:
        raise UnreadableText(f"not a manifest: more than {MOST_JSON_VALUES:,} values; split the file", 0)
    scanner = json.JSONDecoder(parse_constant=_refuse_constant)
    counted, line = 0, 1
    start = _skip_blank(text, 0)
    while start < len(text):
        line += text.count("\n", counted, start)
        counted = start
        try:
            whole = start == 0 and _is_one_document(text)
            end = len(text) if whole else scanner.raw_decode(text, start)[1]
        except json.JSONDecodeError as error:
            raise UnreadableText(f"not JSON: {error.msg}, column {error.colno}", error.lineno) from error
        except ValueError as error:
            raise UnreadableText(f"not JSON: {error}", line) from error
        except RecursionError as error:
            raise UnreadableText(TOO_DEEP, line) from error
        document = text[start:end]
        yield _Piece(line, decode_document(msgspec.Raw(document.encode()), path), _JsonLines(document, line))
        start = _skip_blank(text, end)


class _JsonLines:
    """The lines of the fields of a JSON document; looked up when one is asked for, which is seldom."""

    def __init__(self, document: str, line: int) -> None:
        self._document = document
        self._line = line
        self._node: yaml.Node | None = None

    def __call__(self, field: str) -> int:
        """Return the line of a field, that of the document when it is not known."""
        if self._node is None:
            self._node = node_of(self._document) if len(self._document) <= _LINES_UP_TO else None
        return self._line if self._node is None else self._line + line_of(self._node, field) - 1


def _refuse_constant(name: str) -> None:
    """Refuse NaN and the infinities, which Python takes for JSON and nobody else does."""
    raise ValueError(f"{name} is not a JSON value")


def _is_one_document(text: str) -> bool:
    """Tell whether the text is one JSON document: a look at its syntax, five times as fast as parsing."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True


def _skip_blank(text: str, start: int) -> int:
    """Return the index of the next character that is not blank."""
    while start < len(text) and text[start] in _BLANK:
        start += 1
    return start
