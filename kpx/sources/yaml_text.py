"""
YAML as Kubernetes reads it, and within bounds: how much a text says is counted before anything is built of it.

libyaml's composer recurses unchecked, PyYAML takes some 20 us and 500 bytes for a value, and aliases make a short text say as
much as its author likes. So a text that may be too deep or too long is parsed twice, the first time for its events alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

MOST_VALUES: Final = 1_000_000
"""Values in one file, each alias counted as all it stands for."""
_DEEP: Final = 10_000
_DEEP_INDENT: Final = re.compile(r"^[ ?:-]{5000}", re.MULTILINE)
_BEGINNINGS: Final = "[{,:?-\n"
"""What stands before a value that is not the first."""
_LONGEST_INT: Final = 20
_LONGEST_FLOAT: Final = 100
"""Characters of a number; what is longer is text, of which no field is made that takes a number."""

TOO_DEEP: Final = "not a manifest: nested too deeply"
TOO_MUCH: Final = f"not a manifest: more than {MOST_VALUES:,} values, aliases counted as what they stand for; split the file"


class UnreadableText(Exception):
    """A file is not YAML or JSON; `line` is 0 when unknown."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """
    The C loader where there is one (ten times as fast), without surprises of YAML 1.1.

    A date stays the text it is, as in Kubernetes' own parser, and so do "=" and 10:30, which is no number to base 60.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (as in the base class)
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("timestamp", "value")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_yaml_int(self, node: Any) -> object:
        """Return a number; of numbers beyond 64 bits a few thousand as keys would all fall on one place of a dict."""
        return self._number(node, _LONGEST_INT, super().construct_yaml_int)

    def construct_yaml_float(self, node: Any) -> object:
        """Return a number."""
        return self._number(node, _LONGEST_FLOAT, super().construct_yaml_float)

    def _number(self, node: Any, longest: int, construct: Any) -> object:
        text = self.construct_scalar(node)
        return text if ":" in text or len(text) > longest else construct(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def yaml_documents(text: str) -> Iterator[tuple[yaml.Node, object]]:
    """
    Yield each YAML document as nodes, which know their lines, and as dicts and lists.

    Raises:
        UnreadableText: it is none, or says too much.
    """
    try:
        if _may_be_too_much(text):
            _measure(text)
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
        raise UnreadableText(TOO_DEEP, 0) from error
    except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        # PyYAML's constructors leak these for explicit tags with unfitting values, such as !!int x
        raise UnreadableText(f"not YAML: a value does not fit its tag ({error})", 0) from error


def _may_be_too_much(text: str) -> bool:
    """Tell whether counting is worth while; of nearly every file it is clear that it is not."""
    if "*" in text and "&" in text:
        return True
    if text.count("[") + text.count("{") > _DEEP or _DEEP_INDENT.search(text):
        return True
    return sum(map(text.count, _BEGINNINGS)) >= MOST_VALUES


def _measure(text: str) -> None:
    """Refuse text that is nested too deeply or says too much."""
    sizes: dict[str, int] = {}
    open_anchors: list[str | None] = []
    counted = [0]
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.CollectionStartEvent):
            open_anchors.append(event.anchor)
            counted.append(1)
            if len(counted) > _DEEP:
                raise UnreadableText(TOO_DEEP, line)
            continue
        anchor, size = None, 0
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_anchors.pop(), counted.pop()
        elif isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        if anchor is not None:
            sizes[anchor] = size
        counted[-1] += size
        if counted[-1] > MOST_VALUES:
            raise UnreadableText(TOO_MUCH, line)
