"""
What a stand-in API server says: lists, watch events and Status bodies, as recorded (tests/data/apiserver-1.36).

A unit test compares these with the recordings; what no recording shows is worded as the sources of Kubernetes 1.36 do.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from tests.lab.apiserver_kinds import Manifest, Resource, Stored
from tests.lab.apiserver_store import Key

REASONS: Final = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "AlreadyExists",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Refusal(Exception):
    """
    A request is answered with a Status.

    Args:
        details: of the Status. retry_after_s: header and detail of that name. metadata: of the Status.
    """

    def __init__(
        self,
        code: int,
        message: str,
        details: Mapping[str, Any] | None = None,
        retry_after_s: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s
        self._details = dict(details or {})
        self._metadata = dict(metadata or {})

    def status(self) -> Manifest:
        """Return the body."""
        details = self._details | ({"retryAfterSeconds": self.retry_after_s} if self.retry_after_s else {})
        body = {"kind": "Status", "apiVersion": "v1", "metadata": self._metadata, "status": "Failure", "message": str(self)}
        body |= {"reason": REASONS.get(self.code, "InternalError")} | ({"details": details} if details else {})
        return body | {"code": self.code}

    def event(self) -> Manifest:
        """Return it as it comes inside a watch."""
        return {"type": "ERROR", "object": self.status()}


def unauthorized() -> Refusal:
    """Nobody knows the credentials."""
    return Refusal(401, "Unauthorized")


def forbidden(user: str, verb: str, resource: Resource, namespace: str = "", name: str = "") -> Refusal:
    """The user may not do this."""
    scope = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    which = _full_name(resource) + (f' "{name}"' if name else "")
    what = f'resource "{resource.plural}" in API group "{resource.group}" {scope}'
    message = f'{which} is forbidden: User "{user}" cannot {verb} {what}'
    return Refusal(403, message, ({"name": name} if name else {}) | _kind_details(resource))


def not_found(resource: Resource, name: str) -> Refusal:
    """There is no such object."""
    return Refusal(404, f'{_full_name(resource)} "{name}" not found', {"name": name} | _kind_details(resource))


def already_exists(resource: Resource, name: str) -> Refusal:
    """An object of this name is there."""
    return Refusal(409, f'{_full_name(resource)} "{name}" already exists', {"name": name} | _kind_details(resource))


def too_old(asked: int, oldest: int) -> Refusal:
    """A watch is to begin before what is remembered; comes inside the stream."""
    return Refusal(410, f"too old resource version: {asked} ({oldest})")


def too_old_continue(token: str) -> Refusal:
    """The rest of a list is no longer remembered; the token leads to a rest of another moment."""
    message = (
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the "
        "continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing "
        "with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the "
        "time the first chunk was returned and now may show up in the list."
    )
    return Refusal(410, message, metadata={"continue": token})


def too_large(asked: int, current: int) -> Refusal:
    """The client has heard of a revision that is yet to come here."""
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return Refusal(504, f"Timeout: Too large resource version: {asked}, current: {current}", {"causes": causes}, retry_after_s=1)


def no_watch_list() -> Refusal:
    """WatchList without support in etcd; comes inside the stream."""
    text = "a watch stream was requested by the client but the required storage feature RequestWatchProgress is disabled"
    return Refusal(500, text)


def watch_list_invalid(message: str) -> Refusal:
    """The options of a watch do not fit together, or WatchList is switched off."""
    causes = [{"reason": "FieldValueForbidden", "message": f"Forbidden: {message}", "field": "sendInitialEvents"}]
    details = {"group": "meta.k8s.io", "kind": "ListOptions", "causes": causes}
    return Refusal(422, f'ListOptions.meta.k8s.io "" is invalid: sendInitialEvents: Forbidden: {message}', details)


def listed(resource: Resource, revision: int, items: list[Stored], following: str = "", remaining: int = 0) -> Manifest:
    """Return a list; items are without their kind, as recorded."""
    metadata: Manifest = {"resourceVersion": str(revision)}
    metadata |= {"continue": following} if following else {}
    metadata |= {"remainingItemCount": remaining} if remaining else {}
    return {
        "kind": f"{resource.kind}List",
        "apiVersion": resource.api_version,
        "metadata": metadata,
        "items": [msgspec.Raw(one.raw) for one in items],
    }


def bookmark(resource: Resource, revision: int, *, ends_initial_events: bool = False) -> Manifest:
    """Return a bookmark: the zero value of its kind with a resourceVersion."""
    metadata: Manifest = {"resourceVersion": str(revision)}
    if ends_initial_events:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    found = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata, **resource.blank}
    return {"type": "BOOKMARK", "object": found}


class Continuation(NamedTuple):
    """Where the next page of a list begins, and as of which revision; -1 for the present one."""

    revision: int
    after: Key

    def token(self, namespace: str) -> str:
        """Return it as a client sends it back; in a list of one namespace the names go without it."""
        start = self.after[1] if namespace or not self.after[0] else "/".join(self.after)
        said = {"v": "meta.k8s.io/v1", "rv": self.revision, "start": f"{start}\0"}
        return base64.urlsafe_b64encode(json.dumps(said, separators=(",", ":")).encode()).decode().rstrip("=")


def continuation(token: str, namespace: str) -> Continuation:
    """Read a continue token; raises Refusal."""
    try:
        said = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        revision, start = int(said["rv"]), str(said["start"]).rstrip("\0")
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise Refusal(400, f"invalid continue token: continue key is not valid: {error}") from error
    where, _, name = start.rpartition("/")
    return Continuation(revision, (where or namespace, name))


def _kind_details(resource: Resource) -> Manifest:
    return ({"group": resource.group} if resource.group else {}) | {"kind": resource.plural}


def _full_name(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural
