"""Bytes to and from one address over TCP, with TLS where it is asked for; nothing here waits, for the socket is in the poller."""

from __future__ import annotations

import enum
import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final

from kpx.sources.kubernetes.access import Access
from kpx.sources.kubernetes.poller import READ, WRITE, Poller

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


class _Stage(enum.Enum):
    CLOSED = "closed"
    CONNECTING = "connecting"
    SECURING = "securing"
    OPEN = "open"


class Link:
    """
    One connection at a time; a new one takes the place of the former.

    Args:
        poller: where its socket is waited for.
        ready: called when there may be something to do: then `go_on`, `flush`, and `receive` until there is nothing.
    """

    def __init__(self, poller: Poller, ready: Callable[[], None]) -> None:
        self._poller = poller
        self._ready = ready
        self._socket: socket.socket | None = None
        self._access: Access | None = None
        self._stage = _Stage.CLOSED
        self._out = bytearray()

    @property
    def is_closed(self) -> bool:
        """Tell whether there is no connection, nor one in the making."""
        return self._stage is _Stage.CLOSED

    @property
    def is_open(self) -> bool:
        """Tell whether bytes can be sent."""
        return self._stage is _Stage.OPEN

    def begin(self, access: Access, place: Place) -> None:
        """
        Begin to connect.

        Raises:
            OSError: that fails at once: no such family on this host, no route, no descriptor left.
        """
        self.close()
        family, address = place
        self._access = access
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        for option in _KEEPALIVE:
            self._socket.setsockopt(*option)
        code = self._socket.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        self._stage = _Stage.CONNECTING
        self._wait(WRITE)

    def go_on(self) -> bool:
        """
        Go on with connecting; return whether bytes can be sent.

        Raises:
            OSError: there will be no connection.
        """
        if self._stage is _Stage.CONNECTING:
            self._finish_connect()
        if self._stage is _Stage.SECURING:
            self._shake_hands()
        return self.is_open

    def send(self, data: bytes) -> None:
        """Take bytes to be sent, and send what can be; the rest follows with `flush`."""
        self._out += data
        self.flush()

    def flush(self) -> None:
        """Send what can be sent; raises OSError when the connection is broken."""
        mask = READ
        try:
            while self._out:
                del self._out[: self._opened().send(self._out)]
        except (BlockingIOError, ssl.SSLWantWriteError):
            mask |= WRITE
        except ssl.SSLWantReadError:
            pass
        self._wait(mask)

    def receive(self, most: int) -> bytes | None:
        """Return what came in, b"" at the end of the connection, None when there is nothing; raises OSError when it is broken."""
        try:
            return self._opened().recv(most)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:
            self._wait(READ | WRITE)
            return None

    def close(self) -> None:
        """Close the socket, if there is one; idempotent."""
        self._stage = _Stage.CLOSED
        self._out.clear()
        sock, self._socket = self._socket, None
        if sock is not None:
            self._poller.forget(sock.fileno())
            sock.close()

    def _opened(self) -> socket.socket:
        if self._socket is None or not self.is_open:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._socket

    def _wait(self, mask: int) -> None:
        if self._socket is not None:
            self._poller.watch(self._socket.fileno(), mask, self._ready)

    def _finish_connect(self) -> None:
        sock, access = self._socket, self._access
        assert sock is not None
        assert access is not None
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        if access.context is None:
            self._stage = _Stage.OPEN
            self._wait(READ)
            return
        self._poller.forget(sock.fileno())
        name = access.server_name
        try:
            self._socket = access.context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
        except ValueError as error:
            raise OSError(errno.EINVAL, f"{name!r} is not a name a certificate can have ({error})") from error
        self._stage = _Stage.SECURING

    def _shake_hands(self) -> None:
        assert isinstance(self._socket, ssl.SSLSocket)
        try:
            self._socket.do_handshake()
        except ssl.SSLWantReadError:
            self._wait(READ)
        except ssl.SSLWantWriteError:
            self._wait(READ | WRITE)
        else:
            self._stage = _Stage.OPEN
            self._wait(READ)
