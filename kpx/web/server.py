"""
A small HTTP server beside the loop: fixed paths, GET and HEAD, in threads of its own that only read.

An address that cannot be bound is no reason to stop forwarding: it is said, and tried again every few seconds (15.1).
"""

from __future__ import annotations

import http.server
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from kpx import log

logger = logging.getLogger(__name__)

BIND_RETRY_S: Final = 5.0
REQUEST_TIMEOUT_S: Final = 10.0
"""How long a client may take to state its request, seconds."""


class Answer(NamedTuple):
    """What is sent back."""

    body: str
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"


Routes = Mapping[str, Callable[[], Answer]]


class WebServer:
    """
    Serves `routes` from `start` until `stop`.

    Args:
        name: what is served, for the log.
        address: numeric IP address and port; port 0 takes a free one.
        routes: path -> what to answer; called from other threads, so it must be safe there.
        retry_s: pause between attempts to bind, seconds.
    """

    def __init__(self, name: str, address: tuple[str, int], routes: Routes, retry_s: float = BIND_RETRY_S) -> None:
        self.port: int | None = None
        self._name = name
        self._address = address
        self._routes = routes
        self._retry_s = retry_s
        self._stopping = threading.Event()
        self._bound = threading.Event()
        self._server: _Server | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"kpx-{name}", daemon=True)

    def start(self) -> None:
        """Begin to serve, in the background."""
        self._thread.start()

    def wait_until_bound(self, timeout_s: float) -> bool:
        """Wait until requests are accepted; False when that took too long."""
        return self._bound.wait(timeout_s)

    def stop(self) -> None:
        """End serving and free the port; idempotent."""
        self._stopping.set()
        with self._lock:
            server = self._server
        if server is not None:
            server.shutdown()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        server = self._bind()
        if server is None:
            return
        with server:
            with self._lock:
                self._server = server
            self.port = server.server_address[1]
            self._bound.set()
            # `stop` may have come before it could see the server; then there is nothing to shut down.
            if not self._stopping.is_set():
                server.serve_forever(poll_interval=0.2)
            with self._lock:
                self._server = None

    def _bind(self) -> _Server | None:
        complaint = ""
        while not self._stopping.is_set():
            try:
                server = _Server(self._address, self._routes)
            except OSError as error:
                if str(error) != complaint:
                    complaint = str(error)
                    reason = os.strerror(error.errno or 0)
                    log.event(logger, logging.ERROR, "cannot serve, trying on", **self._where(), reason=reason)
                self._stopping.wait(self._retry_s)
                continue
            if complaint:
                log.event(logger, logging.INFO, "serving now", **self._where())
            return server
        return None

    def _where(self) -> dict[str, object]:
        host, port = self._address
        return {"server": self._name, "address": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}


class _Server(http.server.ThreadingHTTPServer):
    """The listening socket; an IPv6 wildcard takes IPv4 too, as Go's net package does for kube-proxy."""

    daemon_threads = True
    # Threads die with the process; waiting for a slow client would hold up the end of the agent.
    block_on_close = False

    def __init__(self, address: tuple[str, int], routes: Routes) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.routes = routes
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without asking a name server who we are."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Note a client that went away at debug level, not as a traceback on stderr."""
        log.event(logger, logging.DEBUG, "request failed", client=client_address, error=sys.exception())


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server: _Server
    server_version = "kpx"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        route = self.server.routes.get(path)
        answer = route() if route else Answer(f"{path} is not here; try {', '.join(sorted(self.server.routes))}\n", 404)
        body = answer.body.encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name is http.server's)
        """Keep quiet: probes come every few seconds and are counted."""
