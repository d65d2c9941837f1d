"""What clients may write to a stand-in API server: anything, save Events, which are looked at as a real server does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import yaml

from tests.lab import apiserver_answers as answers
from tests.lab.apiserver_answers import Refusal
from tests.lab.apiserver_kinds import Manifest, Resource
from tests.lab.apiserver_store import Store, typed

Answer = tuple[int, Manifest]

PATCH_KINDS: Final = (
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)


def create(store: Store, resource: Resource, namespace: str, name: str, body: bytes, kind: str) -> Answer:
    """Create an object: POST."""
    manifest = _named(resource, namespace, _read(body, kind))
    with store.changed:
        name = manifest["metadata"]["name"]
        if store.find(resource, (namespace, name)) is not None:
            raise answers.already_exists(resource, name)
        return 201, _stored(store, resource, namespace, manifest)


def update(store: Store, resource: Resource, namespace: str, name: str, body: bytes, kind: str) -> Answer:
    """Replace an object: PUT."""
    manifest = _named(resource, namespace, _read(body, kind))
    with store.changed:
        if store.find(resource, (namespace, name)) is None:
            raise answers.not_found(resource, name)
        return 200, _stored(store, resource, namespace, manifest)


def patch(store: Store, resource: Resource, namespace: str, name: str, body: bytes, kind: str) -> Answer:
    """Change parts of an object, or apply it as a whole, which creates it if need be: PATCH."""
    part = _read(body, kind)
    if kind.partition(";")[0] not in PATCH_KINDS:
        raise Refusal(415, f"the body of the request was in an unknown format - {kind}")
    with store.changed:
        old = store.find(resource, (namespace, name))
        if old is None and "apply-patch" not in kind:
            raise answers.not_found(resource, name)
        whole = part if old is None or "apply-patch" in kind else merged(old, part)
        whole.setdefault("metadata", {})["name"] = name
        manifest = _named(resource, namespace, typed(resource, whole))
        return (201 if old is None else 200), _stored(store, resource, namespace, manifest)


def delete(store: Store, resource: Resource, namespace: str, name: str, body: bytes, kind: str) -> Answer:
    """Delete an object: DELETE."""
    with store.changed:
        if store.find(resource, (namespace, name)) is None:
            raise answers.not_found(resource, name)
        store.delete(resource.kind, name, namespace)
        return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


WRITERS: Final[dict[str, Callable[[Store, Resource, str, str, bytes, str], Answer]]] = {
    "create": create,
    "update": update,
    "patch": patch,
    "delete": delete,
}


def merged(old: Any, part: Any) -> Any:
    """Return the old value with a JSON merge patch applied (RFC 7396)."""
    if not isinstance(part, dict):
        return part
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in part.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def event_faults(namespace: str, event: Manifest) -> Iterator[tuple[str, str]]:
    """
    Yield what a server objects to in an Event of events.k8s.io/v1: field and complaint.

    Source: Kubernetes 1.36, pkg/apis/core/validation/events.go, ValidateEventCreate.
    """
    for name, most in (("reportingController", 253), ("reportingInstance", 128), ("action", 128), ("reason", 128)):
        if not event.get(name):
            yield name, "Required value"
        elif len(event[name]) > most:
            yield name, f"Invalid value: can have at most {most} characters"
    if not event.get("eventTime"):
        yield "eventTime", "Required value"
    if event.get("type") not in ("Normal", "Warning"):
        yield "type", f"Invalid value: {json.dumps(event.get('type', ''))}"
    if len(event.get("note", "").encode()) > 1024:
        yield "note", "Invalid value: can have at most 1024 characters"
    if event.get("series") and event["series"].get("count", 0) < 2:
        yield "series.count", "Invalid value: should be at least 2"
    if event.get("series") and not event["series"].get("lastObservedTime"):
        yield "series.lastObservedTime", "Required value"
    if (event.get("regarding", {}).get("namespace") or "default") != namespace:
        yield "involvedObject.namespace", "Invalid value: does not match event.namespace"
    for name in ("deprecatedCount", "deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedSource"):
        if event.get(name):
            yield name, "Invalid value: must be unset"


def _stored(store: Store, resource: Resource, namespace: str, manifest: Manifest) -> Manifest:
    if resource.group == "events.k8s.io" and (faults := list(event_faults(namespace, manifest))):
        causes = [{"reason": "FieldValueInvalid", "message": message, "field": field} for field, message in faults]
        details = {"name": manifest["metadata"]["name"], "group": resource.group, "kind": resource.kind, "causes": causes}
        text = ", ".join(f"{field}: {message}" for field, message in faults)
        raise Refusal(422, f'Event.events.k8s.io "{manifest["metadata"]["name"]}" is invalid: {text}', details)
    return typed(resource, store.apply(manifest))


def _read(body: bytes, kind: str) -> Manifest:
    try:
        found = yaml.safe_load(body) if "yaml" in kind else json.loads(body)
    except (ValueError, yaml.YAMLError) as error:
        raise Refusal(400, f"error decoding: {error}") from error
    if not isinstance(found, dict):
        raise Refusal(400, "error decoding: not an object")
    return found


def _named(resource: Resource, namespace: str, manifest: Manifest) -> Manifest:
    """Return a manifest that says of which kind and namespace it is."""
    metadata = dict(manifest.get("metadata") or {})
    if not metadata.get("name"):
        raise Refusal(422, f"{resource.kind} is invalid: metadata.name: Required value: name or generateName is required")
    if namespace:
        metadata["namespace"] = namespace
    return typed(resource, manifest | {"metadata": metadata}) | {"apiVersion": resource.api_version, "kind": resource.kind}
