"""
However the server fails and however its bytes are cut, what is held ends as what the server holds.

The server here is a model: objects with versions, a history that may be forgotten or rolled back, and every way to say no.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kpx.cluster.events import Delete, Event, Upsert
from kpx.sources.kubernetes.kinds import kinds_for
from kpx.sources.kubernetes.machine import ListWatch
from kpx.sources.kubernetes.position import LONG_OUTAGE_S
from kpx.sources.kubernetes.troubles import Trouble

NAMES = ("a", "b", "c", "d", "e")
PAGE = 2
CHANCE = st.floats(0, 0.999)
CHANCE_OF_SERVER = 0.5


def service(name: str, port: int, version: int) -> dict[str, object]:
    metadata = {"name": name, "namespace": "shop", "resourceVersion": str(version)}
    return {"kind": "Service", "metadata": metadata, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]}}


class Server:
    """Objects and their history, as far as a list or watch can tell."""

    def __init__(self) -> None:
        self.version = 10
        self.objects: dict[str, int] = {}
        self.history: list[tuple[int, str, str, int]] = []
        self.forgotten = 0
        self.past: list[tuple[int, dict[str, int]]] = []
        self.watchlist = True

    def put(self, name: str, port: int | None) -> None:
        if port is None and name not in self.objects:
            return
        self.past.append((self.version, dict(self.objects)))
        self.version += 1
        if port is None:
            self.history.append((self.version, "DELETED", name, self.objects.pop(name)))
        else:
            self.history.append((self.version, "MODIFIED" if name in self.objects else "ADDED", name, port))
            self.objects[name] = port

    def forget(self) -> None:
        self.forgotten = self.version
        self.history.clear()

    def restore(self, steps: int) -> None:
        if self.past:
            self.version, self.objects = self.past[max(0, len(self.past) - steps)]
            self.objects = dict(self.objects)
            self.past = [(version, objects) for version, objects in self.past if version < self.version]
            self.history.clear()
            self.forgotten = self.version

    def answer(self, target: str) -> tuple[int, bytes, bool]:
        """Return status, body so far, and whether it is a stream that goes on."""
        query = {key: values[0] for key, values in parse_qs(urlsplit(target).query).items()}
        if "watch" not in query:
            return self._list(query)
        if "sendInitialEvents" in query:
            if not self.watchlist:
                return 422, b'{"kind":"Status","code":422}', False
            lines = [line("ADDED", service(name, port, self.version)) for name, port in self.objects.items()]
            return 200, b"".join([*lines, self.bookmark(end=True)]), True
        since = int(query["resourceVersion"])
        if since < self.forgotten:
            return 200, line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"}), False
        return 200, self.since(since), True

    def since(self, version: int) -> bytes:
        return b"".join(line(kind, service(name, port, at)) for at, kind, name, port in self.history if at > version)

    def bookmark(self, end: bool = False) -> bytes:
        metadata = {"resourceVersion": str(self.version)} | (
            {"annotations": {"k8s.io/initial-events-end": "true"}} if end else {}
        )
        return line("BOOKMARK", {"kind": "Service", "metadata": metadata})

    def _list(self, query: dict[str, str]) -> tuple[int, bytes, bool]:
        names = sorted(self.objects)
        begin, version = 0, self.version
        if "continue" in query:
            begin, version = (int(part) for part in query["continue"].split("-"))
            # A snapshot that differs from what is now stands for one the server has forgotten.
            if version != self.version:
                return 410, b'{"kind":"Status","code":410}', False
        end = begin + (1 if query["limit"] == "1" else PAGE)
        metadata = {"resourceVersion": str(version)} | ({"continue": f"{end}-{version}"} if end < len(names) else {})
        items = [service(name, self.objects[name], version) for name in names[begin:end]]
        return 200, json.dumps({"kind": "ServiceList", "metadata": metadata, "items": items}).encode(), False


def line(kind: str, about: dict[str, object]) -> bytes:
    return json.dumps({"type": kind, "object": about}).encode() + b"\n"


class ListWatchHistory(RuleBasedStateMachine):
    """Anything may happen, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.server = Server()
        self.machine = ListWatch(kinds_for("n1")[0])
        self.pending = b""
        self.streaming = False
        self.seen = 0
        self.folded: dict[str, int] = {}

    @initialize(watchlist=st.booleans(), ports=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 9)))
    def begin(self, watchlist: bool, ports: dict[str, int]) -> None:
        self.server.watchlist = watchlist
        for name, port in ports.items():
            self.server.put(name, port)

    @rule(name=st.sampled_from(NAMES), port=st.one_of(st.none(), st.integers(1, 9)))
    def change(self, name: str, port: int | None) -> None:
        self.server.put(name, port)
        self._stream(lambda: self.server.since(self.seen))

    @rule()
    def say_bookmark(self) -> None:
        self._stream(self.server.bookmark)

    @rule()
    def forget(self) -> None:
        self.server.forget()

    @rule(steps=st.integers(1, 3))
    def restore(self, steps: int) -> None:
        """Restore a backup: connections break with it, and the server is away for as long as that takes."""
        self.server.restore(steps)
        self._cut()
        if self.machine.request is None:
            self._ask(CHANCE_OF_SERVER)
            self._cut()
        self.now += LONG_OUTAGE_S

    @rule(steps=st.integers(1, 3), in_good_order=st.booleans())
    def restore_quickly(self, steps: int, in_good_order: bool) -> None:
        """Restore a backup so fast that nothing is written before all are back; watches may be ended before the server goes."""
        if in_good_order and self.machine.request is not None and self.streaming:
            while self.pending:
                self._deliver(1 << 20)
            self.streaming = False
            self._fold(self.machine.end(self.now, CHANCE_OF_SERVER))
        self.server.restore(steps)
        self._cut()
        self.be_well()

    @rule(watchlist=st.booleans())
    def upgrade(self, watchlist: bool) -> None:
        self.server.watchlist = watchlist
        self._cut()

    @precondition(lambda self: self.machine.request is None)
    @rule(chance=CHANCE)
    def ask(self, chance: float) -> None:
        self._ask(chance)

    @precondition(lambda self: self.pending)
    @rule(size=st.integers(1, 400))
    def deliver(self, size: int) -> None:
        self._deliver(size)

    @precondition(lambda self: self.machine.request is not None)
    @rule()
    def break_connection(self) -> None:
        self._cut()

    @precondition(lambda self: self.machine.request is not None)
    @rule(code=st.sampled_from((400, 401, 403, 404, 410, 429, 500, 503, 504)))
    def refuse(self, code: int) -> None:
        """Answer no in the place of what was to come."""
        self.pending, self.streaming = b"", False
        self.machine.head(code, "1" if code == 429 else "", self.now)
        self._fold(self.machine.end(self.now, CHANCE_OF_SERVER))

    @precondition(lambda self: self.machine.request is not None and self.streaming)
    @rule(code=st.sampled_from((410, 500, 504)))
    def refuse_in_stream(self, code: int) -> None:
        self.pending += line("ERROR", {"kind": "Status", "code": code})
        self.streaming = False

    @rule(seconds=st.floats(0, 1000))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.machine.tick(self.now, CHANCE_OF_SERVER)
        self._forget_if_over()

    @rule()
    def be_well(self) -> None:
        """Let nothing go wrong until the machine watches."""
        for _ in range(60):
            self.now = max(self.now, self.machine.wake_at() or 0.0)
            self.machine.tick(self.now, CHANCE_OF_SERVER)
            self._forget_if_over()
            if self.machine.request is None:
                self._ask(CHANCE_OF_SERVER)
            while self.pending:
                self._deliver(1 << 20)
            if self.streaming and self.machine.resource_version == str(self.server.version):
                break

    @invariant()
    def held_is_folded(self) -> None:
        """The events tell exactly what is held."""
        held = {value.name.name: value.ports[0].port for value in self.machine.holdings.objects()}  # type: ignore[union-attr]
        assert held == self.folded

    def teardown(self) -> None:
        """Let the server be well for a while: then what is held is what it holds."""
        self._cut()
        self.be_well()
        assert self.machine.complete
        assert self.folded == self.server.objects

    def _ask(self, chance: float) -> None:
        self.now = max(self.now, self.machine.wake_at() or 0.0)
        request = self.machine.begin(self.now, chance)
        assert request is not None
        status, self.pending, self.streaming = self.server.answer(request.target)
        self.seen = self.server.version
        self.machine.head(status, "", self.now)
        if not self.pending and not self.streaming:
            self._fold(self.machine.end(self.now, CHANCE_OF_SERVER))

    def _deliver(self, size: int) -> None:
        piece, self.pending = self.pending[:size], self.pending[size:]
        self._fold(self.machine.body(piece, self.now, CHANCE_OF_SERVER))
        if not self.pending and not self.streaming:
            self._fold(self.machine.end(self.now, CHANCE_OF_SERVER))
        self._forget_if_over()

    def _stream(self, said: Callable[[], bytes]) -> None:
        if self.machine.request is not None and self.streaming:
            self.pending += said()
            self.seen = self.server.version

    def _cut(self) -> None:
        self.pending, self.streaming = b"", False
        self.machine.broken(Trouble("closed the connection"), self.now, CHANCE_OF_SERVER)

    def _forget_if_over(self) -> None:
        if self.machine.request is None:
            self.pending, self.streaming = b"", False

    def _fold(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Upsert):
                self.folded[event.object.name.name] = event.object.ports[0].port  # type: ignore[union-attr]
            elif isinstance(event, Delete):
                del self.folded[event.name.name]


TestListWatchHistory = ListWatchHistory.TestCase
TestListWatchHistory.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)
