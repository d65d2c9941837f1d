"""The HTTP server: paths, methods, and clients that are slow, huge, broken or too many."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator

import pytest

from kpx.web.connection import MAX_HEAD_BYTES
from kpx.web.server import Answer, Handler, Request, WebServer, by_path, open_listener

ROUTES = {"/healthz": lambda: Answer("ok\n"), "/livez": lambda: Answer('{"healthy": false}', 503, "application/json")}
LONG_S = 10.0


@contextlib.contextmanager
def serving(handler: Handler, host: str = "127.0.0.1", **bounds: float) -> Iterator[int]:
    server = WebServer(**bounds)  # type: ignore[arg-type]
    opened = open_listener((host, 0), both_families=True)
    port = opened.getsockname()[1]
    server.start()
    server.add(opened, handler)
    try:
        yield port
    finally:
        server.stop()


@pytest.fixture
def port() -> Iterator[int]:
    with serving(by_path(ROUTES)) as port:
        yield port


def ask(port: int, method: str, path: str, host: str = "127.0.0.1", body: bytes | None = None) -> tuple[int, str, str | None]:
    connection = http.client.HTTPConnection(host, port, timeout=LONG_S)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read().decode(), response.getheader("Content-Type")
    finally:
        connection.close()


def said(port: int, *pieces: bytes) -> bytes:
    """Send bytes as they are and return everything that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=LONG_S) as client:
        for piece in pieces:
            client.sendall(piece)
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        ("GET", "/healthz", (200, "ok\n", "text/plain; charset=utf-8")),
        ("GET", "/healthz?verbose", (200, "ok\n", "text/plain; charset=utf-8")),
        ("HEAD", "/healthz", (200, "", "text/plain; charset=utf-8")),
        ("GET", "/livez", (503, '{"healthy": false}', "application/json")),
        ("GET", "/other", (404, "/other is not here; try /healthz, /livez\n", "text/plain; charset=utf-8")),
        ("POST", "/healthz", (405, "POST is not possible here, GET and HEAD are\n", "text/plain; charset=utf-8")),
    ],
)
def test_answers(port: int, method: str, path: str, answer: tuple[int, str, str]) -> None:
    assert ask(port, method, path) == answer


def test_every_answer_is_for_programs_only(port: int) -> None:
    """H4: no browser is to guess another type."""
    heads = said(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").split(b"\r\n\r\n")[0].lower().splitlines()

    assert heads[0] == b"http/1.1 200 ok"
    assert {b"x-content-type-options: nosniff", b"content-length: 3", b"connection: close"} <= set(heads)


def test_head_tells_the_length_it_does_not_send(port: int) -> None:
    head, body = said(port, b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n").split(b"\r\n\r\n")

    assert (b"Content-Length: 18" in head, body) == (True, b"")


def test_http_1_0_is_answered(port: int) -> None:
    assert said(port, b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nok\n")


def test_handler_sees_any_method_and_target() -> None:
    with serving(lambda request: Answer(f"{request}")) as port:
        assert ask(port, "BREW", "/a?b=c")[1] == str(Request("BREW", "/a?b=c"))


def test_body_nobody_asked_for_does_not_cost_the_answer(port: int) -> None:
    """RFC 9112, 9.6: closing on unread data resets the connection, and the client loses what it had not read."""
    assert ask(port, "POST", "/healthz", body=b"x" * 300_000)[0] == 405


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),  # a TLS hello
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 2 * MAX_HEAD_BYTES + b"\r\n\r\n", b"431"),
        (b"G" * (MAX_HEAD_BYTES + 1), b"431"),
    ],
)
def test_broken_and_huge_requests_are_refused(port: int, request_bytes: bytes, status: bytes) -> None:
    assert said(port, request_bytes).split(b" ")[1] == status
    assert ask(port, "GET", "/healthz")[0] == 200


def test_request_may_come_in_pieces(port: int) -> None:
    assert said(port, b"GET /hea", b"lthz HTTP/1.1\r\nHo", b"st: x\r\n\r\n").endswith(b"ok\n")


def test_page_that_fails_costs_one_answer(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Answer:
        raise KeyError("a mistake")

    with serving(by_path({**ROUTES, "/metrics": broken})) as port:
        assert ask(port, "GET", "/metrics")[0] == 500
        assert ask(port, "GET", "/healthz")[0] == 200
    assert "a page failed" in caplog.text


def test_slow_client_does_not_hold_up_others(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.send(b"GET /hea")

        assert ask(port, "GET", "/healthz")[0] == 200


def test_slow_client_is_dropped_in_the_end() -> None:
    """Whatever it says in between: a byte now and then buys no time."""
    with serving(by_path(ROUTES), connection_s=0.2) as port, socket.create_connection(("127.0.0.1", port), LONG_S) as slow:
        deadline = time.monotonic() + LONG_S
        with contextlib.suppress(ConnectionError):
            slow.send(b"GET /healthz HTTP/1.1\r\n")
            slow.settimeout(0.02)
            while time.monotonic() < deadline:
                slow.send(b"X")
                with contextlib.suppress(TimeoutError):
                    assert slow.recv(1) == b""
                    break
        assert time.monotonic() < deadline


def test_client_that_reads_slowly_gets_all_of_a_long_answer() -> None:
    text = "0123456789" * 200_000
    with serving(lambda _request: Answer(text)) as port:
        assert len(ask(port, "GET", "/")[1]) == len(text)


def test_of_too_many_clients_the_oldest_has_to_go() -> None:
    with serving(by_path(ROUTES), max_connections=5) as port, contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(socket.create_connection(("127.0.0.1", port), LONG_S)) for _ in range(8)]

        assert ask(port, "GET", "/healthz")[0] == 200
        assert waiting[0].recv(1) == b""
        waiting[-1].send(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert waiting[-1].recv(8) == b"HTTP/1.1"


def test_client_that_goes_away_is_forgotten(port: int) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset rather than close
            client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")

    assert ask(port, "GET", "/healthz")[0] == 200


def test_any_ipv6_address_takes_ipv4_too() -> None:
    with serving(by_path(ROUTES), "::") as port:
        assert ask(port, "GET", "/healthz")[0] == 200


def test_removed_socket_is_free_at_once_and_others_go_on() -> None:
    server = WebServer()
    one, other = (open_listener(("127.0.0.1", 0), both_families=False) for _ in range(2))
    place, port = one.getsockname(), other.getsockname()[1]
    server.start()
    try:
        server.add(one, by_path(ROUTES))
        server.add(other, by_path(ROUTES))
        assert ask(place[1], "GET", "/healthz")[0] == 200
        server.remove(one)

        open_listener(place, both_families=False).close()
        assert ask(port, "GET", "/healthz")[0] == 200
    finally:
        server.stop()


def test_port_is_free_once_stopped() -> None:
    with serving(by_path(ROUTES)) as port:
        assert ask(port, "GET", "/healthz")[0] == 200
    with pytest.raises(ConnectionRefusedError):
        ask(port, "GET", "/healthz")


def test_server_can_be_stopped_twice_and_unstarted() -> None:
    WebServer().stop()
    server = WebServer()
    server.start()
    server.stop()
    server.stop()
