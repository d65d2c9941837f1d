"""
One request of a case to a health-check node port: who asks, and what must be answered (tests/cases/README.md, `http`).

Asked over real links like every flow; how long it may take to become true is the caller's choice, for the agent tells of
endpoints a moment after their rows are in force (H8).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.lab.flows import Expected, Row, endpoint_name
from tests.lab.http_client import Response, ask
from tests.lab.netns import PATIENCE, Namespace

ANSWER_S = 2.0 * PATIENCE
STRANGERS = {
    "external": {4: "203.0.113.250", 6: "2001:db8:250::1"},
    "pod": {4: "10.255.255.250", 6: "fd00:250::1"},
    "node": {4: "", 6: ""},
}
"""Who asks when the case has no flow of such a kind; "" lets the kernel choose."""


class Request(NamedTuple):
    """
    One request.

    Args:
        kind: pod, node or external.
        expected: `status`, `json` and `headers` that the answer must have, or `refused`: nobody listens.
    """

    kind: str
    source: str
    address: str
    port: int
    path: str
    expected: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.kind} {self.source} asks {endpoint_name(self.address, self.port)}{self.path}"

    def row(self) -> Row:
        """The request as a flow: so the lab knows the client, and keeps its own servers away from the port."""
        return Row(str(self), self.kind, self.source, self.address, "TCP", self.port, Expected("accept"))


def request_from_case(part: Mapping[str, Any], rows: list[Row]) -> Request:
    """Read a request; it comes from whoever of its kind asks flows of that family in `rows`, else from a stranger."""
    url = urlsplit(part["url"])
    assert url.scheme == "http", f"{part['url']}: only http is spoken"
    assert url.hostname, f"{part['url']}: no address"
    assert url.port, f"{part['url']}: no port"
    kind, version = part["from"], 6 if ":" in url.hostname else 4
    askers = [row.source for row in rows if row.kind == kind and (":" in row.source) == (version == 6)]
    source = askers[0] if askers else STRANGERS[kind][version]
    return Request(kind, source, url.hostname, url.port, url.path or "/", part["expect"])


def complaint(namespace: Namespace, request: Request, within_s: float) -> str:
    """Ask until the answer is as expected or the time is over; return "" or what was wrong the last time."""
    deadline = time.monotonic() + within_s
    while True:
        wrong = _wrong(request, answer(namespace, request))
        if not wrong or time.monotonic() >= deadline:
            return f"{request}: {wrong}" if wrong else ""
        time.sleep(0.01)


def answer(namespace: Namespace, request: Request) -> Response | OSError:
    """Ask once."""
    with namespace.entered():
        try:
            return ask((request.address, request.port), request.path, source=request.source, timeout_s=ANSWER_S)
        except OSError as error:
            return error


def _wrong(request: Request, answered: Response | OSError) -> str:
    expected = request.expected
    if expected.get("refused"):
        return "" if isinstance(answered, ConnectionRefusedError) else f"must be refused, but {answered}"
    if isinstance(answered, OSError):
        return f"expected an answer, but {answered}"
    if answered.status != expected["status"]:
        return f"expected {expected['status']}, but {answered}"
    if "json" in expected and answered.json != expected["json"]:
        return f"expected {expected['json']}, but {answered.body}"
    wanted = {name.lower(): value for name, value in expected.get("headers", {}).items()}
    if differing := {name for name, value in wanted.items() if answered.headers.get(name) != value}:
        return f"headers {', '.join(sorted(differing))} are {answered.headers}"
    return ""
