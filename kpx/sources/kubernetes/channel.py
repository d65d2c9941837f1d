"""
HTTP/1.1 to the API server, one request at a time: over the connection of the last one where it is still there, else a new one.

Nothing here waits: h11 knows HTTP and `link` moves the bytes. Several addresses are tried in turn.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Final
from typing import Protocol as Interface

import h11

from kpx.sources.kubernetes.access import Access
from kpx.sources.kubernetes.link import Link, Place
from kpx.sources.kubernetes.mishaps import trouble_of_connection
from kpx.sources.kubernetes.poller import Poller
from kpx.sources.kubernetes.troubles import Trouble

CONNECT_S: Final = 5.0
"""How long one address may take to connect and agree on TLS, seconds."""

TURN: Final = 1 << 20
"""Bytes read from one connection before others have their turn."""

PIECE: Final = 1 << 17
"""Bytes read at once."""


class Listener(Interface):
    """Who asked; told of the answer to one request."""

    def head(self, status: int, retry_after: str) -> None:
        """Take in the status."""

    def body(self, data: bytes) -> None:
        """Take in a piece of the body."""

    def end(self) -> None:
        """Take in that the answer is complete."""

    def broken(self, trouble: Trouble) -> None:
        """Take in that there will be no answer, or no more of it."""


class Channel:
    """
    A connection that is made when it is needed.

    Args:
        poller: where its sockets are waited for.
        clock: monotonic seconds.
    """

    def __init__(self, poller: Poller, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._link = Link(poller, self._ready)
        self._access: Access | None = None
        self._listener: Listener | None = None
        self._method = self._target = ""
        self._headers: list[tuple[str, str]] = []
        self._body: bytes = b""
        self._http = h11.Connection(h11.CLIENT)
        self._left: list[Place] = []
        self._place: Place | None = None
        self._good: Place | None = None
        self._silent: Place | None = None
        self._give_up_at: float | None = None
        self._reused = False
        self._heard = False
        self._more = False

    @property
    def busy(self) -> bool:
        """Tell whether a request is under way."""
        return self._listener is not None

    def ask(
        self, access: Access, method: str, target: str, listener: Listener, body: bytes = b"", content_type: str = ""
    ) -> None:
        """
        Send a request; `listener` is told of the answer, at once when there will be none, else by `Poller.dispatch` and `tick`.

        Args:
            access: another one than last time makes another connection.
        """
        if self._access != access:
            self._drop()
            self._access = access
        self._listener, self._heard = listener, False
        self._method, self._target, self._body = method, access.told.path + target, body
        self._headers = access.headers()
        if body:
            self._headers += [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        self._reused = self._link.is_open
        if not self._reused:
            self._left = self._in_order(access)
            self._next_address(None)
            return
        try:
            self._send_request()
        except (OSError, h11.ProtocolError) as error:
            self._failed(trouble_of_connection(error))

    def abandon(self) -> None:
        """Have no more to do with the request that is under way, and with its connection; idempotent."""
        if self._listener is not None and not self._heard:
            # It was open and did not answer; another one may.
            self._silent = self._good
        self._listener = None
        self._drop()

    def wake_at(self) -> float | None:
        """Return when `tick` has something to do, monotonic seconds; long ago when more can be read at once."""
        return float("-inf") if self._more else self._give_up_at

    def tick(self) -> None:
        """Go on where there is more to read, or try the next address where one takes too long."""
        if self._more:
            self._ready()
        elif self._give_up_at is not None and self._clock() >= self._give_up_at:
            self._failed(Trouble(f"does not answer within {CONNECT_S:.0f} s", unreachable=True))

    def _in_order(self, access: Access) -> list[Place]:
        """Return the addresses: first the one that answered last time, last the one that did not."""
        return sorted(access.addresses(), key=lambda place: (place == self._silent, place != self._good))

    def _next_address(self, trouble: Trouble | None) -> None:
        """Begin to connect to the next address; without one left, the request has failed with the trouble of the last."""
        while self._left:
            self._place = self._left.pop(0)
            self._give_up_at = self._clock() + CONNECT_S
            assert self._access is not None
            try:
                self._link.begin(self._access, self._place)
            except OSError as error:
                self._drop()
                trouble = trouble_of_connection(error)
                continue
            return
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.broken(trouble or Trouble("has no address"))

    def _ready(self) -> None:
        """Do what can be done without waiting."""
        self._more = False
        try:
            if self._link.is_open:
                self._link.flush()
            elif self._link.go_on():
                self._good, self._give_up_at, self._left = self._place, None, []
                self._send_request()
            if self._link.is_open:
                self._read()
        except (OSError, h11.ProtocolError) as error:
            self._failed(trouble_of_connection(error))

    def _send_request(self) -> None:
        """Let h11 spell the request."""
        data = self._http.send(h11.Request(method=self._method, target=self._target, headers=self._headers)) or b""
        if self._body:
            data += self._http.send(h11.Data(data=self._body)) or b""
        self._link.send(data + (self._http.send(h11.EndOfMessage()) or b""))

    def _read(self) -> None:
        """Read until there is nothing to read, or others should have their turn."""
        http, taken = self._http, 0
        while taken < TURN:
            data = self._link.receive(PIECE)
            if data is None:
                return
            taken += len(data)
            if self._listener is None:
                # Nothing was asked for, so this is the end of an idle connection.
                self._drop()
                return
            self._heard = self._heard or bool(data)
            self._http.receive_data(data)
            if not data:
                self._closed()
                return
            self._tell()
            if self._link.is_closed or self._http is not http:
                return
        self._more = True

    def _closed(self) -> None:
        """Take in that the server closed the connection, which is how an answer without a length ends."""
        try:
            self._tell()
        except h11.RemoteProtocolError as error:
            raise ConnectionResetError(errno.ECONNRESET, "") from error
        if self._listener is not None:
            raise ConnectionResetError(errno.ECONNRESET, "")
        self._drop()

    def _tell(self) -> None:
        """Pass on what h11 makes of the bytes."""
        while (listener := self._listener) is not None:
            event = self._http.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.Response):
                self._silent = None if self._silent == self._place else self._silent
                retry_after = next((value for name, value in event.headers if name == b"retry-after"), b"")
                listener.head(event.status_code, retry_after.decode("ascii", "replace"))
            elif isinstance(event, h11.Data):
                listener.body(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._listener = None
                self._be_idle()
                listener.end()
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionResetError(errno.ECONNRESET, "")

    def _be_idle(self) -> None:
        """Keep the connection for the next request where both sides may."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            self._drop()

    def _failed(self, trouble: Trouble) -> None:
        """Try the next address, or a new connection in the place of an old one that was closed meanwhile; else give up."""
        access = self._access
        self._drop()
        if self._reused and not self._heard and self._method == "GET" and access is not None and self._listener is not None:
            self._reused = False
            self._left = self._in_order(access)
        self._next_address(trouble)

    def _drop(self) -> None:
        """Close the connection, if there is one."""
        self._more = False
        self._give_up_at = None
        self._link.close()
        self._http = h11.Connection(h11.CLIENT)
