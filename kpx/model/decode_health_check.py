"""
The annotations that let the agent check the endpoints of a Service (docs/health-checks.md).

`kpx.io/health-check` says how, and may carry options as words behind it; each option has an annotation of its own, too. Whatever
cannot be read puts the whole check out of force, and endpoints are used as the slices say: half a check could take endpoints
away for a reason nobody stated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from sys import intern
from typing import Final

from kpx.model import wire
from kpx.model.health_check import CheckKind, HealthCheck
from kpx.model.names import Protocol
from kpx.model.notes import Notes
from kpx.model.service import ServicePort
from kpx.model.type_errors import quote

FORMS: Final = "tcp, tcp://:PORT, http://:PORT/PATH, http:///PATH (the endpoint's own port), or the same with https"
_SAID: Final = re.compile(r"(tcp|https?)(?:://([^/?#\s]*)(/[^\s#]*)?)?")
_PATH: Final = re.compile(r"/[!-~]*")
_LABEL: Final = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}"
_HOST: Final = re.compile(rf"(?=.{{1,255}}$){_LABEL}(?:\.{_LABEL})*(?::\d{{1,5}})?", re.ASCII)
_DURATION: Final = re.compile(r"(\d{1,7}(?:\.\d{1,3})?)(ms|s|m|)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0}
_SHORTEST_S: Final = {"interval": 0.1, "timeout": 0.01}
_LONGEST_S: Final = 3600.0
_MOST: Final = 100


class _Bad(ValueError):
    """What is wrong with a check: where, and in which words."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def read_health_check(metadata: wire.Metadata | None, ports: Sequence[ServicePort], notes: Notes) -> HealthCheck | None:
    """Return the check a Service asks for; None when it asks for none, or for what cannot be read, which is noted."""
    annotations = metadata.annotations if metadata is not None else None
    if annotations is None:
        return None
    try:
        return _read(annotations, ports, notes)
    except _Bad as bad:
        notes.drop(bad.field, f"{bad}; endpoints are not checked")
        return None


def _read(annotations: wire.Annotations, ports: Sequence[ServicePort], notes: Notes) -> HealthCheck | None:
    options = {}
    for name in wire.HEALTH_CHECK_OPTIONS:
        text = _text(annotations, f"health_check_{name}")
        if text:
            options[name] = (_path(f"health_check_{name}"), text)
    field = _path("health_check")
    words = _text(annotations, "health_check").split()
    if not words or words == ["none"]:
        if options and not words:
            stated = next(iter(options.values()))[0]
            raise _Bad(stated, f"it belongs to an annotation that is missing, {wire.HEALTH_CHECK_ANNOTATIONS['health_check']}")
        return None
    for word in words[1:]:
        name, equals, text = word.partition("=")
        if name not in wire.HEALTH_CHECK_OPTIONS or not equals:
            known = ", ".join(wire.HEALTH_CHECK_OPTIONS)
            raise _Bad(field, f"{word!r} is no option of a health check; write NAME=VALUE with one of {known}")
        if name in options:
            raise _Bad(field, f"{name} is given twice")
        options[name] = (field, text)
    kind, port, path = _said(field, words[0])
    _check_ports(field, port, ports, notes)
    return _with_options(HealthCheck(kind, port, path), options)


def _text(annotations: wire.Annotations, attribute: str) -> str:
    """Return an annotation without blanks around it, "" when there is none; YAML makes numbers of what looks like one."""
    value = getattr(annotations, attribute)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _Bad(_path(attribute), f"{quote(value)} is no text, put it in quotes")
    return str(value).strip()


def _path(attribute: str) -> str:
    return f"metadata.annotations.{wire.HEALTH_CHECK_ANNOTATIONS[attribute]}"


def _said(field: str, text: str) -> tuple[CheckKind, int, str]:
    """Return kind, port and path of the first word."""
    match = _SAID.fullmatch(text)
    if match is None:
        raise _Bad(field, f"{text!r} is no health check; write {FORMS}")
    kind, place, path = CheckKind(match[1]), match[2] or "", match[3] or ""
    host, colon, number = place.rpartition(":")
    if host or (place and not colon):
        raise _Bad(
            field, f"{text!r} names a host, but the address is each endpoint's own; write {FORMS}, and host=NAME for the header"
        )
    if colon and not (number.isascii() and number.isdigit() and 1 <= int(number) <= 65535):
        raise _Bad(field, f"{number!r} is not a port; use 1 to 65535")
    if kind is CheckKind.TCP:
        if path not in ("", "/"):
            raise _Bad(field, f"{text!r} has a path, which only http and https ask for")
        return kind, int(number or 0), ""
    if path and _PATH.fullmatch(path) is None:
        raise _Bad(field, f"{path!r} is not a path; write it in printable ASCII, with % for the rest")
    return kind, int(number or 0), intern(path or "/")


def _check_ports(field: str, port: int, ports: Sequence[ServicePort], notes: Notes) -> None:
    """See to it that there is something to ask: only TCP ports can be asked on their own number."""
    if port:
        return
    others = [one for one in ports if one.protocol is not Protocol.TCP]
    if len(others) == len(ports):
        raise _Bad(
            field, "the Service has no TCP port, and only TCP can be asked; give the check a port of its own, like tcp://:8080"
        )
    for one in others:
        name = f"{one.port}/{one.protocol}"
        notes.warn(field, f"endpoints of {name} are not checked, as only TCP can be asked; give the check a port of its own")


def _with_options(check: HealthCheck, options: dict[str, tuple[str, str]]) -> HealthCheck:
    interval = _seconds("interval", options, check.interval_s)
    timeout = _seconds("timeout", options, min(check.timeout_s, interval))
    if timeout > interval:
        raise _Bad(options["timeout"][0], f"the timeout, {timeout:g} s, is longer than the interval, {interval:g} s")
    host_field, host = options.get("host", ("", ""))
    if host and _HOST.fullmatch(host) is None:
        raise _Bad(host_field, f"{host!r} is not the name of a host, with or without a port")
    if host and check.kind is CheckKind.TCP:
        raise _Bad(host_field, "host is for http and https")
    return HealthCheck(
        check.kind,
        check.port,
        check.path,
        intern(host),
        interval,
        timeout,
        _number("rise", options, check.rise, 1),
        _number("fall", options, check.fall, 1),
        _number("panic", options, check.panic_percent, 0),
    )


def _seconds(name: str, options: dict[str, tuple[str, str]], default: float) -> float:
    if name not in options:
        return default
    field, text = options[name]
    match = _DURATION.fullmatch(text)
    value = float(match[1]) * _UNITS[match[2]] if match else -1.0
    if not _SHORTEST_S[name] <= value <= _LONGEST_S:
        least = f"{_SHORTEST_S[name] * 1000:g}ms"
        raise _Bad(field, f"{name} {text!r} is not a duration from {least} to 60m; write it like 500ms or 2s")
    return value


def _number(name: str, options: dict[str, tuple[str, str]], default: int, least: int) -> int:
    if name not in options:
        return default
    field, text = options[name]
    digits = text.removesuffix("%") if name == "panic" else text
    if not (digits.isascii() and digits.isdigit() and least <= int(digits) <= _MOST):
        unit = " percent" if name == "panic" else ""
        raise _Bad(field, f"{name} {text!r} is not a number from {least} to {_MOST}{unit}")
    return int(digits)
