"""Answers of an API server that is none, or a bad one: whatever bytes can come down a connection, cut wherever they can be."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from typing import NamedTuple

from hypothesis import strategies as st

from kpx.sources.kubernetes.access import Access, Told, access_of
from kpx.sources.kubernetes.feed import Feed
from kpx.sources.kubernetes.kinds import kinds_for
from kpx.sources.kubernetes.poller import Poller
from kpx.sources.kubernetes.troubles import Trouble
from tests.fuzz.manifests import objects

PATIENCE_S = 20.0
HOST = "127.0.0.1"
ENDS_INITIAL = {"k8s.io/initial-events-end": "true"}


NAYS = "410 Gone", "401 No", "403 No", "404 No", "429 Slow", "500 Oh", "100 Go", "302 There", "99 x", "x"
STATUSES = ["200 OK"] * 6 + list(NAYS)
LAST_CHUNKS = [b"0\r\n\r\n", b"", b"0\r\nX: y\r\n\r\n", b"zz\r\n", b"ffffffffffffffffffff\r\n", b"-1\r\n"]
HEADERS = [b"Retry-After: 9999999999", b"Retry-After: x", b"Connection: close", b"Set-Cookie: " + b"z" * 500]


class Answer(NamedTuple):
    """
    What the server says to one request.

    Args:
        data: everything it sends. cuts: where it pauses. close: it closes the connection afterwards.
    """

    data: bytes
    cuts: tuple[int, ...]
    close: bool


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """A line of a watch."""
    kind = draw(st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", "EXTRA", ""]))
    about = draw(objects())
    if isinstance(about, dict) and draw(st.integers(0, 4)):
        metadata = about.get("metadata")
        about["metadata"] = {**(metadata if isinstance(metadata, dict) else {}), "resourceVersion": str(draw(st.integers(0, 99)))}
        if kind == "BOOKMARK":
            about["kind"] = draw(st.sampled_from(["Service", "EndpointSlice"]))
            about["metadata"]["annotations"] = ENDS_INITIAL if draw(st.booleans()) else {}
    if kind == "ERROR":
        about = {"kind": "Status", "code": draw(st.sampled_from([410, 500, 0, -1, "x"])), "message": draw(st.text(max_size=30))}
    line = json.dumps({"type": kind, "object": about}).encode() + b"\n"
    return line[: draw(st.integers(0, len(line)))] if not draw(st.integers(0, 5)) else line


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """What a list or a watch is answered with."""
    what = draw(st.integers(0, 5))
    if what <= 2:
        return b"".join(draw(st.lists(events(), max_size=6)))
    if what == 3:
        version, token = draw(st.sampled_from(["1", "99", "", "x"])), draw(st.sampled_from(["", "t"]))
        kind = draw(st.sampled_from(["ServiceList", "EndpointSliceList", "Status", ""]))
        listed = {"kind": kind, "metadata": {"resourceVersion": version, "continue": token}}
        return json.dumps({**listed, "items": draw(st.lists(objects(), max_size=4) | st.none())}).encode()
    if what == 4:
        return b"x" * draw(st.sampled_from([1, 70_000, 300_000]))
    return draw(st.binary(max_size=60))


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """A whole answer, framed rightly or not."""
    body = draw(bodies())
    status = draw(st.sampled_from(STATUSES))
    head = [f"HTTP/1.1 {status}".encode()]
    framing = draw(st.sampled_from(["chunked", "chunked", "length", "close", "wrong length", "both", "endless"]))
    if framing in ("chunked", "both"):
        head.append(b"Transfer-Encoding: chunked")
        size = draw(st.sampled_from([1, 7, 4096, 1 << 20]))
        pieces = [body[at : at + size] for at in range(0, min(len(body), 400 * size), size)]
        framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        body = framed + draw(st.sampled_from(LAST_CHUNKS))
    if framing in ("length", "both"):
        head.append(b"Content-Length: %d" % len(body))
    if framing == "wrong length":
        head.append(b"Content-Length: " + draw(st.sampled_from([b"-1", b"5", b"99999999999999999999", b"x", b"1, 2"])))
    if framing == "endless":
        head += [b"X-%d: %s" % (number, b"y" * 1000) for number in range(draw(st.integers(1, 90)))]
    head += draw(st.lists(st.sampled_from(HEADERS), max_size=2))
    data = b"\r\n".join(head) + draw(st.sampled_from([b"\r\n\r\n"] * 8 + [b"\n\n", b"\r\n"])) + body
    cuts = tuple(sorted(draw(st.lists(st.integers(0, len(data)), max_size=5))))
    return Answer(data, cuts, draw(st.booleans()))


class _Clock:
    """Monotonic seconds, moved ahead so that nobody waits for the next try."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


