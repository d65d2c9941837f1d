"""One machine and one channel together: what of an answer reaches the machine, and what whoever knows the way is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from kubernetes_builders import SERVICES, bookmark, names, service
from kubernetes_peer import Clock, Peer

from kpx.sources.kubernetes.access import Access
from kpx.sources.kubernetes.feed import Feed
from kpx.sources.kubernetes.poller import Poller
from kpx.sources.kubernetes.troubles import Trouble
from kpx.sources.kubernetes.vigil import SILENCE_S

OPEN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Told:
    """Access that is known and stays what it is; implements `kpx.sources.kubernetes.finder.AccessSource`."""

    trouble: Trouble | None = None

    def __init__(self, access: Access) -> None:
        self._access = access
        self.refusals = 0
        self.absences = 0

    def current(self, now: float) -> Access | None:
        return self._access

    def refused(self, now: float) -> None:
        self.refusals += 1

    def unreachable(self, now: float) -> None:
        self.absences += 1

    def wake_at(self) -> float | None:
        return None

    def close(self) -> None:
        """There is nothing to close."""


class Fed:
    """A feed, its peer, and a clock."""

    def __init__(self, stack: ExitStack) -> None:
        self.poller = Poller()
        stack.callback(self.poller.close)
        self.peer = stack.enter_context(Peer(self.poller))
        self.access = Told(self.peer.access())
        self.clock = Clock()
        self.feed = Feed(SERVICES, self.poller, self.access, lambda: 0.5, self.clock)
        stack.callback(self.feed.close)

    def advance(self) -> None:
        """Let the time come for what is next."""
        self.clock.ahead_s += max(0.0, (self.feed.wake_at() or 0.0) - self.clock())
        self.feed.advance(self.clock())


@pytest.fixture
def fed() -> Iterator[Fed]:
    with ExitStack() as stack:
        yield Fed(stack)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def refusal(code: int) -> bytes:
    return b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\n{}" % code


def test_events_come_out_as_lines_come_in(fed: Fed) -> None:
    fed.advance()
    sock = fed.peer.accept()
    assert b"sendInitialEvents=true" in fed.peer.request(sock)
    about = service("a", 5)
    about["metadata"]["annotations"] = {"note": "größer"}  # type: ignore[index]
    line = json.dumps({"type": "ADDED", "object": about}, ensure_ascii=False).encode() + b"\n"
    half = line.index("ö".encode()) + 1
    sock.sendall(OPEN + chunk(line[:half]))
    fed.peer.until(lambda: fed.feed.machine.heard_at is not None)
    assert fed.feed.take() == []
    sock.sendall(chunk(line[half:]) + chunk(json.dumps(bookmark(9, end=True)).encode() + b"\n"))
    fed.peer.until(lambda: fed.feed.machine.complete)
    assert names(fed.feed.take()) == ["+a"]
    assert fed.feed.take() == []


def test_refused_credentials_are_reported_once_for_each_refusal(fed: Fed) -> None:
    fed.advance()
    sock = fed.peer.accept()
    for count in (1, 2):
        fed.peer.request(sock)
        sock.sendall(refusal(401))
        fed.peer.until(lambda: fed.feed.machine.request is None)
        assert fed.access.refusals == count
        assert (fed.feed.wake_at() or 0.0) > fed.clock()
        fed.advance()


def test_other_refusals_are_no_matter_of_credentials(fed: Fed) -> None:
    fed.advance()
    sock = fed.peer.accept()
    for code in (403, 500, 429):
        fed.peer.request(sock)
        sock.sendall(refusal(code))
        fed.peer.until(lambda: fed.feed.machine.request is None)
        fed.advance()
    assert fed.access.refusals == 0


def test_connection_that_breaks_is_no_reason_to_look_the_name_up_again(fed: Fed) -> None:
    fed.advance()
    sock = fed.peer.accept()
    fed.peer.request(sock)
    sock.close()
    fed.peer.until(lambda: fed.feed.machine.request is None)
    assert fed.access.absences == 0


def test_connection_that_is_refused_is_one(fed: Fed) -> None:
    fed.peer.__exit__()
    fed.advance()
    fed.peer.until(lambda: fed.feed.machine.request is None)
    assert fed.access.absences == 1


def test_answer_that_stalls_is_dropped_with_its_connection(fed: Fed) -> None:
    fed.advance()
    sock = fed.peer.accept()
    fed.peer.request(sock)
    sock.sendall(refusal(422))
    fed.peer.until(lambda: fed.feed.machine.request is None)
    fed.advance()
    assert b"limit=500" in fed.peer.request(sock)
    sock.sendall(OPEN + chunk(b'{"kind":"Serv'))
    heard_at = fed.feed.machine.heard_at
    fed.peer.until(lambda: fed.feed.machine.heard_at != heard_at)
    fed.clock.ahead_s += SILENCE_S
    fed.feed.advance(fed.clock())
    assert sock.recv(1) == b""
    fed.advance()
    assert b"limit=500" in fed.peer.request(fed.peer.accept())
