"""Watches of a stand-in API server: a stream of changes, bookmarks and, when it is over, an end."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from tests.lab import apiserver_answers as answers
from tests.lab.apiserver_answers import Refusal
from tests.lab.apiserver_kinds import Manifest, Resource
from tests.lab.apiserver_selectors import Selector
from tests.lab.apiserver_store import Change, Store, Watch, told_of

if TYPE_CHECKING:
    from tests.lab.apiserver import ApiServer

LOOK_S = 0.1
"""How often an idle watch looks whether its client is still there, seconds."""
SENT_AT_ONCE = 64
"""Lines in one write, at most."""


class Gone(Exception):
    """The connection is of no use any more."""


class Stream:
    """
    An answer without an end, in chunks.

    Args:
        connection: to see whether the client is there. write: sends bytes. closing: tells whether the server goes down.
    """

    def __init__(self, connection: socket.socket, write: Callable[[bytes], object], closing: Callable[[], bool]) -> None:
        self._connection = connection
        self._write = write
        self._closing = closing

    def say(self, event: Manifest) -> None:
        """Send one event."""
        self.lines([_line(event)])

    def lines(self, lines: list[bytes]) -> None:
        """Send lines, each in a chunk of its own, as a server does that flushes after each."""
        for begin in range(0, len(lines), SENT_AT_ONCE):
            some = lines[begin : begin + SENT_AT_ONCE]
            self._write(b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in some))

    def end(self) -> None:
        """End the answer; the connection goes on."""
        self._write(b"0\r\n\r\n")

    def check(self) -> None:
        """Raise Gone when the server goes down or the client has closed; it has nothing to say in the middle of an answer."""
        if self._closing() or select.select([self._connection], [], [], 0)[0]:
            raise Gone

    def wait_for_the_end(self, store: Store) -> None:
        """Say nothing until somebody closes the connection; raises Gone then."""
        with store.changed:
            while True:
                self.check()
                store.changed.wait(LOOK_S)


def watch(api: ApiServer, resource: Resource, query: Mapping[str, str], selector: Selector, begin: Callable[[], Stream]) -> None:
    """
    Answer a watch until its time is over.

    Args:
        begin: sends the head of the answer.

    Raises:
        Refusal: it is refused as a whole. Gone: the connection ended before.
    """
    asked = query.get("resourceVersion", "")
    since = int(asked) if asked.isdecimal() and asked != "0" else None
    bookmarks = _is_set(query, "allowWatchBookmarks")
    initial = _is_set(query, "sendInitialEvents") and api.watch_list != "ignored"
    if initial:
        _check_watch_list(api.watch_list, query, bookmarks)
    with api.store.changed:
        refusal = _refusal(api, since, initial)
        first = [] if refusal or (since is not None and not initial) else _existing(api.store, resource, selector)
        if initial:
            first.append(_line(answers.bookmark(resource, api.store.revision, ends_initial_events=True)))
        under_way = api.store.watch(resource, None if initial or refusal else since)
    stream = begin()
    try:
        if refusal:
            stream.say(refusal.event())
            stream.end()
        else:
            stream.lines(first)
            _follow(api, stream, under_way, selector, float(query.get("timeoutSeconds", api.longest_watch_s)), bookmarks)
    finally:
        api.store.unwatch(under_way)


def _is_set(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "") in ("1", "true")


def _refusal(api: ApiServer, since: int | None, initial: bool) -> Refusal | None:
    """Return what is wrong that is said inside the stream."""
    if initial:
        return answers.no_watch_list() if api.watch_list == "failing" else None
    return answers.too_old(since, api.store.compacted) if since is not None and since < api.store.compacted else None


def _existing(store: Store, resource: Resource, selector: Selector) -> list[bytes]:
    return [told_of("ADDED", resource, found) for _, found in store.objects(resource, store.revision) if selector(found)]


def _follow(api: ApiServer, stream: Stream, under_way: Watch, selector: Selector, timeout_s: float, bookmarks: bool) -> None:
    """Tell of changes until the time is over."""
    end = time.monotonic() + timeout_s
    mark_at = time.monotonic() + api.bookmark_s
    while True:
        changes, revision = _next_changes(api.store, stream, under_way, min(end, mark_at))
        seen = (change if isinstance(change, bytes) else change.seen_by(selector) for change in changes)
        stream.lines([line for line in seen if line is not None])
        now = time.monotonic()
        if under_way.muted:
            continue
        if bookmarks and now >= min(end, mark_at):
            stream.say(answers.bookmark(under_way.resource, revision))
            mark_at = now + api.bookmark_s
        if now >= end:
            stream.end()
            return


def _next_changes(store: Store, stream: Stream, under_way: Watch, until: float) -> tuple[list[Change | bytes], int]:
    """Wait for changes, at most until then; return them and the revision they lead to. A muted watch waits for ever."""
    with store.changed:
        while True:
            left = until - time.monotonic()
            if not under_way.muted and (under_way.changes or left <= 0):
                changes = list(under_way.changes)
                under_way.changes.clear()
                return changes, store.revision
            if under_way.cut_when_told:
                raise Gone
            stream.check()
            store.changed.wait(LOOK_S if under_way.muted else min(LOOK_S, left))


def _line(event: Manifest) -> bytes:
    return msgspec.json.encode(event) + b"\n"


def _check_watch_list(mode: str, query: Mapping[str, str], bookmarks: bool) -> None:
    """Refuse a WatchList that the server has switched off, or that is not asked for as it must be."""
    if mode == "refused":
        raise answers.watch_list_invalid("sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled")
    if query.get("resourceVersionMatch") != "NotOlderThan":
        raise answers.watch_list_invalid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
    if not bookmarks:
        raise answers.watch_list_invalid("sendInitialEvents requires allowWatchBookmarks")