class _Known:
    """Access that stays what it is; implements `kpx.sources.kubernetes.finder.AccessSource`."""

    trouble: Trouble | None = None

    def __init__(self, port: int) -> None:
        self._access = access_of(Told(server="http://api", host="api", port=port, tls=False, addresses=(HOST,)))

    def current(self, now: float) -> Access | None:
        return self._access

    def refused(self, now: float) -> None:
        """There is no other."""

    def unreachable(self, now: float) -> None:
        """There is no other."""

    def wake_at(self) -> float | None:
        return None

    def close(self) -> None:
        """There is nothing to close."""


def check(said: list[Answer]) -> None:
    """Let a feed ask, and answer it so; it goes on asking, and what it says is wrong is one line."""
    poller, clock = Poller(), _Clock()
    with contextlib.closing(poller), socket.create_server((HOST, 0)) as listening:
        listening.setblocking(False)
        feed = Feed(kinds_for("n1")[0], poller, _Known(listening.getsockname()[1]), lambda: 0.5, clock)
        with contextlib.closing(feed):
            for answer in said:
                _answer(feed, poller, listening, clock, answer)
                if feed.machine.trouble is not None:
                    assert "\n" not in feed.machine.trouble.message
                assert all("\n" not in str(finding) for finding in feed.machine.holdings.findings())
                feed.take()
                clock.ahead_s += 2000.0
            feed.advance(clock())
            assert feed.machine.request is not None or (feed.machine.wake_at() or 0.0) < clock() + 700.0


def _answer(feed: Feed, poller: Poller, listening: socket.socket, clock: _Clock, answer: Answer) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    feed.advance(clock())
    sock: socket.socket | None = None
    asked = b""
    while b"\r\n\r\n" not in asked:
        assert time.monotonic() < give_up_at, "the feed does not ask"
        poller.dispatch()
        if sock is None:
            with contextlib.suppress(BlockingIOError):
                sock, _ = listening.accept()
                sock.setblocking(False)
        else:
            with contextlib.suppress(BlockingIOError):
                asked += sock.recv(4096)
    assert sock is not None
    with sock:
        for piece in _pieces(answer):
            _send(sock, piece, poller, feed, clock, give_up_at)
            poller.dispatch()
            feed.advance(clock())
        if answer.close:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        for _ in range(20):
            select.select([poller], [], [], 0.001)
            poller.dispatch()
            feed.advance(clock())
    for _ in range(3):
        poller.dispatch()


def _pieces(answer: Answer) -> list[bytes]:
    ends = (*answer.cuts, len(answer.data))
    return [answer.data[first:last] for first, last in zip((0, *answer.cuts), ends, strict=True)]


def _send(sock: socket.socket, piece: bytes, poller: Poller, feed: Feed, clock: _Clock, give_up_at: float) -> None:
    while piece:
        assert time.monotonic() < give_up_at, "the feed does not read"
        try:
            piece = piece[sock.send(piece) :]
        except BlockingIOError:
            poller.dispatch()
            feed.advance(clock())
        except (BrokenPipeError, ConnectionResetError):
            return
