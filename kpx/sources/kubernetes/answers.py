"""
What the API server says, taken apart: pages of lists, lines of watches, and Status objects. Pure.

Objects are decoded straight into the values of `kpx.model`; of everything around them only what the machine acts on is read, and
what is not named here (managedFields above all) is skipped by the parser without being built.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec

from kpx.model.decode import Decoded, decode_document
from kpx.model.findings import Finding
from kpx.model.names import ObjectName

INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
"""Annotation of the bookmark that ends the initial events of a WatchList (KEP-3157)."""

LONGEST_MESSAGE: Final = 300
"""Characters of what a server says that are passed on; a Status may be of any length."""

LONGEST_WAIT_S: Final = 86400
"""No server is believed to ask for a longer pause, seconds."""

_ITEM: Final = re.compile(r"^items\[\d+\]\.?")


class NotUnderstood(Exception):
    """An answer is not what the API says; the message says how. Never leaves this package."""


class _Meta(msgspec.Struct, rename="camel", gc=False):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")
    name: str = ""
    namespace: str = ""
    annotations: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _List(msgspec.Struct, gc=False):
    kind: str = ""
    metadata: _Meta | None = None
    items: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    object: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Object(msgspec.Struct, gc=False):
    kind: str = ""
    metadata: _Meta | None = None


class _Cause(msgspec.Struct, gc=False):
    reason: str = ""


class _Details(msgspec.Struct, rename="camel", gc=False):
    causes: list[_Cause] | None = None
    retry_after_seconds: int = 0


class _Status(msgspec.Struct, gc=False):
    message: str = ""
    reason: str = ""
    code: int = 0
    details: _Details | None = None


_BROKEN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What is raised about a text that is no JSON, no UTF-8, nested too deeply, or of another shape."""

_LIST = msgspec.json.Decoder(_List)
_EVENT = msgspec.json.Decoder(_Event)
_OBJECT = msgspec.json.Decoder(_Object)
_STATUS = msgspec.json.Decoder(_Status)


class Page(NamedTuple):
    """
    One answer to a list request.

    Args:
        resource_version: of the list, the same on all its pages.
        next_token: to go on with, "" on the last page.
    """

    resource_version: str
    next_token: str
    objects: Decoded


class Line(NamedTuple):
    """
    One event of a watch.

    Args:
        type: ADDED, MODIFIED, DELETED or BOOKMARK; ERROR is an `Refusal`.
        resource_version: after this event.
        name: of the object, None for a bookmark.
        objects: of ADDED and MODIFIED.
        ends_initial: see `INITIAL_EVENTS_END`.
    """

    type: str
    resource_version: str
    name: ObjectName | None = None
    objects: Decoded = Decoded()
    ends_initial: bool = False


class Refusal(NamedTuple):
    """
    A Status that says no.

    Args:
        code: as HTTP has it, also when it came inside a stream that began with 200.
        reason, message: of the Status, "" when there is none; the message is one line and not too long.
        retry_after_s: what the server asks for, seconds, 0 for nothing.
        version_too_large: it has not got (or never had) the resourceVersion it was asked for.
    """

    code: int
    reason: str = ""
    message: str = ""
    retry_after_s: float = 0.0
    version_too_large: bool = False


def read_page(body: bytes, kind: str) -> Page:
    """
    Take a list apart.

    Raises:
        NotUnderstood: it is no list of this kind, or has no resourceVersion; nothing of it may count then.
    """
    try:
        listed = _LIST.decode(body)
        if listed.kind != f"{kind}List":
            raise NotUnderstood(f"what should be a list of {kind}s is of kind {listed.kind[:LONGEST_MESSAGE]!r}")
        if listed.metadata is None or not listed.metadata.resource_version or not isinstance(listed.items, msgspec.Raw):
            raise NotUnderstood(f"a list of {kind}s lacks items or metadata.resourceVersion")
        decoded = decode_document(msgspec.Raw(body), "")
    except _BROKEN as error:
        raise NotUnderstood(f"what should be a list of {kind}s is not JSON of that shape ({error})") from error
    return Page(listed.metadata.resource_version, listed.metadata.continue_, _without_index(decoded))


def read_line(line: bytes, kind: str) -> Line | Refusal:
    """
    Take one line of a watch apart.

    Raises:
        NotUnderstood: it is no event about this kind; the stream cannot be believed then.
    """
    try:
        event = _EVENT.decode(line)
        if not isinstance(event.object, msgspec.Raw):
            raise NotUnderstood(f"an event about {kind}s has no object")
        if event.type == "ERROR":
            return read_status(bytes(event.object), 0)
        return _about_object(event.type, event.object, kind)
    except _BROKEN as error:
        raise NotUnderstood(f"an event about {kind}s is not JSON of that shape ({error})") from error


def _about_object(type_: str, text: msgspec.Raw, kind: str) -> Line:
    about = _OBJECT.decode(text)
    metadata = about.metadata
    if about.kind != kind or metadata is None or not metadata.resource_version:
        other = about.kind[:LONGEST_MESSAGE]
        raise NotUnderstood(f"an event about {kind}s is about {other!r}, or lacks metadata.resourceVersion")
    version = metadata.resource_version
    if type_ == "BOOKMARK":
        return Line(type_, version, ends_initial=_says_true(metadata.annotations, INITIAL_EVENTS_END))
    name = ObjectName(metadata.namespace, metadata.name)
    if type_ == "DELETED":
        return Line(type_, version, name)
    if type_ in ("ADDED", "MODIFIED"):
        return Line(type_, version, name, decode_document(text, ""))
    raise NotUnderstood(f"an event about {kind}s is of the unknown type {type_[:LONGEST_MESSAGE]!r}")


def read_status(body: bytes, code: int, retry_after: str = "") -> Refusal:
    """
    Take a Status apart; whatever else stands there is shown as it is, in part.

    Args:
        code: the HTTP status; 0 takes the one of the Status, 500 when it has none.
        retry_after: the header, seconds; a date there is not worth the trouble.
    """
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
    try:
        status = _STATUS.decode(body)
    except _BROKEN:
        return Refusal(code or 500, "", _one_line(body[:LONGEST_MESSAGE].decode(errors="replace")), seconds)
    details = status.details or _Details()
    too_large = any(cause.reason == "ResourceVersionTooLarge" for cause in details.causes or ())
    # Servers before 1.20 say so in the message only.
    too_large = too_large or "Too large resource version" in status.message
    wait_s = seconds or float(max(0, min(details.retry_after_seconds, LONGEST_WAIT_S)))
    return Refusal(code or status.code or 500, status.reason, _one_line(status.message), wait_s, too_large)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}..."


def _says_true(annotations: msgspec.Raw | msgspec.UnsetType, key: str) -> bool:
    told = msgspec.json.decode(annotations) if isinstance(annotations, msgspec.Raw) else None
    return isinstance(told, dict) and told.get(key) == "true"


def _without_index(decoded: Decoded) -> Decoded:
    """Return the findings with paths inside their objects: at which place of a page an object stands says nothing to anybody."""
    if not decoded.findings:
        return decoded
    findings = tuple(_of_object(finding) for finding in decoded.findings)
    return decoded._replace(findings=findings)


def _of_object(finding: Finding) -> Finding:
    return finding._replace(field=_ITEM.sub("", finding.field))
