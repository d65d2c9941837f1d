"""
What a stand-in API server holds: objects, one counter of revisions for all of them, and a history that can be compacted.

Every change gets the next revision, which is the `resourceVersion` of what it made. A change that changes nothing is none, as
with a real server. Watches are told through queues of their own, so that compacting takes nothing from those under way.
"""

from __future__ import annotations

import bisect
import datetime as dt
import threading
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tests.lab.apiserver_kinds import Manifest, Resource, Stored, completed, fields_of, resource_of
from tests.lab.apiserver_selectors import Selector

Key = tuple[str, str]
"""Namespace, "" for a kind without, and name; lists are in this order."""

_SERVER_MADE = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields")


class Change(NamedTuple):
    """An object before and after; None when it was not there."""

    revision: int
    resource: Resource
    key: Key
    old: Stored | None
    new: Stored | None

    def seen_by(self, selector: Selector) -> bytes | None:
        """Return the watch event for who sees selected objects only: who leaves the selection is deleted, who enters added."""
        before = self.old is not None and selector(self.old)
        after = self.new is not None and selector(self.new)
        if self.new is not None and after:
            return told_of("MODIFIED" if before else "ADDED", self.resource, self.new)
        if self.old is not None and before:
            # The last state that was selected, with the revision of the change: recorded so.
            metadata = self.old["metadata"] | {"resourceVersion": str(self.revision)}
            return told_of("DELETED", self.resource, Stored(self.old | {"metadata": metadata}))
        return None


def told_of(event: str, resource: Resource, found: Stored) -> bytes:
    """Return a watch event as a line."""
    head = f'{{"type":"{event}","object":{{"kind":"{resource.kind}","apiVersion":"{resource.api_version}",'
    return head.encode() + found.raw[1:] + b"}\n"


def typed(resource: Resource, found: Manifest) -> Manifest:
    """Return an object as it is outside of a list: with its kind."""
    return {"kind": resource.kind, "apiVersion": resource.api_version} | found


class Watch:
    """One watch under way: the changes it has not been told of yet."""

    def __init__(self, resource: Resource, backlog: Iterable[Change]) -> None:
        self.resource = resource
        self.changes: deque[Change | bytes] = deque(backlog)
        self.cut_when_told = False
        self.muted = False


