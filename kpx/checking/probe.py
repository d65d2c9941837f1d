"""
One question to one endpoint: does it take a TCP connection, does it answer a GET well.

A probe is a socket that never blocks and a step to go on with whenever it is ready; who waits for it, and how long, is its
owner's affair. It ends with a reset (SO_LINGER 0) and not with a handshake: a thousand checks a second would otherwise leave
60,000 sockets in TIME_WAIT here and 120,000 entries in the connection table, which reset connections leave after ten seconds.

Certificates are not verified: the question is whether the endpoint lives, and it is asked by an address no certificate names.
"""

from __future__ import annotations

import errno
import functools
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kpx.checking.state import Target
from kpx.model.addresses import format_address
from kpx.model.health_check import CheckKind

if TYPE_CHECKING:
    import ssl

OURS: Final = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.EAGAIN, errno.EADDRINUSE)
)
"""Errors that say something of this host and nothing of the endpoint (connect(2), socket(2))."""

STATUS_LINE_BYTES: Final = 1024
"""So long the first line of an answer may be."""

GOOD: Final = range(200, 400)
"""Status codes of endpoints that are well."""

_WRITE: Final = select.EPOLLOUT
_READ: Final = select.EPOLLIN
_RESET: Final = struct.pack("ii", 1, 0)


class Probe:
    """
    One question; `step` goes on with it.

    Attributes:
        events: what to wait for, EPOLLIN or EPOLLOUT.
        answer: None while it is open, "" when the endpoint passed, else what was wrong.

    Raises:
        OSError: this host cannot ask at present, which says nothing of the endpoint.
    """

    __slots__ = ("_received", "_rest", "_socket", "_stage", "_target", "answer", "events")

    def __init__(self, target: Target) -> None:
        self.answer: str | None = None
        self.events = _WRITE
        self._target = target
        self._rest = b""
        self._received = b""
        self._stage: Callable[[], bool] = self._connected
        family = socket.AF_INET if len(target.address) == 4 else socket.AF_INET6
        self._socket: socket.socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            code = self._socket.connect_ex((format_address(target.address), target.port))
            if code in OURS:
                raise OSError(code, os.strerror(code))
        except OSError:
            self._socket.close()
            raise
        if code not in (0, errno.EINPROGRESS):
            self.answer = _words(code)

    def fileno(self) -> int:
        """Return the socket's descriptor; it stays the same."""
        return self._socket.fileno()

    def step(self) -> None:
        """Go on as far as it goes without waiting."""
        try:
            while self.answer is None and self._stage():
                pass
        except BlockingIOError:
            pass
        except OSError as error:
            self.answer = self._trouble(error)

    def close(self) -> None:
        """End it; idempotent."""
        self._socket.close()

    # Each stage tells whether the next one can go on at once.

    def _connected(self) -> bool:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        check = self._target.check
        if code or check.kind is CheckKind.TCP:
            self.answer = _words(code) if code else ""
            return False
        self._rest = request(self._target)
        self._stage = self._sending
        if check.kind is CheckKind.HTTPS:
            # Servers choose a certificate, and often a site, by this name; an address cannot be one (RFC 6066, section 3).
            name = check.host.partition(":")[0]
            self._socket = _tls().wrap_socket(self._socket, do_handshake_on_connect=False, server_hostname=name or None)
            self._stage = self._shaking_hands
        return True

    def _shaking_hands(self) -> bool:
        self._socket.do_handshake()  # type: ignore[attr-defined] # an SSLSocket by now
        self._stage = self._sending
        return True

    def _sending(self) -> bool:
        self.events = _WRITE
        self._rest = self._rest[self._socket.send(self._rest) :]
        if not self._rest:
            self.events = _READ
            self._stage = self._reading
        return True

    def _reading(self) -> bool:
        data = self._socket.recv(STATUS_LINE_BYTES)
        self._received += data
        line, end, _ = self._received.partition(b"\r\n")
        if end or not data or len(self._received) >= STATUS_LINE_BYTES:
            self.answer = judge(line if end else self._received)
        return True

    def _trouble(self, error: OSError) -> str | None:
        """Return what is wrong; None when TLS only wants to wait for something."""
        if self._target.check.kind is CheckKind.HTTPS:
            import ssl

            if isinstance(error, ssl.SSLWantReadError | ssl.SSLWantWriteError):
                self.events = _READ if isinstance(error, ssl.SSLWantReadError) else _WRITE
                return None
            if isinstance(error, ssl.SSLError):
                return f"TLS: {(error.reason or 'failed').lower().replace('_', ' ')}"
        return _words(error.errno)


def request(target: Target) -> bytes:
    """Return the request an endpoint is sent."""
    host = target.check.host
    if not host:
        address = format_address(target.address)
        host = f"[{address}]:{target.port}" if ":" in address else f"{address}:{target.port}"
    lines = (f"GET {target.check.path} HTTP/1.1", f"Host: {host}", "User-Agent: kpx", "Accept: */*", "Connection: close", "", "")
    return "\r\n".join(lines).encode("ascii")


def judge(line: bytes) -> str:
    """Return what is wrong with an answer, by its first line; "" when it is good."""
    if not line:
        return "the connection was closed without an answer"
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not (len(words[1]) == 3 and words[1].isdigit()):
        return "the answer is not HTTP"
    return "" if int(words[1]) in GOOD else f"HTTP status {words[1].decode()}"


def _words(code: int | None) -> str:
    return os.strerror(code).lower() if code else "failed"


@functools.cache
def _tls() -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
