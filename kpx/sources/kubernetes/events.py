"""
Posting of events (events.k8s.io/v1) over the source's client, one after the other.

Whatever goes wrong here is one finding and nothing else: what cannot be posted is given up after some tries, and what there is no
room for is left out. An event names its object by uid, without which `kubectl describe` does not show it; the uid is
looked up with the verb the source has anyway (list), so posting needs no right beside `create` and `patch` on events.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

import msgspec

from kpx.model.announcement import About, Announcement, Occurrences
from kpx.sources.kubernetes.client import Client
from kpx.sources.kubernetes.kinds import kinds_for

API: Final = "events.k8s.io/v1"
CONTROLLER: Final = "kpx"
"""Who reports, as `kubectl describe` shows it."""

LONGEST_QUEUE: Final = 64
RETRY_S: Final = 10.0
ATTEMPTS: Final = 12
"""As client-go's event recorder: so many tries, so long apart, seconds."""

MERGE_PATCH: Final = "application/merge-patch+json"

LONGEST_REASON: Final = 300
"""Characters of what the server says that are passed on."""

_NOT_THAT: Final = (ValueError, LookupError, TypeError, RecursionError)
"""What is raised where an answer is no JSON, or of another shape than it should be."""

_KINDS: Final = {kind.name: kind for kind in kinds_for("")}


class _Posting:
    """One event on its way."""

    def __init__(self, what: Announcement, occurrences: Occurrences) -> None:
        self.what = what
        self.occurrences = occurrences
        self.uid = ""
        self.patch = occurrences.times > 1
        self.attempts = 0


