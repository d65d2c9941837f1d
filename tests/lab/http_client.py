"""Asking the web server as a probe would: one request, one answer, all of it."""

from __future__ import annotations

import http.client
import json
from typing import Any, NamedTuple

LONG_S = 10.0


class Response(NamedTuple):
    """What came back; header names in small letters."""

    status: int
    body: str
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def ask(
    place: tuple[str, int],
    path: str = "/",
    method: str = "GET",
    body: bytes | None = None,
    source: str = "",
    timeout_s: float = LONG_S,
) -> Response:
    """Ask over a connection of its own; "" lets the kernel choose the source."""
    connection = http.client.HTTPConnection(*place, timeout=timeout_s, source_address=(source, 0) if source else None)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Response(response.status, response.read().decode(), headers)
    finally:
        connection.close()
