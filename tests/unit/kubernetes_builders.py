"""Talks with the list and watch machine: what a server says, in a line each, and what was recorded of a real one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from kpx.cluster.events import Event, Upsert
from kpx.sources.kubernetes.kinds import kinds_for
from kpx.sources.kubernetes.machine import ListWatch
from kpx.sources.kubernetes.troubles import Trouble
from kpx.sources.kubernetes.vigil import SETTLED_S

RECORDED = Path(__file__).parents[1] / "data" / "apiserver-1.36"
SERVICES, SLICES, NODES, CIDRS = kinds_for("n1")
CUT = Trouble("closed the connection")
REFUSED = Trouble("refuses connections", unreachable=True)


class Talk:
    """A machine and the clock it is told."""

    def __init__(self, kind=SERVICES) -> None:
        self.machine = ListWatch(kind)
        self.now = 1000.0
        self.target = ""

    def ask(self) -> dict[str, str]:
        """Let the time come for the next request, and return its query."""
        self.now = max(self.now, self.machine.wake_at() or 0.0)
        request = self.machine.begin(self.now, 0.5)
        assert request is not None
        self.target = request.target
        return {key: values[0] for key, values in parse_qs(urlsplit(request.target).query).items()}

    def answer(self, body: bytes, status: int = 200, retry_after: str = "") -> list[Event]:
        """Answer the request as a whole."""
        self.machine.head(status, retry_after, self.now)
        events = self.machine.body(body, self.now, 0.5)
        return events + self.machine.end(self.now, 0.5)

    def open(self) -> None:
        """Begin to answer 200."""
        self.machine.head(200, "", self.now)

    def say(self, *lines: object) -> list[Event]:
        """Send lines of a stream."""
        texts = [line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines]
        return self.machine.body(b"".join(texts), self.now, 0.5)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.machine.tick(self.now, 0.5)

    def paused_s(self) -> float:
        """Return for how long the next request waits."""
        assert self.machine.request is None
        return (self.machine.wake_at() or 0.0) - self.now

    def held(self) -> list[str]:
        return sorted(value.name.name for value in self.machine.holdings.objects())


def recorded(name: str) -> bytes:
    """Return a recording without its response head."""
    data = (RECORDED / name).read_bytes()
    return data.partition(b"\r\n\r\n")[2] if name.endswith(".http") else data


def service(name: str, version: int = 0, ip: str = "10.96.0.1") -> dict[str, object]:
    metadata = {"name": name, "namespace": "shop"} | ({"resourceVersion": str(version)} if version else {})
    spec = {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "protocol": "TCP"}]}
    return {"kind": "Service", "apiVersion": "v1", "metadata": metadata, "spec": spec}


def page(*items: object, version: str = "100", token: str = "", kind: str = "Service") -> bytes:
    metadata = {"resourceVersion": version} | ({"continue": token} if token else {})
    return json.dumps({"kind": f"{kind}List", "apiVersion": "v1", "metadata": metadata, "items": list(items)}).encode()


def event(kind: str, name: str, version: int, ip: str = "10.96.0.1") -> dict[str, object]:
    return {"type": kind, "object": service(name, version, ip)}


def bookmark(version: int, end: bool = False) -> dict[str, object]:
    metadata: dict[str, object] = {"resourceVersion": str(version)}
    if end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    return {"type": "BOOKMARK", "object": {"kind": "Service", "apiVersion": "v1", "metadata": metadata}}


def error(code: int, reason: str = "", message: str = "no") -> dict[str, object]:
    return {"type": "ERROR", "object": {"kind": "Status", "code": code, "reason": reason, "message": message}}


def names(events: Iterable[Event]) -> list[str]:
    """Return what happened, briefly."""
    return [("+" + e.object.name.name) if isinstance(e, Upsert) else ("-" + e.name.name) for e in events]  # type: ignore[union-attr]


def listed(talk: Talk, *items: str, version: str = "100") -> Talk:
    """Bring a talk to its first watch by the way of lists."""
    talk.ask()
    talk.answer(b'{"kind":"Status","code":422,"message":"sendInitialEvents is forbidden"}', 422)
    talk.ask()
    talk.answer(page(*(service(name) for name in items), version=version))
    return talk


def watching_talk() -> Talk:
    """Return a talk that has listed `a` and `b` and watches."""
    talk = listed(Talk(), "a", "b")
    assert talk.ask()["resourceVersion"] == "100"
    talk.open()
    talk.pass_time(SETTLED_S)
    return talk
