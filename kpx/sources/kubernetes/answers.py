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
        reason, message: of the Status, "" when there is none.
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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotUnderstood(f"what should be a list of {kind}s is not JSON of that shape ({error})") from error
    if listed.kind != f"{kind}List":
        raise NotUnderstood(f"what should be a list of {kind}s is of kind {listed.kind!r}")
    if listed.metadata is None or not listed.metadata.resource_version or not isinstance(listed.items, msgspec.Raw):
        raise NotUnderstood(f"a list of {kind}s lacks items or metadata.resourceVersion")
    decoded = decode_document(msgspec.Raw(body), "")
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
        about = _OBJECT.decode(event.object)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotUnderstood(f"an event about {kind}s is not JSON of that shape ({error})") from error
    metadata = about.metadata
    if about.kind != kind or metadata is None or not metadata.resource_version:
        raise NotUnderstood(f"an event about {kind}s is about {about.kind!r}, or lacks metadata.resourceVersion")
    version = metadata.resource_version
    if event.type == "BOOKMARK":
        return Line(event.type, version, ends_initial=_says_true(metadata.annotations, INITIAL_EVENTS_END))
    name = ObjectName(metadata.namespace, metadata.name)
    if event.type == "DELETED":
        return Line(event.type, version, name)
    if event.type in ("ADDED", "MODIFIED"):
        return Line(event.type, version, name, decode_document(event.object, ""))
    raise NotUnderstood(f"an event about {kind}s is of the unknown type {event.type!r}")


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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = " ".join(body[:200].decode(errors="replace").split())
        return Refusal(code or 500, "", text, seconds)
    details = status.details or _Details()
    too_large = any(cause.reason == "ResourceVersionTooLarge" for cause in details.causes or ())
    # Servers before 1.20 say so in the message only.
    too_large = too_large or "Too large resource version" in status.message
    wait_s = seconds or float(details.retry_after_seconds)
    return Refusal(code or status.code or 500, status.reason, status.message, wait_s, too_large)


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
