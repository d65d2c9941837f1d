"""Label and field selectors, as requests spell them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.lab.apiserver_kinds import Resource

Selector = Callable[[Mapping[str, Any]], bool]


class BadSelector(Exception):
    """A selector no server understands; the message is what one says."""


def selector_of(resource: Resource, labels: str, fields: str) -> Selector:
    """
    Return what tells whether an object is selected; empty texts select everything.

    Raises:
        BadSelector: a requirement cannot be read, or names a field this kind cannot be selected by.
    """
    wanted = [_label(text) for text in _requirements(labels)]
    wanted += [_field(resource, text) for text in _requirements(fields)]
    return lambda found: all(requirement(found) for requirement in wanted)


def _requirements(text: str) -> Iterator[str]:
    """Split at commas that are in no parentheses."""
    yield from filter(None, (part.strip() for part in re.split(r",(?![^(]*\))", text)))


def _label(text: str) -> Selector:
    if match := re.fullmatch(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)", text):
        key, verb, listed = match.groups()
        values = {value.strip() for value in listed.split(",")}
        return lambda found: (_labels(found).get(key) in values) is (verb == "in")
    if match := re.fullmatch(r"([^!=\s]+)\s*(=|==|!=)\s*([^!=\s]*)", text):
        key, verb, value = match.groups()
        return lambda found: (_labels(found).get(key) == value) is (verb != "!=")
    if match := re.fullmatch(r"(!?)\s*([^!=\s]+)", text):
        absent, key = match.groups()
        return lambda found: (key not in _labels(found)) is bool(absent)
    raise BadSelector(f"unable to parse requirement: found '{text}', expected: identifier")


def _field(resource: Resource, text: str) -> Selector:
    match = re.fullmatch(r"([^!=]+)(=|==|!=)(.*)", text)
    if match is None:
        raise BadSelector(f"invalid selector: '{text}'; can't understand '{text}'")
    path, verb, value = match.groups()
    if path not in resource.fields:
        raise BadSelector(f"field label not supported: {path}")
    return lambda found: (_at(found, path) == value) is (verb != "!=")


def _labels(found: Mapping[str, Any]) -> Mapping[str, str]:
    return found["metadata"].get("labels") or {}


def _at(found: Mapping[str, Any], path: str) -> str:
    value: Any = found
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return "" if value is None else str(value)
