"""HTTP over one connection, with a peer that cuts, stalls and babbles."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from kubernetes_peer import HOST, OTHER, Clock, Peer

from kpx.sources.kubernetes.channel import CONNECT_S, TURN, Channel
from kpx.sources.kubernetes.poller import Poller
from kpx.sources.kubernetes.troubles import Trouble

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Heard:
    """What a listener was told."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.retry_after = ""
        self.data = b""
        self.ended = 0
        self.troubles: list[Trouble] = []

    def head(self, status: int, retry_after: str) -> None:
        self.statuses.append(status)
        self.retry_after = retry_after

    def body(self, data: bytes) -> None:
        self.data += data

    def end(self) -> None:
        self.ended += 1

    def broken(self, trouble: Trouble) -> None:
        self.troubles.append(trouble)

    def is_over(self) -> bool:
        return bool(self.ended or self.troubles)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def poller(stack: ExitStack) -> Poller:
    poller = Poller()
    stack.callback(poller.close)
    return poller


@pytest.fixture
def peer(stack: ExitStack, poller: Poller) -> Peer:
    return stack.enter_context(Peer(poller))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def channel(stack: ExitStack, poller: Poller, clock: Clock) -> Channel:
    channel = Channel(poller, clock)
    stack.callback(channel.abandon)
    return channel


def test_next_request_takes_the_same_connection(channel: Channel, peer: Peer) -> None:
    access = peer.access()
    first, second = Heard(), Heard()
    channel.ask(access, "GET", "/one", first)
    sock = peer.accept()
    assert peer.request(sock).startswith(b"GET /one HTTP/1.1\r\n")
    sock.sendall(ANSWER)
    peer.until(first.is_over)
    channel.ask(access, "GET", "/two", second)
    assert peer.request(sock).startswith(b"GET /two HTTP/1.1\r\n")
    sock.sendall(ANSWER)
    peer.until(second.is_over)
    assert (first.data, second.data) == (b"ok", b"ok")
    assert not peer.has_caller()


def test_connection_that_is_closed_between_requests_is_made_anew(channel: Channel, peer: Peer) -> None:
    access = peer.access()
    first, second = Heard(), Heard()
    channel.ask(access, "GET", "/one", first)
    sock = peer.accept()
    peer.request(sock)
    sock.sendall(ANSWER)
    peer.until(first.is_over)
    sock.close()
    channel.ask(access, "GET", "/two", second)
    peer.until(peer.has_caller)
    sock = peer.accept()
    assert peer.request(sock).startswith(b"GET /two")
    sock.sendall(ANSWER)
    peer.until(second.is_over)
    assert second.troubles == []


def test_request_that_changes_something_is_not_sent_twice(channel: Channel, peer: Peer) -> None:
    access = peer.access()
    first, second = Heard(), Heard()
    channel.ask(access, "GET", "/one", first)
    sock = peer.accept()
    peer.request(sock)
    sock.sendall(ANSWER)
    peer.until(first.is_over)
    channel.ask(access, "POST", "/two", second, b"{}", "application/json")
    peer.request(sock)
    sock.close()
    peer.until(second.is_over)
    assert second.troubles == [Trouble("closed the connection")]
    assert not peer.has_caller()


def test_answer_may_be_cut_anywhere(channel: Channel, peer: Peer) -> None:
    heard = Heard()
    channel.ask(peer.access(), "GET", "/", heard)
    sock = peer.accept()
    peer.request(sock)
    text = "größer\n".encode()
    head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 No\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = head + b"".join(b"1\r\n%c\r\n" % byte for byte in text) + b"0\r\n\r\n"
    for place in range(len(whole)):
        sock.sendall(whole[place : place + 1])
        peer.until(lambda: True)
    peer.until(heard.is_over)
    assert (heard.statuses, heard.retry_after, heard.data) == ([429], "7", text)


