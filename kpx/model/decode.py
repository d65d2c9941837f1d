"""
Documents to model values: which kind, which name, and who decodes it; lists are taken apart here.

A document is what a YAML or JSON parser returns, or a `msgspec.Raw` holding JSON text, which is decoded without building
dicts first (a third of the time and a tenth of the memory of a large list). Bad input is never an exception: it is a
`Finding`, and one bad object never disturbs another.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from sys import intern
from typing import Any, NamedTuple

import msgspec

from kpx.model import wire
from kpx.model.decode_endpoints import decode_endpoints, decode_slice
from kpx.model.decode_node import decode_node, decode_service_cidr
from kpx.model.decode_service import decode_service
from kpx.model.endpointslice import EndpointSlice
from kpx.model.findings import Finding, Severity
from kpx.model.names import ObjectName
from kpx.model.node import Node, ServiceCIDR
from kpx.model.notes import Notes
from kpx.model.service import Service
from kpx.model.type_errors import describe, one_line, reword

Object = Service | EndpointSlice | Node | ServiceCIDR


class DecodedObject(NamedTuple):
    """
    One object of a document.

    Args:
        kind: as in the manifest ("Endpoints" too).
        values: what it decodes to; an Endpoints object gives one slice per subset and family, possibly none.
    """

    kind: str
    name: ObjectName
    values: tuple[Object, ...]


class Decoded(NamedTuple):
    """
    What a document holds.

    Args:
        findings: `field` is the path inside the document, with `items[n].` in front for members of a list.
        failed: kind and name of objects that could not be decoded, so that their last good version can be kept.
    """

    objects: tuple[DecodedObject, ...] = ()
    findings: tuple[Finding, ...] = ()
    failed: tuple[tuple[str, ObjectName], ...] = ()


_Decode = Callable[[Any, ObjectName, Notes], tuple[Object, ...]]


class _Kind(NamedTuple):
    """How a kind is decoded; `group` is its API group, "" the core group."""

    group: str
    namespaced: bool
    shape: type[wire.Manifest]
    json: msgspec.json.Decoder[Any]
    decode: _Decode


class _Header(msgspec.Struct, rename="camel", gc=False):
    """What tells which kind a document is; untyped, so that a mistake elsewhere does not hide the kind."""

    kind: object = None
    api_version: object = None
    items: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def _kind(group: str, shape: type[wire.Manifest], decode: _Decode, *, namespaced: bool = True) -> _Kind:
    return _Kind(group, namespaced, shape, msgspec.json.Decoder(shape), decode)


_KINDS = {
    "Service": _kind("", wire.Service, decode_service),
    "EndpointSlice": _kind("discovery.k8s.io", wire.EndpointSlice, decode_slice),
    "Endpoints": _kind("", wire.Endpoints, decode_endpoints),
    "Node": _kind("", wire.Node, decode_node, namespaced=False),
    "ServiceCIDR": _kind("networking.k8s.io", wire.ServiceCIDR, decode_service_cidr, namespaced=False),
}
_LISTS = {"List": "", **{f"{kind}List": kind for kind in _KINDS}}
_MOST_FINDINGS = 10_000
"""Findings about one document that are told; so many, that a page of a list of 500 objects has its own each."""
_HEADER = msgspec.json.Decoder(_Header)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw] | None)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


def decode_document(document: object, where: str) -> Decoded:
    """
    Decode one document: an object of a kind kpx reads, a List, or nothing (None).

    Args:
        document: dicts and lists as a parser made them, or `msgspec.Raw` with JSON text.
        where: place of the document for the findings; "" means the object's kind and name are the place.
    """
    found = _Found(where)
    if document is not None and document != msgspec.Raw(b"null"):
        found.document(document)
    if found.unsaid:
        found.findings.append(Finding(where or "objects", "", f"and {found.unsaid} more like these"))
    return Decoded(tuple(found.objects), tuple(found.findings), tuple(found.failed))


class _Found:
    """What has been found in one document so far."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.objects: list[DecodedObject] = []
        self.findings: list[Finding] = []
        self.failed: list[tuple[str, ObjectName]] = []
        self.ignored: set[str] = set()
        self.unsaid = 0

    def document(self, document: object) -> None:
        """Decode a document: one object or a list of them."""
        header = self._header(document, "")
        if header is None:
            return
        if not isinstance(header.kind, str) or header.kind not in _LISTS:
            self._object(document, header, "")
            return
        items = _items(document, header)
        if not isinstance(items, list):
            self._complain("", "items", f"expected a list, got {describe(items)}")
            return
        default = _LISTS[header.kind]
        for index, item in enumerate(items):
            prefix = f"items[{index}]"
            header = self._header(item, prefix)
            if header is not None:
                if header.kind is None and default:
                    header.kind = default
                self._object(item, header, prefix)

    def _header(self, document: object, prefix: str) -> _Header | None:
        """Return kind and version, None (and a finding) when the document is no mapping."""
        if isinstance(document, dict):
            return _Header(document.get("kind"), document.get("apiVersion"))
        if isinstance(document, msgspec.Raw):
            try:
                return _HEADER.decode(document)
            except msgspec.ValidationError:
                document = _plain(document)
            except msgspec.DecodeError as error:
                self._complain("", prefix, f"not JSON: {error}")
                return None
        self._complain("", prefix, f"expected an object with kind and metadata, got {describe(document)}")
        return None

    def _object(self, document: object, header: _Header, prefix: str) -> None:
        """Decode one object of a known kind; an unknown one is a warning, once a document."""
        if not isinstance(header.kind, str) or not header.kind:
            self._complain("", _join(prefix, "kind"), "the kind is missing; write for example kind: Service")
            return
        kind = _KINDS.get(header.kind)
        version = header.api_version
        if kind is None or (isinstance(version, str) and version.rpartition("/")[0] != kind.group):
            label = header.kind if kind is None else f"{header.kind} of {version}"
            if label not in self.ignored:
                self.ignored.add(label)
                self._complain("", _join(prefix, "kind"), f"kind {label} is not one kpx reads; ignored", Severity.WARNING)
            return
        try:
            manifest = kind.json.decode(document) if isinstance(document, msgspec.Raw) else msgspec.convert(document, kind.shape)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._type_error(str(error), document, header.kind, kind, prefix)
            return
        self._manifest(manifest, header.kind, kind, prefix)

    def _manifest(self, manifest: wire.Manifest, label: str, kind: _Kind, prefix: str) -> None:
        """Decode an object whose types are right."""
        metadata = manifest.metadata
        name = _object_name(metadata.name if metadata else None, metadata.namespace if metadata else None, kind)
        if isinstance(name, str):
            self._complain(label, _join(prefix, "metadata.name"), name)
            return
        notes = Notes()
        values = kind.decode(manifest, name, notes)
        for field, message, severity in notes.entries:
            self._complain(f"{label} {name}", _join(prefix, field), message, severity)
        if notes.rejected:
            self.failed.append((label, name))
        else:
            self.objects.append(DecodedObject(intern(label), name, values))

    def _type_error(self, text: str, document: object, label: str, kind: _Kind, prefix: str) -> None:
        """Report a field of the wrong type; the name may still be readable."""
        message, path = reword(text)
        document = _plain(document)
        metadata = document.get("metadata") if isinstance(document, dict) else None
        fields = metadata if isinstance(metadata, dict) else {}
        name = _object_name(fields.get("name"), fields.get("namespace"), kind)
        if isinstance(name, ObjectName):
            self.failed.append((label, name))
            label = f"{label} {name}"
        self._complain(label, _join(prefix, path), message)

    def _complain(self, label: str, field: str, message: str, severity: Severity = Severity.ERROR) -> None:
        """Add a finding about the object called `label`, "" when it has no name; beyond `_MOST_FINDINGS` they are counted."""
        if len(self.findings) >= _MOST_FINDINGS:
            self.unsaid += 1
            return
        message = one_line(message)
        if not self.where:
            self.findings.append(Finding(label or "object", field, message, severity))
        else:
            self.findings.append(Finding(self.where, field, f"{label}: {message}" if label else message, severity))


