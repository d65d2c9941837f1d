"""
One HTTP connection: a request, an answer, the end (RFC 9112). It never waits; `WebServer` says when it can go on.

What a client states beyond the head of its request is not looked at, and thrown away up to a limit, since a socket closed with
unread data takes the answer along (RFC 9112, section 9.6).
"""

from __future__ import annotations

import http
import logging
import selectors
import socket
from collections.abc import Callable
from typing import Final, NamedTuple

import h11

from kpx import log

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 16 * 1024
"""How much of a request line and headers is gathered before they are complete; more is answered with 431."""

MAX_DISCARDED_BYTES: Final = 1024 * 1024
"""How much of a body nobody asked for is read."""

_PIECE: Final = 8 * 1024


class Request(NamedTuple):
    """What a client asks for: a method in capitals, and the target as it wrote it."""

    method: str
    target: str


class Answer(NamedTuple):
    """What is sent back; `headers` come on top of those that every answer has."""

    body: str
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Answer]


class Connection:
    """
    A connection.

    Args:
        accepted: its socket, not blocking; whoever accepted it closes it.
        handler: asked once.

    Attributes:
        socket: `accepted`.
    """

    def __init__(self, accepted: socket.socket, handler: Handler) -> None:
        self.socket = accepted
        self._handler = handler
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._unsent = memoryview(b"")
        self._answered = False
        self._discarded = 0
        self._ended = False

    def go_on(self, events: int) -> int:
        """Do what the socket is ready for; return the events to wait for next, 0 when the connection is over."""
        try:
            if events & selectors.EVENT_READ and not self._read():
                return 0
            if self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
                if not self._unsent:
                    self.socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            return 0
        return (0 if self._ended else selectors.EVENT_READ) | (selectors.EVENT_WRITE if self._unsent else 0)

    def _read(self) -> bool:
        """Take in what came; False when nothing more is to be done."""
        data = self.socket.recv(_PIECE)
        self._ended = not data  # Whoever stops talking may still read.
        if self._answered:
            self._discarded += len(data)
            return self._discarded <= MAX_DISCARDED_BYTES
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            self._send(Answer(f"{error}\n", error.error_status_hint), with_body=True)
            return True
        if isinstance(event, h11.Request):
            request = Request(event.method.decode("ascii"), event.target.decode("ascii"))
            self._send(self._answer(request), with_body=request.method != "HEAD")
            return True
        return event is h11.NEED_DATA

    def _answer(self, request: Request) -> Answer:
        """Let the handler answer; when it cannot, that is one answer lost and not the thread that gives all of them."""
        try:
            return self._handler(request)
        except Exception as error:  # noqa: BLE001  a mistake in one page must not end the health checks
            log.event(logger, logging.ERROR, "a page failed", page=request.target, error=repr(error))
            return Answer("this page failed; the log of the agent says how\n", 500)

    def _send(self, answer: Answer, *, with_body: bool) -> None:
        body = answer.body.encode()
        headers = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(body))),
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
            *answer.headers,
        ]
        reason = http.HTTPStatus(answer.status).phrase
        parts = [self._http.send(h11.Response(status_code=answer.status, headers=headers, reason=reason))]
        if with_body:
            parts.append(self._http.send(h11.Data(data=body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        self._unsent = memoryview(b"".join(part for part in parts if part))
        self._answered = True