class Store:
    """
    Objects of all kinds; safe to use from several threads, which wait for changes on `changed`.

    Args:
        allocate_node_ports: see `apiserver_kinds.completed`.

    Attributes:
        revision: of the last change.
        compacted: changes up to this revision are no longer told.
    """

    def __init__(self, allocate_node_ports: bool = False) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.revision = 1
        self.compacted = 1
        self.watches: list[Watch] = []
        self._allocate_node_ports = allocate_node_ports
        self._numbers: dict[tuple[Resource, Key], int] = {}
        self._objects: dict[Resource, dict[Key, Stored]] = {}
        self._sorted: dict[Resource, list[Key]] = {}
        self._history: list[Change] = []

    def apply(self, manifest: Manifest) -> Stored:
        """Create an object, or replace it; return it as stored."""
        return self._apply(manifest, copied=True)

    def _apply(self, manifest: Manifest, copied: bool) -> Stored:
        resource = resource_of(manifest)
        with self.changed:
            key = self._key(resource, manifest)
            old = self._objects.get(resource, {}).get(key)
            number = self._numbers.setdefault((resource, key), len(self._numbers) + 1)
            new = self._stored(resource, completed(resource, manifest, number, self._allocate_node_ports, copied), key, old)
            if new != old:
                self._change(resource, key, old, new)
            return self._objects[resource][key]

    def load(self, manifests: Iterable[Manifest]) -> None:
        """Create objects and forget how they came; the manifests are this server's from now on."""
        for manifest in manifests:
            self._apply(manifest, copied=False).raw  # noqa: B018 (a real server has it encoded, too)
        self.compact()

    def delete(self, kind: str, name: str, namespace: str = "") -> Manifest:
        """Delete an object; KeyError when it is not there."""
        with self.changed:
            for resource, objects in self._objects.items():
                if resource.kind == kind and (old := objects.get((namespace, name))) is not None:
                    self._change(resource, (namespace, name), old, None)
                    return old
        raise KeyError((kind, namespace, name))

    def find(self, resource: Resource, key: Key) -> Stored | None:
        """Return an object."""
        return self._objects.get(resource, {}).get(key)

    def every(self, kind: str) -> list[Stored]:
        """Return all objects of a kind, in order of namespace and name."""
        with self.changed:
            found = [objects for resource, objects in self._objects.items() if resource.kind == kind]
            return [objects[key] for objects in found for key in sorted(objects)]

    def objects(self, resource: Resource, at: int, after: Key | None = None) -> Iterator[tuple[Key, Stored]]:
        """Yield objects as of a revision, in order of their keys; from behind `after`. Call it with `changed` held."""
        objects, keys = self._as_of(resource, at)
        for index in range(0 if after is None else bisect.bisect_right(keys, after), len(keys)):
            yield keys[index], objects[keys[index]]

    def watch(self, resource: Resource, since: int | None) -> Watch:
        """Begin a watch for all changes after a revision, None for the present one; end it with `unwatch`."""
        with self.changed:
            backlog = [] if since is None else [one for one in self._history if one.resource is resource and one.revision > since]
            watch = Watch(resource, backlog)
            self.watches.append(watch)
            self.changed.notify_all()
            return watch

    def unwatch(self, watch: Watch) -> None:
        """End a watch."""
        with self.changed:
            self.watches.remove(watch)
            self.changed.notify_all()

    def compact(self) -> None:
        """Forget all changes up to now; watches under way go on."""
        with self.changed:
            self.compacted = self.revision
            self._history.clear()

    def restore(self, revision: int) -> None:
        """Be as of a former revision again, counter and all, as after an etcd restore; nobody is told."""
        with self.changed:
            while self._history and self._history[-1].revision > revision:
                change = self._history.pop()
                self._put(change.resource, change.key, change.old)
            self.revision = revision
            self.compact()

    def _key(self, resource: Resource, manifest: Manifest) -> Key:
        metadata = manifest["metadata"]
        return (metadata.get("namespace", "default") if resource.namespaced else ""), metadata["name"]

    def _stored(self, resource: Resource, whole: Manifest, key: Key, old: Stored | None) -> Stored:
        """Return an object with the metadata a server makes; equal to the old one when nothing changed."""
        content = {name: value for name, value in whole.items() if name not in ("kind", "apiVersion", "metadata")}
        named = {"name": key[1]} | ({"namespace": key[0]} if key[0] else {})
        told = {name: value for name, value in whole["metadata"].items() if name not in _SERVER_MADE}
        if old is not None:
            made = {name: old["metadata"][name] for name in _SERVER_MADE if name in old["metadata"]}
            same = {"metadata": named | made | told} | content
            if same == old:
                return old
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        # A real server never takes a creation time from a client; tests of who was first (V11) need one they can choose.
        created = old["metadata"]["creationTimestamp"] if old else whole["metadata"].get("creationTimestamp", now)
        made = {"uid": old["metadata"]["uid"] if old else str(uuid.uuid4()), "resourceVersion": str(self.revision + 1)}
        if resource.counted:
            made["generation"] = old["metadata"]["generation"] + (content != _content(old)) if old else 1
        made["creationTimestamp"] = str(created)
        owner = {"manager": "kubectl", "operation": "Update", "apiVersion": resource.api_version, "time": now}
        fields = fields_of({"metadata": {name: value for name, value in told.items() if name != "creationTimestamp"}} | content)
        managed = [owner | {"fieldsType": "FieldsV1", "fieldsV1": fields}]
        return Stored({"metadata": named | made | told | {"managedFields": managed}} | content)

    def _change(self, resource: Resource, key: Key, old: Stored | None, new: Stored | None) -> None:
        self.revision += 1
        self._put(resource, key, new)
        change = Change(self.revision, resource, key, old, new)
        self._history.append(change)
        for watch in self.watches:
            if watch.resource is resource:
                watch.changes.append(change)
        self.changed.notify_all()

    def _put(self, resource: Resource, key: Key, value: Stored | None) -> None:
        objects = self._objects.setdefault(resource, {})
        if value is None:
            del objects[key]
        elif key in objects:
            objects[key] = value
            return
        else:
            objects[key] = value
        self._sorted.pop(resource, None)

    def _as_of(self, resource: Resource, at: int) -> tuple[dict[Key, Stored], list[Key]]:
        objects = self._objects.get(resource, {})
        later = [change for change in reversed(self._history) if change.revision > at and change.resource is resource]
        if not later:
            if resource not in self._sorted:
                self._sorted[resource] = sorted(objects)
            return objects, self._sorted[resource]
        objects = dict(objects)
        for change in later:
            if change.old is None:
                objects.pop(change.key, None)
            else:
                objects[change.key] = change.old
        return objects, sorted(objects)


def _content(found: Manifest) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "metadata"}
