"""The HTTP server: paths, methods, and addresses that cannot be bound."""

from __future__ import annotations

import http.client
import logging
import socket
import time
from collections.abc import Iterator

import pytest

from kpx.agent.web import Answer, WebServer

ROUTES = {"/healthz": lambda: Answer("ok\n"), "/livez": lambda: Answer('{"healthy": false}', 503, "application/json")}
LONG_S = 10.0


@pytest.fixture
def port() -> Iterator[int]:
    server = WebServer("test", ("127.0.0.1", 0), ROUTES)
    server.start()
    assert server.wait_until_bound(LONG_S)
    assert server.port is not None
    yield server.port
    server.stop()


def ask(port: int, method: str, path: str, host: str = "127.0.0.1") -> tuple[int, str, str | None]:
    connection = http.client.HTTPConnection(host, port, timeout=LONG_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode(), response.getheader("Content-Type")
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        ("GET", "/healthz", (200, "ok\n", "text/plain; charset=utf-8")),
        ("GET", "/healthz?verbose", (200, "ok\n", "text/plain; charset=utf-8")),
        ("HEAD", "/healthz", (200, "", "text/plain; charset=utf-8")),
        ("GET", "/livez", (503, '{"healthy": false}', "application/json")),
        ("GET", "/other", (404, "/other is not here; try /healthz, /livez\n", "text/plain; charset=utf-8")),
    ],
)
def test_answers(port: int, method: str, path: str, answer: tuple[int, str, str]) -> None:
    assert ask(port, method, path) == answer


def test_other_methods_are_refused(port: int) -> None:
    assert ask(port, "POST", "/healthz")[0] == 501


def test_slow_client_does_not_hold_up_others(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.send(b"GET /hea")

        assert ask(port, "GET", "/healthz")[0] == 200


def test_any_ipv6_address_takes_ipv4_too() -> None:
    server = WebServer("test", ("::", 0), ROUTES)
    server.start()
    try:
        assert server.wait_until_bound(LONG_S)
        assert server.port is not None
        assert ask(server.port, "GET", "/healthz")[0] == 200
    finally:
        server.stop()


def test_taken_address_is_said_once_and_served_as_soon_as_it_is_free(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kpx")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        server = WebServer("metrics", ("127.0.0.1", taken), ROUTES, retry_s=0.01)
        server.start()
        deadline = time.monotonic() + LONG_S
        while not caplog.records:
            assert time.monotonic() < deadline
        assert not server.wait_until_bound(0.1)
    try:
        assert server.wait_until_bound(LONG_S)
        assert ask(taken, "GET", "/healthz")[0] == 200
    finally:
        server.stop()

    assert [record.message for record in caplog.records] == ["cannot serve, trying on", "serving now"]
    fields = caplog.records[0].kpx_fields  # type: ignore[attr-defined]
    assert fields == {"server": "metrics", "address": f"127.0.0.1:{taken}", "reason": "Address already in use"}


def test_server_that_never_got_its_address_can_be_stopped() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        server = WebServer("metrics", ("127.0.0.1", other.getsockname()[1]), ROUTES, retry_s=60)
        server.start()
        server.stop()

    assert server.port is None


def test_port_is_free_once_stopped() -> None:
    server = WebServer("test", ("127.0.0.1", 0), ROUTES)
    server.start()
    assert server.wait_until_bound(LONG_S)
    assert server.port is not None
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(server.port, "GET", "/healthz")
