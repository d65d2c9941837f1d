"""Which addresses are open: a set difference, kept open while wanted, and tried again where it failed (15.1, H5, H6)."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from agent_builders import Clock

from kpx.web.listening import Listening, Wanted
from kpx.web.server import Answer, Place, WebServer
from tests.lab.http_client import ask


def wanted(name: str) -> Wanted:
    return Wanted(name, lambda _request: Answer(name))


class World:
    """A server, the addresses it is to listen on, a clock, and what was told of failures."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.told: list[tuple[str, str]] = []
        self.server = WebServer()
        self.server.start()
        self.listening = Listening(self.server, lambda _place, one, why: self.told.append((one.name, why)), 5.0, self.clock)

    def ask(self, place: Place) -> str:
        return ask(place).body


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.server.stop()


@pytest.fixture
def places() -> list[Place]:
    """Return three addresses nobody listens on."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    free = [("127.0.0.1", one.getsockname()[1]) for one in taken]
    for one in taken:
        one.close()
    return free


def is_open(place: Place) -> bool:
    with socket.socket() as client:
        return client.connect_ex(place) == 0


def test_addresses_open_and_close_by_difference(world: World, places: list[Place]) -> None:
    a, b, c = places
    world.listening.want("x", {a: wanted("a"), b: wanted("b")})
    world.listening.want("x", {b: wanted("b"), c: wanted("c")})

    assert [is_open(place) for place in places] == [False, True, True]
    assert [world.ask(b), world.ask(c)] == ["b", "c"]
    assert (world.told, world.listening.deadline(), len(world.listening)) == ([], None, 2)


def test_connection_in_flight_survives_a_resync(world: World, places: list[Place]) -> None:
    """H5: the same listening socket answers before and after, and a client in its queue or half way is served."""
    world.listening.want("x", {places[0]: wanted("a")})
    with socket.create_connection(places[0], 10) as client:
        client.send(b"GET / HTTP/1.1\r\n")
        world.listening.want("x", {places[0]: wanted("a"), places[1]: wanted("b")})
        world.listening.want("x", {places[0]: wanted("a")})
        client.send(b"Host: x\r\n\r\n")
        assert b"".join(iter(lambda: client.recv(4096), b"")).endswith(b"a")


def test_groups_do_not_close_each_others_addresses(world: World, places: list[Place]) -> None:
    world.listening.want("x", {places[0]: wanted("a")})
    world.listening.want("y", {places[1]: wanted("b")})
    world.listening.want("y", {})

    assert [is_open(place) for place in places[:2]] == [True, False]


def test_first_group_keeps_an_address_two_want(world: World, places: list[Place]) -> None:
    world.listening.want("x", {places[0]: wanted("first")})
    world.listening.want("y", {places[0]: wanted("second")})
    assert world.ask(places[0]) == "first"
    world.listening.want("x", {})

    assert world.ask(places[0]) == "second"


def test_address_that_changes_hands_is_answered_by_its_new_owner(world: World, places: list[Place]) -> None:
    world.listening.want("x", {places[0]: wanted("a")})
    world.listening.want("x", {places[0]: wanted("b")})

    assert world.ask(places[0]) == "b"


def test_taken_address_is_told_once_and_opened_as_soon_as_it_is_free(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = other.getsockname()
        world.listening.want("x", {place: wanted("a")})
        assert world.listening.deadline() == world.clock.now + 5
        world.clock.now += 5
        world.listening.act(world.clock.now)
    assert world.listening.failing == {place: "Address already in use"}
    assert world.told == [("a", "Address already in use")]
    world.listening.act(world.clock.now + 4.9)
    assert not world.listening.port(place)
    world.listening.act(world.clock.now + 5)

    assert world.ask(place) == "a"
    assert (world.told[1:], world.listening.deadline()) == ([("a", "")], None)


def test_failure_is_tried_again_with_every_sync(world: World, places: list[Place]) -> None:
    """H6."""
    with socket.create_server(places[0]):
        world.listening.want("x", {places[0]: wanted("a")})
    world.listening.want("x", {places[0]: wanted("a")})

    assert world.ask(places[0]) == "a"


def test_failure_nobody_wants_any_more_is_over(world: World, places: list[Place]) -> None:
    with socket.create_server(places[0]):
        world.listening.want("x", {places[0]: wanted("a")})
        world.listening.want("x", {})

    assert (world.told[-1], world.listening.failing, world.listening.deadline()) == (("a", ""), {}, None)


def test_one_failure_does_not_stop_the_others(world: World, places: list[Place]) -> None:
    with socket.create_server(places[0]):
        world.listening.want("x", {places[0]: wanted("a"), ("192.0.2.99", 80): wanted("b"), places[1]: wanted("c")})
        assert world.ask(places[1]) == "c"
        assert sorted(world.told) == [("a", "Address already in use"), ("b", "Cannot assign requested address")]