def test_answer_without_a_length_ends_with_the_connection(channel: Channel, peer: Peer) -> None:
    heard = Heard()
    channel.ask(peer.access(), "GET", "/", heard)
    sock = peer.accept()
    peer.request(sock)
    sock.sendall(b"HTTP/1.0 200 OK\r\n\r\nall of it")
    sock.close()
    peer.until(heard.is_over)
    assert (heard.data, heard.ended, heard.troubles) == (b"all of it", 1, [])


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "closed the connection"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "does not speak HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, "does not speak HTTP/1.1"),
    ],
)
def test_answer_that_is_none_is_named(channel: Channel, peer: Peer, said: bytes, words: str) -> None:
    heard = Heard()
    channel.ask(peer.access(), "GET", "/", heard)
    sock = peer.accept()
    peer.request(sock)
    sock.sendall(said)
    sock.close()
    peer.until(heard.is_over)
    (trouble,) = heard.troubles
    assert words in trouble.message
    assert not channel.busy
    assert channel.wake_at() is None


def test_much_is_read_in_turns(channel: Channel, peer: Peer) -> None:
    heard = Heard()
    channel.ask(peer.access(), "GET", "/", heard)
    sock = peer.accept()
    peer.request(sock)
    size = 6 * TURN
    sender = threading.Thread(
        target=sock.sendall, args=(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size,), daemon=True
    )
    sender.start()
    most = 0

    def turn() -> bool:
        nonlocal most
        before = len(heard.data)
        channel.tick()
        most = max(most, len(heard.data) - before)
        return heard.is_over()

    peer.until(turn)
    sender.join()
    assert len(heard.data) == size
    assert most <= 2 * TURN


def test_idle_connection_is_quiet(channel: Channel, peer: Peer, poller: Poller) -> None:
    heard = Heard()
    channel.ask(peer.access(), "GET", "/", heard)
    sock = peer.accept()
    peer.request(sock)
    sock.sendall(ANSWER)
    peer.until(heard.is_over)
    assert select.select([poller], [], [], 0.1)[0] == []
    assert channel.wake_at() is None


def test_address_that_is_open_and_says_nothing_is_tried_last(
    channel: Channel, peer: Peer, poller: Poller, stack: ExitStack
) -> None:
    """As a server does whose process is stuck: the kernel goes on taking connections for it."""
    other = stack.enter_context(Peer(poller, OTHER, peer.port))
    access = peer.access(HOST, OTHER)
    heard = Heard()
    channel.ask(access, "GET", "/", heard)
    peer.request(peer.accept())
    channel.abandon()
    channel.ask(access, "GET", "/", heard)
    sock = other.accept()
    other.request(sock)
    sock.sendall(ANSWER)
    other.until(heard.is_over)
    channel.abandon()
    channel.ask(access, "GET", "/", heard)
    other.request(other.accept())
    assert not peer.has_caller()


def test_peer_that_never_agrees_on_tls_is_given_up_on(
    channel: Channel, peer: Peer, poller: Poller, stack: ExitStack, clock: Clock
) -> None:
    other = stack.enter_context(Peer(poller, OTHER, peer.port))
    heard = Heard()
    channel.ask(peer.access(HOST, OTHER, tls=True), "GET", "/", heard)
    for one in (peer, other):
        one.until(one.has_caller)
        sock = one.accept()
        one.until(lambda sock=sock: bool(select.select([sock], [], [], 0)[0]))
        assert heard.troubles == []
        clock.ahead_s += CONNECT_S
        channel.tick()
    assert heard.troubles == [Trouble("does not answer within 5 s", unreachable=True)]


def test_abandoned_request_tells_nobody_anything(channel: Channel, peer: Peer) -> None:
    heard = Heard()
    channel.ask(peer.access(), "GET", "/", heard)
    sock = peer.accept()
    peer.request(sock)
    channel.abandon()
    channel.abandon()
    assert sock.recv(1) == b""
    assert not heard.is_over()
    assert not channel.busy