def _object_name(name: object, namespace: object, kind: _Kind) -> ObjectName | str:
    """Return the name, or what is wrong with it."""
    if name is None or name == "":
        return "the name is missing"
    namespace = (namespace or "default") if kind.namespaced else ""
    if not isinstance(name, str) or not isinstance(namespace, str):
        return "the name is not text; put it in quotes"
    if not _NAME.fullmatch(name) or (namespace and not _NAME.fullmatch(namespace)):
        return f"{namespace + '/' if namespace else ''}{name!r} is not a name; use letters, digits, '-' and '.'"
    return ObjectName(intern(namespace), intern(name))


def _items(document: object, header: _Header) -> object:
    """Return the members of a list object, JSON ones as raw texts; whatever stands there when it is no list."""
    if isinstance(document, dict):
        items = document.get("items")
        return [] if items is None else items
    if not isinstance(header.items, msgspec.Raw):
        return []
    try:
        return _ITEMS.decode(header.items) or []
    except msgspec.DecodeError:
        return _plain(header.items)


def _plain(document: object) -> object:
    """Return a document as dicts and lists; None when it is not even JSON."""
    if not isinstance(document, msgspec.Raw):
        return document
    try:
        return msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _join(prefix: str, field: str) -> str:
    """Join a path inside the document and a path inside an object of it."""
    return f"{prefix}.{field}" if prefix and field and not field.startswith("[") else prefix + field
