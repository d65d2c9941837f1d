"""What a request to a stand-in API server names, and what is kept of it for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tests.lab.apiserver_kinds import RESOURCES, Resource

READING = {True: "watch", False: "list"}
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Target(NamedTuple):
    """What a path names; `name` is "" for all of them, `namespace` for those of every namespace."""

    resource: Resource
    namespace: str
    name: str


class Request(NamedTuple):
    """A request that was received; `verb` and `resource` are "" for a path that is not of the API."""

    method: str
    path: str
    query: Mapping[str, str]
    verb: str
    resource: str
    token: str
    agent: str
    body: bytes
    at: float


def target_of(path: str) -> Target | None:
    """Return what a path of the API names."""
    for resource in RESOURCES:
        if path.startswith(resource.root + "/"):
            parts = path.removeprefix(resource.root + "/").split("/")
            namespace = ""
            if parts[0] == "namespaces" and len(parts) > 2:
                namespace, parts = parts[1], parts[2:]
            if parts[0] == resource.plural and len(parts) <= 3:
                return Target(resource, namespace, parts[1] if len(parts) > 1 else "")
    return None


def verb_of(method: str, target: Target | None, query: Mapping[str, str]) -> str:
    """Return what RBAC calls a request, "" for a path that is not of the API."""
    if target is None:
        return ""
    if method == "GET":
        return "get" if target.name else READING[query.get("watch", "") in ("1", "true")]
    return VERBS[method]
