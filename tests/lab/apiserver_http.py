"""
The HTTP side of a stand-in API server: one connection, its requests, and what is answered.

Each connection has a thread, which waits in a watch until there is something to say, the client goes, or the server ends.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import time
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from tests.lab import apiserver_answers as answers
from tests.lab.apiserver_answers import Refusal
from tests.lab.apiserver_faults import Fault
from tests.lab.apiserver_kinds import Manifest
from tests.lab.apiserver_listing import page_of
from tests.lab.apiserver_requests import Request, Target, target_of, verb_of
from tests.lab.apiserver_selectors import BadSelector, Selector, selector_of
from tests.lab.apiserver_store import typed
from tests.lab.apiserver_watching import Gone, Stream, watch
from tests.lab.apiserver_writing import WRITERS

if TYPE_CHECKING:
    from tests.lab.apiserver import ApiServer


class Listener(http.server.ThreadingHTTPServer):
    """The listening socket, from one start to the next stop."""

    daemon_threads = True

    def __init__(self, api: ApiServer, address: tuple[str, int], context: ssl.SSLContext | None) -> None:
        self.api = api
        self.closing = False
        self._context = context
        self._connections: set[socket.socket] = set()
        super().__init__(address, Connection)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; the handshake is for the connection's own thread."""
        connection, peer = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._connections.add(connection)
        self.api.connections += 1
        return connection, peer

    def verify_request(self, request: object, client_address: object) -> bool:
        """Refuse connections that are to be dropped."""
        return not self.api.faults.dropping()

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that has ended."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away or does not trust us is an everyday thing."""

    def cut(self) -> None:
        """Cut all connections."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                # Not the TLS goodbye: whoever pulls the plug says none.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


class Connection(http.server.BaseHTTPRequestHandler):
    """One client's connection."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    server: Listener

    def setup(self) -> None:
        """Shake hands."""
        if isinstance(self.request, ssl.SSLSocket):
            self.request.settimeout(self.timeout)
            self.request.do_handshake()
        super().setup()

    def do_GET(self) -> None:
        """Answer a request of any method."""
        try:
            self._answer()
        except (OSError, Gone):
            self.close_connection = True

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 (http.server's names)

    def _answer(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = target_of(url.path)
        verb = verb_of(self.command, target, query)
        # As a real server, which takes the scheme in any case: the kubernetes package writes "bearer" for a service account.
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        which = target.resource.plural if target else ""
        agent = self.headers.get("User-Agent", "")
        request = Request(self.command, url.path, query, verb, which, token, agent, body, time.monotonic())
        self.server.api.note(request)
        try:
            user = self.server.api.access.user_of(token, self._certificate_name())
            fault = self.server.api.faults.take(verb, which)
            if fault is not None and self._fail(fault):
                return
            self._dispatch(target, request, user, fault)
        except Refusal as refusal:
            self._send(refusal.code, refusal.status(), refusal)

    def _dispatch(self, target: Target | None, request: Request, user: str, fault: Fault | None) -> None:
        api = self.server.api
        if target is None or target.resource.plural in api.missing_kinds:
            self._send_plain(request.path)
            return
        api.access.check(user, request.verb, target.resource, target.namespace, target.name)
        if request.verb in ("list", "watch"):
            try:
                selector = self._selector(target, request.query)
            except BadSelector as error:
                raise Refusal(400, str(error)) from error
            if request.verb == "watch":
                watch(api, target.resource, request.query, selector, self._begin_stream)
            else:
                self._send(200, page_of(api.store, target.resource, target.namespace, request.query, selector), fault=fault)
        elif request.verb == "get":
            found = api.store.find(target.resource, (target.namespace, target.name))
            if found is None:
                raise answers.not_found(target.resource, target.name)
            self._send(200, typed(target.resource, found), fault=fault)
        else:
            code, found = WRITERS[request.verb](
                api.store, target.resource, target.namespace, target.name, request.body, self.headers.get("Content-Type", "")
            )
            self._send(code, found)

    def _certificate_name(self) -> str:
        """Return the common name of the client's certificate, "" without one."""
        found = self.request.getpeercert() if isinstance(self.request, ssl.SSLSocket) else None
        subject = dict(pair for part in (found or {}).get("subject", ()) for pair in part)
        return str(subject.get("commonName", ""))

    def _selector(self, target: Target, query: Mapping[str, str]) -> Selector:
        selector = selector_of(target.resource, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        if not target.namespace:
            return selector
        return lambda found: found["metadata"].get("namespace") == target.namespace and selector(found)

    def _fail(self, fault: Fault) -> bool:
        """Let go wrong what was ordered; False when the request is to be answered all the same."""
        if fault.stall:
            self._stream().wait_for_the_end(self.server.api.store)
        if fault.as_event:
            stream = self._begin_stream()
            stream.say(fault.refusal().event())
            stream.end()
        elif fault.body is not None:
            self._send_bytes(200, fault.body, "text/html", {})
        elif fault.code:
            raise fault.refusal()
        else:
            return False
        return True

    # Whole answers

    def _send(self, code: int, body: Manifest, refusal: Refusal | None = None, fault: Fault | None = None) -> None:
        # A real server indents for people, whom it knows by their User-Agent.
        pretty = self.headers.get("User-Agent", "").startswith(("curl/", "Wget/", "Mozilla/"))
        data = msgspec.json.encode(body)
        data = json.dumps(json.loads(data), indent=2).encode() if pretty else data + b"\n"
        headers = {"Cache-Control": "no-cache, private"}
        if code == 403:
            headers["X-Content-Type-Options"] = "nosniff"
        if refusal is not None and refusal.retry_after_s is not None:
            headers["Retry-After"] = str(refusal.retry_after_s)
        self._send_bytes(code, data, "application/json", headers, cut=fault is not None and fault.cut)

    def _send_plain(self, path: str) -> None:
        """Answer paths that are no resource."""
        if path == "/version":
            self._send(200, {"major": "1", "minor": "36", "gitVersion": "v1.36.0", "platform": "linux/amd64"})
        elif path in ("/readyz", "/livez", "/healthz"):
            self._send_bytes(200, b"ok", "text/plain; charset=utf-8", {})
        else:
            self._send_bytes(404, b"404 page not found\n", "text/plain; charset=utf-8", {"X-Content-Type-Options": "nosniff"})

    def _send_bytes(self, code: int, data: bytes, kind: str, headers: Mapping[str, str], cut: bool = False) -> None:
        self._send_head(code, kind, {**headers, "Content-Length": str(len(data))})
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            raise Gone

    def _send_head(self, code: int, kind: str, headers: Mapping[str, str]) -> None:
        self.log_request(code)
        self.send_response_only(code, HTTPStatus(code).phrase)
        flow = {} if code == 401 else {"X-Kubernetes-Pf-Flowschema-Uid": UID, "X-Kubernetes-Pf-Prioritylevel-Uid": UID}
        for name, value in ({"Audit-Id": str(uuid.uuid4()), "Content-Type": kind} | flow | dict(headers)).items():
            self.send_header(name, value)
        self.send_header("Date", self.date_time_string())
        self.end_headers()

    def _begin_stream(self) -> Stream:
        self._send_head(200, "application/json", {"Cache-Control": "no-cache, private", "Transfer-Encoding": "chunked"})
        return self._stream()

    def _stream(self) -> Stream:
        return Stream(self.connection, self.wfile.write, lambda: self.server.closing)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name is http.server's)
        """Keep quiet: tests ask for the requests."""


UID = "48e6eb55-bd4d-47d3-9576-cd6455da70a1"
"""Of the flow schema and priority level; real ones differ, and nobody reads them."""
