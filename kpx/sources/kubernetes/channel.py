"""
One HTTP/1.1 connection to the API server at a time: connect, TLS, request, answer, and the same connection for the next request.

Nothing here waits: sockets are non-blocking and in the poller, and h11 knows HTTP. Several addresses are tried in turn.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final
from typing import Protocol as Interface

import h11

from kpx.sources.kubernetes.access import Access
from kpx.sources.kubernetes.mishaps import trouble_of_connection
from kpx.sources.kubernetes.poller import READ, WRITE, Poller
from kpx.sources.kubernetes.troubles import Trouble

CONNECT_S: Final = 5.0
"""How long one address may take to connect and agree on TLS, seconds."""

TURN: Final = 1 << 20
"""Bytes read from one connection before others have their turn."""

PIECE: Final = 1 << 17
"""Bytes read at once."""

_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 45_000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
"""A server that is gone without a word is noticed within 45 s (tcp(7))."""


Place = tuple[socket.AddressFamily, tuple[str, int]]
"""What to connect to."""


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
        self._poller = poller
        self._clock = clock
        self._access: Access | None = None
        self._listener: Listener | None = None
        self._request: bytes = b""
        self._headers: list[tuple[str, str]] = []
        self._start: tuple[str, str] = ("", "")
        self._socket: socket.socket | None = None
        self._http = h11.Connection(h11.CLIENT)
        self._left: list[Place] = []
        self._trying: Place | None = None
        self._good: Place | None = None
        self._out = bytearray()
        self._connected = False
        self._secured = False
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
        self._start, self._request = (method, access.told.path + target), body
        self._headers = access.headers()
        if body:
            self._headers += [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        self._reused = self._socket is not None
        if self._reused:
            try:
                self._send_request()
            except h11.LocalProtocolError as error:
                self._failed(trouble_of_connection(error))
                return
            self._ready()
        else:
            self._left = self._in_order(access)
            self._next_address(None)

    def abandon(self) -> None:
        """Have no more to do with the request that is under way, and with its connection; idempotent."""
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
        """Return the addresses, the one that answered last time first."""
        return sorted(access.addresses(), key=lambda place: place != self._good)

    def _next_address(self, trouble: Trouble | None) -> None:
        """Begin to connect to the next address; without one left, the request has failed with the trouble of the last."""
        while self._left:
            self._trying = self._left.pop(0)
            self._http = h11.Connection(h11.CLIENT)
            self._connected = self._secured = False
            self._out.clear()
            self._give_up_at = self._clock() + CONNECT_S
            try:
                self._connect(*self._trying)
            except OSError as error:
                # No such family on this host, no route, no descriptor left.
                self._drop()
                trouble = trouble_of_connection(error)
                continue
            self._wait(WRITE)
            return
        self._end_with(trouble or Trouble("has no address"))

    def _connect(self, family: socket.AddressFamily, address: tuple[str, int]) -> None:
        """Begin to connect; raises OSError when that fails at once."""
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        for option in _KEEPALIVE:
            self._socket.setsockopt(*option)
        code = self._socket.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))

    def _wait(self, mask: int) -> None:
        if self._socket is not None:
            self._poller.watch(self._socket.fileno(), mask, self._ready)

    def _ready(self) -> None:
        """Do what can be done without waiting."""
        self._more = False
        try:
            if not self._connected:
                self._finish_connect()
            if not self._secured:
                self._socket_secured().do_handshake()
                self._opened()
            if self._out:
                self._write()
            self._read()
            self._wait(READ | WRITE if self._out else READ)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._wait(READ | WRITE if self._out and self._secured else READ)
        except ssl.SSLWantWriteError:
            self._wait(READ | WRITE)
        except (OSError, h11.ProtocolError) as error:
            self._failed(trouble_of_connection(error))

    def _finish_connect(self) -> None:
        sock, access = self._socket, self._access
        assert sock is not None
        assert access is not None
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        self._connected = True
        if access.context is None:
            self._opened()
            return
        self._poller.forget(sock.fileno())
        name = access.server_name
        try:
            self._socket = access.context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
        except ValueError as error:
            raise OSError(errno.EINVAL, f"{name!r} is not a name a certificate can have ({error})") from error
        self._wait(READ)

    def _socket_secured(self) -> ssl.SSLSocket:
        assert isinstance(self._socket, ssl.SSLSocket)
        return self._socket

    def _opened(self) -> None:
        self._secured = True
        self._good = self._trying
        self._give_up_at = None
        self._left = []
        self._send_request()

    def _send_request(self) -> None:
        """Let h11 spell the request."""
        method, target = self._start
        self._out += self._http.send(h11.Request(method=method, target=target, headers=self._headers)) or b""
        if self._request:
            self._out += self._http.send(h11.Data(data=self._request)) or b""
        self._out += self._http.send(h11.EndOfMessage()) or b""

    def _write(self) -> None:
        assert self._socket is not None
        while self._out:
            del self._out[: self._socket.send(self._out)]

    def _read(self) -> None:
        """Read until there is nothing to read, or others should have their turn."""
        sock, taken = self._socket, 0
        while sock is not None and sock is self._socket and taken < TURN:
            data = sock.recv(PIECE)
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
        self._more = taken >= TURN and self._socket is not None

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
        if self._reused and not self._heard and self._start[0] == "GET" and access is not None and self._listener is not None:
            self._reused = False
            self._left = self._in_order(access)
        self._next_address(trouble)

    def _end_with(self, trouble: Trouble) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.broken(trouble)

    def _drop(self) -> None:
        """Close the socket, if there is one."""
        self._more = False
        self._give_up_at = None
        self._connected = self._secured = False
        self._out.clear()
        sock, self._socket = self._socket, None
        if sock is not None:
            self._poller.forget(sock.fileno())
            sock.close()
        self._http = h11.Connection(h11.CLIENT)
