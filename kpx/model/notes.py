"""
What is wrong with one object, collected while it is decoded, and the checks every kind of object shares.

A decode function does not stop at the first mistake: it writes each into `Notes` and goes on with a stand-in, so that one
reading shows all of them. Whether the object counts at all is asked at the end.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Final

from kpx.model.addresses import Address, Prefix, parse_address, parse_prefix
from kpx.model.findings import Severity
from kpx.model.names import Protocol
from kpx.model.type_errors import quote

MOST_NOTES: Final = 100
"""Remarks about one object that are kept: nobody reads more before correcting those."""

_PROTOCOLS = {None: Protocol.TCP, "": Protocol.TCP, "TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}


class Notes:
    """
    Remarks about one object; fields are paths inside it.

    Args:
        rejected: whether the object as a whole is not to be used.
    """

    __slots__ = ("entries", "rejected")

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, Severity]] = []
        self.rejected = False

    def reject(self, field: str, message: str) -> None:
        """Note a mistake that makes the object unusable; its last good version stays in force."""
        if not self.rejected:
            self.rejected = True
            del self.entries[MOST_NOTES - 1 :]  # why it is not used is said in any case
        self._add(field, message, Severity.ERROR)

    def drop(self, field: str, message: str) -> None:
        """Note a mistake that puts the field out of force and leaves the rest of the object alone."""
        self._add(field, message, Severity.ERROR)

    def warn(self, field: str, message: str) -> None:
        """Note what is odd, but does no harm."""
        self._add(field, message, Severity.WARNING)

    def _add(self, field: str, message: str, severity: Severity) -> None:
        if len(self.entries) < MOST_NOTES:
            self.entries.append((field, message, severity))


def read_protocol(text: str | None, field: str, notes: Notes) -> Protocol:
    """Return the protocol, TCP when none is given; anything but TCP, UDP and SCTP rejects the object."""
    protocol = _PROTOCOLS.get(text)
    if protocol is None:
        notes.reject(field, f"{text!r} is not a protocol; use TCP, UDP or SCTP")
        return Protocol.TCP
    return protocol


def read_port(number: int | None, field: str, notes: Notes, *, zero: bool = False) -> int:
    """Return a port number 1..65535; another one rejects the object. With `zero`, 0 and nothing mean none (0)."""
    if number is not None and 1 <= number <= 65535:
        return number
    if number is None and not zero:
        notes.reject(field, "the port is missing; give a number from 1 to 65535")
    elif number or not zero:
        notes.reject(field, f"{number} is not a port; use 1 to 65535")
    return 0


def read_choice(text: str | None, choices: tuple[str, ...], field: str, notes: Notes) -> str:
    """Return one of the choices, the first when nothing is given; anything else rejects the object."""
    if not text:
        return choices[0]
    if text not in choices:
        notes.reject(field, f"{text!r} is not one of {', '.join(choices)}")
        return choices[0]
    return text


def read_address(text: str, field: str, notes: Notes) -> Address | None:
    """Return the address; text that is none puts the field out of force."""
    try:
        return parse_address(text)
    except ValueError as error:
        notes.drop(field, f"{error}; ignored")
        return None


def read_prefixes(texts: Iterable[str] | None, field: str, notes: Notes) -> tuple[Prefix, ...]:
    """Return address ranges without repetitions; text that is none rejects the object, since ranges restrict or select."""
    prefixes: dict[Prefix, None] = {}
    for index, text in enumerate(texts or ()):
        try:
            prefixes[parse_prefix(text)] = None
        except ValueError as error:
            notes.reject(f"{field}[{index}]", f"{error}; write address/length")
    return tuple(prefixes)


def read_time(value: object, field: str, notes: Notes) -> str:
    """
    Return a time as RFC 3339 text in UTC, whole seconds, so that text order is time order; "" when there is none.

    Kubernetes keeps seconds only (metav1.Time); a fraction would break the order of the text and is cut off.
    """
    if value is None or value == "":
        return ""
    moment = _moment(value)
    if moment is None:
        notes.warn(field, f"{quote(value)} is not an RFC 3339 time; treated as unknown")
        return ""
    return moment.replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def read_instant(value: object, field: str, notes: Notes) -> str | None:
    """Return a time with its fraction, as RFC 3339 text; None when there is none."""
    if value is None or value == "":
        return None
    moment = _moment(value)
    if moment is None:
        notes.warn(field, f"{quote(value)} is not an RFC 3339 time; ignored")
        return None
    return value if isinstance(value, str) else moment.isoformat().replace("+00:00", "Z")


def _moment(value: object) -> dt.datetime | None:
    """Return a point in time in UTC; a time without a zone is UTC."""
    text = value.isoformat() if isinstance(value, dt.date) else value
    if not isinstance(text, str):
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
        return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None