class EventPoster:
    """
    Implements `kpx.agent.announcing.Announcer`.

    Args:
        client: returns the client of the source in use, another one after a reload; None while there is none.
        node_name: who reports.
        clock: monotonic seconds.

    Attributes:
        trouble: why the last event could not be posted, "" when it could.
    """

    def __init__(self, client: Callable[[], Client | None], node_name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.trouble = ""
        self._client = client
        self._node_name = node_name
        self._clock = clock
        self._queue: deque[_Posting] = deque()
        self._now_posting: _Posting | None = None
        self._used: Client | None = None
        self._not_before = float("-inf")

    @property
    def idle(self) -> bool:
        """Tell whether nothing waits and nothing is on its way."""
        return self._now_posting is None and not self._queue

    def announce(self, what: Announcement, occurrences: Occurrences) -> None:
        """Take an event to be posted; see `Announcer`."""
        if len(self._queue) < LONGEST_QUEUE:
            self._queue.append(_Posting(what, occurrences))

    def deadline(self) -> float | None:
        """Return when `act` has something to do, monotonic seconds, or None."""
        if not self._queue or self._now_posting is not None or self._client() is None:
            return None
        return self._not_before

    def act(self, now: float) -> None:
        """Begin with the next event."""
        client = self._client()
        if self._now_posting is not None and client is not self._used:
            # The source was replaced, and its client answers nothing any more.
            self._queue.appendleft(self._now_posting)
            self._now_posting = None
        if client is None or self._now_posting is not None or not self._queue or now < self._not_before:
            return
        self._used = client
        self._now_posting = self._queue.popleft()
        self._send(client, self._now_posting)

    def _send(self, client: Client, posting: _Posting) -> None:
        """Send the request that is next for an event: its count, the uid of its object, or the event."""
        about = posting.what.about
        if posting.patch:
            path = f"{_path(about)}/{event_name(posting.what, posting.occurrences, self._node_name)}"
            body = msgspec.json.encode({"series": _series(posting.occurrences)})
            client.send("PATCH", path, body, lambda *answer: self._patched(posting, *answer), MERGE_PATCH)
        elif not posting.uid and about.kind in _KINDS:
            client.send("GET", _lookup(about), b"", lambda *answer: self._looked_up(posting, *answer))
        else:
            self._post(client, posting)

    def _post(self, client: Client, posting: _Posting) -> None:
        body = msgspec.json.encode(event(posting.what, posting.occurrences, self._node_name, posting.uid))
        client.send("POST", _path(posting.what.about), body, lambda *answer: self._posted(posting, *answer))

    def _patched(self, posting: _Posting, status: int, body: bytes) -> None:
        if status == 404:  # its time was over, so it begins anew
            posting.patch = False
            self._go_on(posting)
        else:
            self._done(posting, status, body)

    def _looked_up(self, posting: _Posting, status: int, body: bytes) -> None:
        if status != 200:
            self._done(posting, status, body)
            return
        try:
            items = json.loads(body)["items"] or []
            posting.uid = str(items[0]["metadata"]["uid"]) if items else ""
        except _NOT_THAT:
            self._done(posting, 0, b"an answer that is no list")
            return
        if posting.uid or posting.what.about.kind == "Node":
            # kubelet and kube-proxy name a Node by its name, and `kubectl describe node` looks for either.
            posting.uid = posting.uid or posting.what.about.name.name
            self._go_on(posting)
        else:
            self._now_posting = None  # the object is gone, and nobody will look at its events

    def _go_on(self, posting: _Posting) -> None:
        client = self._client()
        if client is not None and client is self._used and self._now_posting is posting:
            self._send(client, posting)

    def _posted(self, posting: _Posting, status: int, body: bytes) -> None:
        # 409: another node, or this one before it was started again, has said so already.
        self._done(posting, 201 if status == 409 else status, body)

    def _done(self, posting: _Posting, status: int, body: bytes) -> None:
        """Take in how it ended; what may go better later is tried again."""
        if self._now_posting is not posting:
            return
        self._now_posting = None
        if 200 <= status < 300:
            self.trouble = ""
            return
        self.trouble = _trouble(status, body)
        posting.attempts += 1
        if (status in (0, 401, 429) or status >= 500) and posting.attempts < ATTEMPTS:
            self._queue.appendleft(posting)
            self._not_before = self._clock() + RETRY_S


def event_name(what: Announcement, occurrences: Occurrences, node_name: str) -> str:
    """Return the name of an event: the same on all nodes when it is shared, else of this node and this beginning."""
    told = [*what.about, what.reason, what.note]
    told += [] if what.shared else [node_name, repr(occurrences.first_at)]
    return f"{what.about.name.name[:200]}.{hashlib.blake2b(repr(told).encode(), digest_size=8).hexdigest()}"


def event(what: Announcement, occurrences: Occurrences, node_name: str, uid: str) -> dict[str, Any]:
    """Return an Event as it is posted; fields: https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/."""
    kind = _KINDS.get(what.about.kind)
    namespace, name = what.about.name
    regarding = {"kind": what.about.kind, "name": name}
    if kind is not None:
        regarding["apiVersion"] = f"{kind.group}/{kind.version}" if kind.group else kind.version
    regarding |= {"namespace": namespace} if namespace else {}
    regarding |= {"uid": uid} if uid else {}
    whole: dict[str, Any] = {
        "apiVersion": API,
        "kind": "Event",
        "metadata": {"name": event_name(what, occurrences, node_name), "namespace": namespace or "default"},
        "eventTime": _time(occurrences.first_at),
        "reportingController": CONTROLLER,
        "reportingInstance": node_name[:128],
        "action": what.action,
        "reason": what.reason,
        "type": "Warning" if what.warning else "Normal",
        "note": what.note,
        "regarding": regarding,
    }
    return whole | ({"series": _series(occurrences)} if occurrences.times > 1 else {})


def _series(occurrences: Occurrences) -> dict[str, Any]:
    return {"count": occurrences.times, "lastObservedTime": _time(occurrences.last_at)}


def _time(at: float) -> str:
    """Return seconds since the epoch as a MicroTime."""
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _path(about: About) -> str:
    return f"/apis/{API}/namespaces/{quote(about.name.namespace or 'default', safe='')}/events"


def _lookup(about: About) -> str:
    """Return the path of a list of one object."""
    kind = _KINDS[about.kind]
    namespace, name = about.name
    root, _, resource = kind.path.rpartition("/")
    where = f"{root}/namespaces/{quote(namespace, safe='')}/{resource}" if namespace else kind.path
    return f"{where}?fieldSelector={quote(f'metadata.name={name}', safe='')}&limit=1"


def _trouble(status: int, body: bytes) -> str:
    """Return in words why an event was not taken."""
    if status == 0:
        return body.decode(errors="replace")
    try:
        message = " ".join(str(json.loads(body)["message"]).split())[:LONGEST_REASON]
    except _NOT_THAT:
        message = "no reason given"
    hint = "; grant create and patch on events as the ClusterRole in deploy/ does" if status == 403 else ""
    return f"the API server answers {status}: {message}{hint}"
