"""
The bytes of one manifest file to decoded objects, each with the line its document starts at.

A file counts as a whole: when it cannot be parsed to its end, nothing of it counts, since nobody knows what the rest says.
When only some of its objects are wrong, the others count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import yaml

from kpx.model.decode import Decoded, Object, decode_document
from kpx.model.findings import Finding
from kpx.model.names import ObjectName
from kpx.sources.yaml_lines import line_in_text, line_of

_LINES_UP_TO = 1 << 18
"""JSON documents up to this many characters are searched for the line of a field; in larger ones the field path has to do."""
_BLANK = " \t\r\n"
_TOO_DEEP = "not a manifest: nested too deeply"
_DEEP = 10_000
_DEEP_INDENT = re.compile(r"^[ ?:-]{5000}", re.MULTILINE)


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


class UnreadableText(Exception):
    """A file is not YAML or JSON; `line` is 0 when unknown."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """
    The C loader where there is one (ten times as fast), without two surprises of YAML 1.1.

    A date stays the text it is, as in Kubernetes' own parser, and so does "=".
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (as in the base class)
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("timestamp", "value")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_content(path: str, data: bytes) -> Content:
    """Return what a file says; `path` is for the findings, and its end decides between JSON and YAML."""
    try:
        text = data.decode("utf-8-sig")
        pieces = list(_json_pieces(text, path) if path.endswith(".json") else _yaml_pieces(text, path))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return _broken(path, line, "the file is not UTF-8 text; convert it")
    except UnreadableText as error:
        return _broken(path, error.line, str(error))
    objects = tuple(Held(*found[:2], line, found.values) for line, piece in pieces for found in piece.objects)
    findings = tuple(finding for _, piece in pieces for finding in piece.findings)
    failed = frozenset(name for _, piece in pieces for name in piece.failed)
    return Content(objects, findings, failed)


def _broken(path: str, line: int, message: str) -> Content:
    """Return the content of a file that cannot be parsed."""
    where = f"{path}:{line}" if line else path
    return Content(findings=(Finding(where, "", f"{message}; what the file said before stays in force"),), whole=False)


def _yaml_pieces(text: str, path: str) -> Iterator[tuple[int, Decoded]]:
    """Yield the start line of each YAML document and what it holds."""
    for node, document in yaml_documents(text):
        decoded = decode_document(document, path)
        findings = tuple(f._replace(where=f"{path}:{line_of(node, f.field)}") for f in decoded.findings)
        yield node.start_mark.line + 1, decoded._replace(findings=findings)


def yaml_documents(text: str) -> Iterator[tuple[yaml.Node, object]]:
    """Yield each YAML document as nodes, which know their lines, and as dicts and lists."""
    try:
        _check_depth(text)
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            yield node, loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UnreadableText(f"not YAML: {error.problem or error.context}", mark.line + 1 if mark else 0) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UnreadableText(f"not YAML: character #x{error.character:04x} is not allowed", line) from error
    except yaml.YAMLError as error:
        raise UnreadableText(f"not YAML: {str(error).partition(chr(10))[0]}", 0) from error
    except RecursionError as error:
        raise UnreadableText(_TOO_DEEP, 0) from error
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        # PyYAML's constructors leak these for explicit tags with unfitting values, such as !!int x
        raise UnreadableText(f"not YAML: a value does not fit its tag ({error})", 0) from error


def _check_depth(text: str) -> None:
    """
    Refuse text so deeply nested that composing it would overflow the C stack: libyaml's composer recurses unchecked.

    Nearly every file is cleared by counting what could open a level; only the others are parsed twice.
    """
    if text.count("[") + text.count("{") <= _DEEP and not _DEEP_INDENT.search(text):
        return
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEP:
                raise UnreadableText(_TOO_DEEP, event.start_mark.line + 1 if event.start_mark else 0)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _json_pieces(text: str, path: str) -> Iterator[tuple[int, Decoded]]:
    """Yield the start line of each JSON document and what it holds; documents may follow each other with or without newlines."""
    scanner = json.JSONDecoder(parse_constant=_refuse_constant)
    start = _skip_blank(text, 0)
    while start < len(text):
        line = text.count("\n", 0, start) + 1
        try:
            whole = start == 0 and _is_one_document(text)
            end = len(text) if whole else scanner.raw_decode(text, start)[1]
        except json.JSONDecodeError as error:
            raise UnreadableText(f"not JSON: {error.msg}, column {error.colno}", error.lineno) from error
        except ValueError as error:
            raise UnreadableText(f"not JSON: {error}", line) from error
        except RecursionError as error:
            raise UnreadableText(_TOO_DEEP, line) from error
        document = text[start:end]
        decoded = decode_document(msgspec.Raw(document.encode()), path)
        if decoded.findings:
            decoded = decoded._replace(findings=tuple(_at_line(f, path, document, line) for f in decoded.findings))
        yield line, decoded
        start = _skip_blank(text, end)


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


def _at_line(finding: Finding, path: str, document: str, line: int) -> Finding:
    """Return the finding with its line, which is the document's when the field's is not known."""
    offset = line_in_text(document, finding.field) if len(document) <= _LINES_UP_TO else None
    return finding._replace(where=f"{path}:{line + (offset or 1) - 1}")
