"""Type errors in the words of the people who write manifests: "expected a whole number, got text"."""

from __future__ import annotations

import re

_ERROR = re.compile(r"(?P<what>.*?)(?: - at (?P<key>`key(?: in)?` in )?`\$\.?(?P<path>.*)`)?", re.DOTALL)
_TYPE = re.compile(r"`([^`]*)`")
_WORDS = {
    "str": "text",
    "int": "a whole number",
    "bool": "true or false",
    "float": "a number",
    "array": "a list",
    "object": "a mapping",
}
_PARSED = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a mapping"}


def reword(text: str) -> tuple[str, str]:
    """Return what a `msgspec` validation error says, and the path of the field it is about ("" for the whole object)."""
    match = _ERROR.fullmatch(text)
    what, path = (match["what"], match["path"] or "") if match else (text, "")
    what = _TYPE.sub(lambda name: _words(name[1]), what)
    return what[:1].lower() + what[1:] + (" as a key" if match and match["key"] else ""), path


def describe(value: object) -> str:
    """Return the type of a parsed value."""
    return "nothing" if value is None else _PARSED.get(type(value), type(value).__name__)


def quote(value: object) -> str:
    """Return a parsed value as people may see it; lists and mappings can be of any size or depth and are only named."""
    return repr(value) if isinstance(value, (str, int, float)) else describe(value)


def one_line(text: str, longest: int = 300) -> str:
    """Return a text that may hold somebody's words as one line people can read, so that nobody writes lines of the log."""
    text = text if len(text) <= longest else text[:longest] + "..."
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _words(union: str) -> str:
    """Return msgspec's type names as words; that null is allowed too helps nobody."""
    return " or ".join(_WORDS.get(name, name) for name in union.split(" | ") if name != "null") or "nothing"
