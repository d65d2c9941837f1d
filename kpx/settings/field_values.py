"""
Values of configuration fields, checked as Kubernetes checks them: by type, strictly; durations as Go writes them. Pure.

YAML decides what type a plain word has, so a complaint about a type says what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from kpx.model.type_errors import describe, quote
from kpx.settings.kube_proxy_fields import FieldKind
from kpx.settings.setting import FieldError

LARGEST: Final = 0x7FFFFFFF

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION: Final = re.compile(rf"[+-]?(?:0|(?:{_PART.pattern})+)")

_EXPECTED: Final[Mapping[FieldKind, tuple[str, type | tuple[type, ...]]]] = {
    "text": ("text", str),
    "address": ("text", str),
    "flag": ("true or false", bool),
    "count": ("a whole number", int),
    "score": ("a whole number", int),
    "number": ("a number", (int, float)),
    "duration": ("a duration like 30s or 1h0m0s", str),
    "texts": ("a list of texts", list),
    "flags": ("a mapping of names to true or false", dict),
}


def is_nothing(value: object, deepest: int = 8) -> bool:
    """Tell whether a value is what Go writes for a field nobody set: null, "", 0, 0s, false, or empty all the way down."""
    if isinstance(value, Mapping):
        return deepest > 0 and all(is_nothing(member, deepest - 1) for member in value.values())
    if isinstance(value, list):
        return not value
    return value is None or value in ("", "0", "0s") or (isinstance(value, bool | int | float) and not value)


def checked(path: str, kind: FieldKind, value: object) -> object:
    """
    Return a value that is not null as its kind has it: a duration in seconds, everything else as it is.

    Raises:
        FieldError: it is of another type, or not possible whatever it is for.
    """
    if kind == "any":
        return value
    expected, types = _EXPECTED[kind]
    # In Python true is a number; in Go, JSON and YAML it is not.
    if not isinstance(value, types) or (isinstance(value, bool) and kind != "flag"):
        hint = "; put it in quotes" if types is str and isinstance(value, bool | int | float) else ""
        raise FieldError(path, f"expected {expected}, got {describe(value)}{hint}")
    if isinstance(value, list):
        _each(path, value, str, "text")
    if isinstance(value, dict):
        _each(path, value, bool, "true or false")
    if kind in ("count", "score") and isinstance(value, int) and not (0 if kind == "count" else -LARGEST) <= value <= LARGEST:
        raise FieldError(path, f"{value} is out of range; it must be {'0 or more, ' if kind == 'count' else ''}at most {LARGEST}")
    if kind == "duration" and isinstance(value, str):
        return seconds(path, value)
    return value


def seconds(path: str, text: str) -> float:
    """
    Read a duration as Go's time.ParseDuration does, without the negative ones.

    Raises:
        FieldError: it is none, or negative.
    """
    text = text.strip()
    if not _DURATION.fullmatch(text):
        raise FieldError(path, f"{quote(text)} is not a duration; write something like 30s or 1h0m0s")
    total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if text.startswith("-") and total:
        raise FieldError(path, f"{text} is negative")
    return round(total, 9)


def _each(path: str, value: list[object] | dict[object, object], wanted: type, expected: str) -> None:
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for key, member in members:
        if not isinstance(member, wanted):
            where = f"{path}.{key}" if isinstance(value, dict) else f"{path}[{key}]"
            raise FieldError(where, f"expected {expected}, got {describe(member)}")
