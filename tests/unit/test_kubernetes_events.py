"""Events posted over the client of the Kubernetes source to the stand-in API server, which is as strict as a real one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_builders import Clock
from policy_builders import FACTS

from kpx.agent.announcing import Announcing
from kpx.agent.engine import Engine
from kpx.model.announcement import LONGEST_NOTE, About, Announcement, Occurrences
from kpx.model.names import ObjectName
from kpx.sources.kubernetes import events
from kpx.sources.kubernetes.client import OnAnswer
from kpx.sources.kubernetes.events import EventPoster
from tests.lab import objects
from tests.lab.apiserver import ApiServer, Fault
from tests.lab.certificates import Certificates
from tests.lab.hearing import Listener
from tests.lab.known_access import listening
from tests.lab.memory_dataplane import MemoryDataplane

WEB = About("Service", ObjectName("shop", "web"))
CONFLICT = Announcement(WEB, "FrontendConflict", "192.0.2.9:80/TCP belongs to older Service shop/old", shared=True)
REFUSED = Announcement(WEB, "KernelRefused", "node n1 refuses rows")
STARTING = Announcement(About("Node", ObjectName("", "n1")), "Starting", "kpx starts", action="Start", warning=False)
ONCE = Occurrences(1, 1_780_000_000.25, 1_780_000_000.25)
THRICE = Occurrences(3, 1_780_000_000.25, 1_780_000_600.0)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        running.apply(objects.service("web", "10.96.0.1"))
        running.apply(objects.node("192.0.2.1"))
        yield running


class Office:
    """A poster, and the source whose client it uses."""

    def __init__(self, listener: Listener, node_name: str = "n1") -> None:
        self.listener = listener
        self.clock = Clock()
        self.poster = EventPoster(lambda: listener.source.client, node_name, self.clock)

    def post(self, what: Announcement, occurrences: Occurrences = ONCE) -> None:
        self.poster.announce(what, occurrences)

    def until(self, reached: Callable[[], bool]) -> None:
        def acted() -> bool:
            self.poster.act(self.clock.now)
            return reached()

        self.listener.until(acted)

    def idle(self) -> bool:
        return self.poster.idle


@pytest.fixture
def office(server: ApiServer) -> Iterator[Office]:
    with listening(server) as listener:
        yield Office(listener)


def test_event_has_what_kubectl_shows(server: ApiServer, office: Office) -> None:
    office.post(CONFLICT)
    office.until(office.idle)

    (event,) = server.events()
    expected = {
        "eventTime": "2026-05-28T20:26:40.250000Z",
        "reportingController": "kpx",
        "reportingInstance": "n1",
        "action": "Program",
        "reason": "FrontendConflict",
        "type": "Warning",
        "note": CONFLICT.note,
        "regarding": {
            "kind": "Service",
            "apiVersion": "v1",
            "namespace": "shop",
            "name": "web",
            "uid": server.store.every("Service")[0]["metadata"]["uid"],
        },
    }
    assert expected == {key: event[key] for key in expected}
    assert event["metadata"]["namespace"] == "shop"
    assert "series" not in event


def test_event_on_the_node_is_in_the_default_namespace(server: ApiServer, office: Office) -> None:
    office.post(STARTING)
    office.until(office.idle)

    (event,) = server.events()
    assert (event["metadata"]["namespace"], event["type"], event["action"]) == ("default", "Normal", "Start")
    assert event["regarding"]["uid"] == server.store.every("Node")[0]["metadata"]["uid"]


def test_verbs_are_those_the_source_has_and_two_on_events(server: ApiServer, office: Office) -> None:
    """What deploy/ has to grant."""
    office.post(CONFLICT)
    office.post(CONFLICT, THRICE)
    office.until(office.idle)

    assert {one.verb for one in server.requests(resource="events")} == {"create", "patch"}
    assert {one.verb for one in server.requests()} == {"list", "watch", "create", "patch"}


def test_what_happened_again_is_a_series_of_the_same_event(server: ApiServer, office: Office) -> None:
    office.post(CONFLICT)
    office.post(CONFLICT, THRICE)
    office.until(office.idle)

    (event,) = server.events()
    assert event["series"] == {"count": 3, "lastObservedTime": "2026-05-28T20:36:40.000000Z"}


def test_series_of_an_event_whose_time_is_over_is_posted_anew(server: ApiServer, office: Office) -> None:
    office.post(CONFLICT, THRICE)
    office.until(office.idle)

    (event,) = server.events()
    assert event["series"]["count"] == 3
    assert office.poster.trouble == ""


def test_what_all_nodes_see_is_one_event_and_what_each_sees_is_one_each(server: ApiServer, office: Office) -> None:
    with listening(server, "n2") as listener:
        other = Office(listener, "n2")
        for one in (office, other):
            one.post(CONFLICT)
            one.post(REFUSED)
            one.until(one.idle)

        assert sorted(event["reason"] for event in server.events()) == ["FrontendConflict", "KernelRefused", "KernelRefused"]
        assert (office.poster.trouble, other.poster.trouble) == ("", "")


def test_object_that_is_gone_gets_no_event(server: ApiServer, office: Office) -> None:
    server.delete("Service", "web", "shop")
    office.post(CONFLICT)
    office.until(office.idle)

    assert (server.events(), office.poster.trouble) == ([], "")


def test_missing_right_is_said_and_the_next_success_ends_it(server: ApiServer, office: Office) -> None:
    server.access.deny("create", "events")
    office.post(CONFLICT)
    office.until(office.idle)
    trouble = office.poster.trouble
    server.access.denied.clear()
    office.post(REFUSED)
    office.until(office.idle)

    assert trouble.startswith(
        'the API server answers 403: events.events.k8s.io is forbidden: User "system:anonymous" cannot create'
    )
    assert trouble.endswith("; grant create and patch on events as the ClusterRole in deploy/ does")
    assert office.poster.trouble == ""
    assert [event["reason"] for event in server.events()] == ["KernelRefused"]


def test_outage_is_waited_for(server: ApiServer, office: Office) -> None:
    server.faults.order(Fault(503, verb="create", resource="events"))
    office.post(CONFLICT)
    office.until(lambda: bool(office.poster.trouble))
    deadline = office.poster.deadline()
    office.clock.now += events.RETRY_S
    office.until(office.idle)

    assert deadline == 100.0 + events.RETRY_S
    assert len(server.events()) == 1
    assert office.poster.trouble == ""


def test_after_some_tries_it_is_given_up(server: ApiServer, office: Office) -> None:
    server.faults.order(Fault(500, verb="create", resource="events", times=events.ATTEMPTS))
    office.post(CONFLICT)
    for _ in range(events.ATTEMPTS):
        office.clock.now += events.RETRY_S
        office.until(lambda: office.poster._now_posting is None)

    assert office.idle()
    assert office.poster.trouble.startswith("the API server answers 500")
    assert len(server.requests("create", "events")) == events.ATTEMPTS


def test_no_more_than_some_wait(server: ApiServer, office: Office) -> None:
    for number in range(events.LONGEST_QUEUE + 5):
        office.post(REFUSED._replace(note=f"number {number}"))
    office.until(office.idle)

    assert len(server.events()) == events.LONGEST_QUEUE


class DeadClient:
    """The client of a source that was closed: nothing is ever answered."""

    def send(self, method: str, path: str, body: bytes, on_answer: OnAnswer, content_type: str = "") -> None:
        self.asked = path


def test_source_that_is_replaced_takes_over_what_was_on_its_way(server: ApiServer) -> None:
    dead = DeadClient()
    with listening(server) as listener:
        clients: list[Any] = [dead]
        poster = EventPoster(lambda: clients[-1], "n1")
        poster.announce(CONFLICT, ONCE)
        poster.act(0.0)
        asked = dead.asked
        clients.append(listener.source.client)
        office = Office(listener)
        office.poster = poster
        office.until(lambda: bool(server.events()))

    assert asked == "/api/v1/namespaces/shop/services?fieldSelector=metadata.name%3Dweb&limit=1"


class OddClient:
    """The client of a source whose server says something else than it should."""

    def __init__(self, status: int, body: bytes) -> None:
        self._answer = (status, body)

    def send(self, method: str, path: str, body: bytes, on_answer: OnAnswer, content_type: str = "") -> None:
        on_answer(*self._answer)


@pytest.mark.parametrize("status", [200, 403])
@pytest.mark.parametrize(
    "body", [b"", b"[" * 200_000, b"[]", b'{"items":7,"message":7}', b"\xff", b'{"items":[{}],"message":"a\\nb"}']
)
def test_answer_that_is_none_is_one_line_of_trouble(status: int, body: bytes) -> None:
    poster = EventPoster(lambda: OddClient(status, body), "n1")
    poster.announce(CONFLICT, ONCE)
    poster.act(0.0)
    assert poster.trouble
    assert "\n" not in poster.trouble


def test_longest_names_and_notes_are_taken(server: ApiServer, office: Office) -> None:
    name = ObjectName("n" * 63, "s" * 63)
    server.apply({**objects.service("web", "10.96.0.2"), "metadata": {"namespace": name.namespace, "name": name.name}})
    office.post(Announcement(About("Service", name), "KernelRefused", "x" * LONGEST_NOTE))
    office.until(office.idle)

    assert (len(server.events()), office.poster.trouble) == (1, "")


def claiming(name: str, cluster_ip: str, created: str) -> dict[str, Any]:
    manifest = objects.service(name, cluster_ip, external_ips=["192.0.2.9"])
    return manifest | {"metadata": manifest["metadata"] | {"creationTimestamp": created}}


def test_conflict_of_two_services_is_exactly_one_warning_on_the_one_that_loses(tmp_path: Path) -> None:
    """V11, from the API to the API: source, engine, announcing and poster, over HTTPS with a token."""
    with ApiServer(tls=Certificates(tmp_path), tokens={"secret": "kpx"}) as server:
        server.apply(objects.node("192.0.2.1"), claiming("old", "10.96.0.1", "2026-01-01T00:00:00Z"))
        server.apply(claiming("young", "10.96.0.2", "2026-02-01T00:00:00Z"), objects.slice_of("young", "10.244.1.1"))
        with listening(server, token="secret") as listener:
            engine = Engine(MemoryDataplane(), FACTS)
            poster = EventPoster(lambda: listener.source.client, "n1")
            engine.findings.witness = announcing = Announcing(poster, "n1", engine.findings)
            folded = 0

            def work() -> None:
                nonlocal folded
                heard, folded = listener.events[folded:], len(listener.events)
                engine.fold(heard)
                engine.round()
                announcing.act(time.monotonic())

            def told() -> bool:
                work()
                return bool(server.events())

            def third_is_in() -> bool:
                work()
                return ObjectName("shop", "third") in engine.programs

            listener.until(told)
            server.apply(objects.slice_of("young", "10.244.1.1", "10.244.1.2"))
            server.apply(objects.service("third", "10.96.0.3"))
            listener.until(third_is_in)

        (event,) = server.events()
        assert (event["type"], event["reason"]) == ("Warning", "FrontendConflict")
        assert (event["regarding"]["namespace"], event["regarding"]["name"]) == ("shop", "young")
        assert "belongs to older Service shop/old" in event["note"]
        assert json.dumps(event).count("secret") == 0
