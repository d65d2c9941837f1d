"""
A small HTTP server beside the loop: one thread, any number of listening sockets, a handler for each.

Load balancers and kubelets stop trusting a node whose probes go unanswered, so nothing a client does may hold up another:
sockets never block, a connection has a bounded time, a bounded request and one answer, and when there are too many the oldest
has to go. Handlers run in the thread of the server and only read.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from kpx import log
from kpx.web.connection import Answer, Connection, Handler, Request

__all__ = ["Answer", "Handler", "Place", "Request", "Routes", "WebServer", "by_path", "open_listener", "place_text"]

logger = logging.getLogger(__name__)

Place = tuple[str, int]
"""Where a socket listens: numeric IP address and port."""

Routes = Mapping[str, Callable[[], Answer]]

MAX_CONNECTIONS: Final = 200
"""More at a time, and the oldest is closed."""

CONNECTION_S: Final = 10.0
"""How long a client may take to state its request and to read the answer, seconds."""

BACKLOG: Final = 128

STOP_S: Final = 5.0
"""How long to wait for the thread to do as it is told, seconds."""

FULL_PAUSE_S: Final = 0.05
"""Pause when the process has no descriptor left, seconds."""


class Listener(NamedTuple):
    """A listening socket and who answers on it."""

    listening: socket.socket
    handler: Handler


class WebServer:
    """
    Answers on the sockets it is given, from `start` until `stop`.

    Args:
        connection_s: see `CONNECTION_S`. max_connections: see `MAX_CONNECTIONS`.
    """

    def __init__(self, connection_s: float = CONNECTION_S, max_connections: int = MAX_CONNECTIONS) -> None:
        self._connection_s = connection_s
        self._max_connections = max_connections
        self._selector = selectors.DefaultSelector()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._selector.register(self._reader, selectors.EVENT_READ)
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._listening: set[socket.socket] = set()
        self._connections: dict[Connection, float] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="kpx-web", daemon=True)

    def start(self) -> None:
        """Begin to serve, in the background."""
        self._thread.start()

    def add(self, listening: socket.socket, handler: Handler) -> None:
        """Answer on a listening socket from now on; it belongs to the server."""
        listening.setblocking(False)
        self._order(lambda: self._add(listening, handler))

    def remove(self, listening: socket.socket) -> None:
        """Close a socket that was added: once this returns its address is free. Connections in flight get their answer."""
        if not self._thread.is_alive():
            listening.close()
            return
        done = threading.Event()
        self._order(lambda: self._remove(listening, done))
        done.wait(STOP_S)

    def stop(self) -> None:
        """End serving and close everything; idempotent."""
        if self._thread.is_alive():
            self._order(self._stop)
            self._thread.join(STOP_S)
        elif self._thread.ident is None:
            self._release()

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.put(order)
        with contextlib.suppress(OSError):  # it has stopped
            self._writer.send(b"!")

    def _add(self, listening: socket.socket, handler: Handler) -> None:
        self._selector.register(listening, selectors.EVENT_READ, Listener(listening, handler))
        self._listening.add(listening)

    def _remove(self, listening: socket.socket, done: threading.Event) -> None:
        self._selector.unregister(listening)
        self._listening.discard(listening)
        listening.close()
        done.set()

    def _stop(self) -> None:
        self._stopping = True

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._step()
        finally:
            self._release()

    def _release(self) -> None:
        for listening in self._listening:
            listening.close()
        for connection in self._connections:
            connection.socket.close()
        self._selector.close()
        self._reader.close()
        self._writer.close()

    def _step(self) -> None:
        for key, events in self._selector.select(self._timeout()):
            if isinstance(key.data, Listener):
                self._accept(key.data)
            elif isinstance(key.data, Connection):
                # One that had to go since `select` returned is no longer ours.
                if key.data in self._connections:
                    self._go_on(key.data, events)
            else:
                self._obey()
        now = time.monotonic()
        for connection in [one for one, until in self._connections.items() if until <= now]:
            self._close(connection)

    def _timeout(self) -> float | None:
        """Return how long nothing needs to be done; the first connection is the oldest, so its time ends first."""
        until = next(iter(self._connections.values()), None)
        return None if until is None else max(0.0, until - time.monotonic())

    def _obey(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)
        with contextlib.suppress(queue.Empty):
            while True:
                self._orders.get_nowait()()

    def _accept(self, listener: Listener) -> None:
        try:
            accepted, _ = listener.listening.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:  # no descriptor left: one of ours may go, and the client waits in the queue
            log.event(logger, logging.DEBUG, "cannot accept", error=error)
            self._close_oldest()
            time.sleep(FULL_PAUSE_S)
            return
        if len(self._connections) >= self._max_connections:
            self._close_oldest()
        accepted.setblocking(False)
        connection = Connection(accepted, listener.handler)
        self._connections[connection] = time.monotonic() + self._connection_s
        self._selector.register(accepted, selectors.EVENT_READ, connection)

    def _go_on(self, connection: Connection, events: int) -> None:
        wanted = connection.go_on(events)
        if not wanted:
            self._close(connection)
        elif wanted != self._selector.get_key(connection.socket).events:
            self._selector.modify(connection.socket, wanted, connection)

    def _close_oldest(self) -> None:
        oldest = next(iter(self._connections), None)
        if oldest is not None:
            self._close(oldest)

    def _close(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
        del self._connections[connection]


def by_path(routes: Routes) -> Handler:
    """Return the handler that answers GET and HEAD of fixed paths; a query is allowed and ignored."""

    def answer(request: Request) -> Answer:
        path = request.target.partition("?")[0]
        if path not in routes:
            return Answer(f"{path} is not here; try {', '.join(sorted(routes))}\n", 404)
        if request.method not in ("GET", "HEAD"):
            return Answer(f"{request.method} is not possible here, GET and HEAD are\n", 405, headers=(("Allow", "GET, HEAD"),))
        return routes[path]()

    return answer


def open_listener(place: Place, both_families: bool) -> socket.socket:
    """
    Listen on an address.

    Args:
        both_families: the IPv6 wildcard takes IPv4 too, as Go's net package does for kube-proxy.

    Raises:
        OSError: it cannot be done.
    """
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both_families)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(place)
        opened.listen(BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened


def place_text(place: Place) -> str:
    """Return `ip:port`, or `[ip]:port`."""
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
