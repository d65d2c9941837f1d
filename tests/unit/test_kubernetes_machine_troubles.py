"""The list and watch machine when the server says no, or what it says cannot be believed."""

from __future__ import annotations

import json

import pytest
from kubernetes_builders import (
    CIDRS,
    CUT,
    NODES,
    REFUSED,
    SLICES,
    Talk,
    bookmark,
    error,
    event,
    names,
    page,
    recorded,
    service,
    watching_talk,
)

from kpx.cluster.events import Delete, Upsert
from kpx.model.names import ObjectName
from kpx.model.node import Node
from kpx.model.service import Service
from kpx.sources.kubernetes.body import LONGEST_LINE
from kpx.sources.kubernetes.machine import LONG_WAIT_S
from kpx.sources.kubernetes.pauses import ASKED_LIMIT_S, FIRST_S, LIMIT_S, SHORTEST_S, pause_s
from kpx.sources.kubernetes.position import UNABLE, is_before
from kpx.sources.kubernetes.vigil import SETTLED_S


@pytest.fixture
def talk() -> Talk:
    return Talk()


@pytest.fixture
def watching() -> Talk:
    return watching_talk()


@pytest.mark.parametrize(
    ("name", "status", "words", "lasting"),
    [
        ("forbidden-anonymous.http", 403, "RBAC: may not list services", True),
        ("unauthorized.http", 401, "does not accept the credentials", True),
    ],
)
def test_recorded_refusals_say_what_to_do(talk: Talk, name: str, status: int, words: str, lasting: bool) -> None:
    talk.ask()
    talk.answer(b"{}", 422)
    talk.ask()
    talk.answer(recorded(name), status)
    assert talk.machine.trouble is not None
    assert words in talk.machine.trouble.message
    assert talk.machine.trouble.lasting is lasting
    assert talk.machine.unauthorized is (status == 401)
    assert talk.paused_s() >= SHORTEST_S


def test_too_many_requests_wait_as_long_as_the_server_asks(watching: Talk) -> None:
    watching.say(error(429))
    assert watching.ask()["resourceVersion"] == "100"
    watching.answer(b"{}", 429, "7")
    assert 7 <= watching.paused_s() <= 7 + 2 * FIRST_S
    assert watching.held() == ["a", "b"]
    assert watching.ask()["resourceVersion"] == "100"


def test_busy_server_is_not_asked_for_everything_in_the_place_of_a_check(watching: Talk) -> None:
    watching.machine.broken(CUT, watching.now, 0.5)
    assert watching.ask()["limit"] == "1"
    watching.answer(b"{}", 429, "7")
    assert watching.paused_s() >= 7
    assert watching.ask()["limit"] == "1"


def test_check_that_needs_new_credentials_says_so(watching: Talk) -> None:
    watching.machine.broken(CUT, watching.now, 0.5)
    watching.ask()
    watching.answer(b"{}", 401)
    assert watching.machine.unauthorized
    assert watching.ask()["limit"] == "1"


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_trouble_of_the_server_is_waited_out(watching: Talk, status: int) -> None:
    watching.say(error(429))
    watching.ask()
    watching.answer(b"<html>bad gateway</html>", status)
    assert watching.machine.trouble is not None
    assert str(status) in watching.machine.trouble.message
    assert watching.ask()["limit"] == "1", "a proxy may have answered for a server that is being restored"
    watching.answer(page(service("a"), version="100"))
    assert watching.ask()["resourceVersion"] == "100"
    watching.open()
    watching.pass_time(SETTLED_S)
    assert watching.machine.trouble is None


def test_token_no_server_can_go_on_with_is_given_up(talk: Talk) -> None:
    """As one of before an etcd restore, which is of a revision yet to come."""
    talk.ask()
    talk.answer(b"{}", 422)
    talk.ask()
    talk.answer(page(service("a"), token="more"))
    for _ in range(UNABLE):
        assert talk.ask()["continue"] == "more"
        talk.answer(b"{}", 500)
    assert "continue" not in talk.ask()


def test_watch_no_server_can_begin_is_given_up(watching: Talk) -> None:
    watching.say(error(429))
    for _ in range(UNABLE):
        assert watching.ask()["resourceVersion"] == "100"
        watching.answer(b"{}", 500)
        if watching.ask()["limit"] == "500":
            break
        watching.answer(page(service("a"), version="100"))
    assert names(watching.answer(page(service("a"), version="130"))) == ["-b"]


def test_pause_a_server_asks_for_is_a_pause(watching: Talk) -> None:
    for seconds in (-50, 10**400):
        status = {"kind": "Status", "code": 429, "details": {"retryAfterSeconds": seconds}}
        watching.say(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
        assert SHORTEST_S <= watching.paused_s() <= ASKED_LIMIT_S + LIMIT_S
        watching.ask()
        watching.open()


def test_complaint_of_a_server_is_one_line_of_some_length(watching: Talk) -> None:
    watching.say(error(500, message="one\ntwo\r\n" + "three " * 10_000))
    assert watching.machine.trouble is not None
    assert "one two three" in watching.machine.trouble.message
    assert len(watching.machine.trouble.message) < 500


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"ADDED","object":{"apiVersion":"\xff","kind":"Service","metadata":{"name":"a","resourceVersion":"105"}}}',
        b'{"type":"BOOKMARK","object":{"kind":"Service","metadata":{"resourceVersion":"105","annotations":{"a":"\xff"}}}}',
        b'{"type":"BOOKMARK","object":{"kind":"Service","metadata":{"resourceVersion":"105","annotations":' + b"[" * 100_000,
        b'{"type":"NEWS","object":{"kind":"Service","metadata":{"resourceVersion":"105"}}}',
        b'{"type":"ADDED","object":{"kind":"Service","metadata":{"name":"a"}}}',
        b'{"type":"ADDED","object":null}',
        b'{"type":"ADDED"}',
        b'{"kind":"Status","code":500}',
        b"[]",
    ],
)
def test_line_that_is_not_what_the_api_says_is_no_accident(watching: Talk, line: bytes) -> None:
    assert watching.say(line + b"\n") == []
    assert watching.machine.trouble is not None
    assert watching.machine.trouble.message.startswith("is not understood: ")
    assert watching.held() == ["a", "b"]
    assert "limit" in watching.ask()


def test_list_that_is_not_utf8_is_no_accident(watching: Talk) -> None:
    watching.say(error(410, "Expired"))
    watching.ask()
    item = b'{"apiVersion":"\xff","metadata":{"name":"a","namespace":"shop"}}'
    assert watching.answer(b'{"kind":"ServiceList","metadata":{"resourceVersion":"105"},"items":[' + item + b"]}") == []
    assert watching.held() == ["a", "b"]


def test_version_may_have_any_length(watching: Talk) -> None:
    longest = int("9" * 4300)
    assert watching.say(bookmark(longest)) == []
    watching.say(b'{"type":"BOOKMARK","object":{"kind":"Service","metadata":{"resourceVersion":"1' + b"0" * 5000 + b'"}}}\n')
    assert len(watching.machine.resource_version) == 5001
    assert is_before("99", "100")
    assert not is_before("0100", "99")
    assert not is_before("opaque", "100")


def test_line_without_an_end_is_bounded(watching: Talk) -> None:
    for _ in range(LONGEST_LINE // (1 << 20) + 1):
        watching.say(b"x" * (1 << 20))
    assert watching.machine.request is None
    assert watching.machine.trouble is not None
    assert "sends an event about services of over 16 MiB" in watching.machine.trouble.message


def test_kind_that_can_be_done_without_is_done_without() -> None:
    for status in (403, 404):
        talk = Talk(CIDRS)
        talk.ask()
        talk.answer(b"404 page not found", status)
        assert talk.machine.complete
        assert talk.machine.trouble is not None
        assert not talk.machine.trouble.lasting
        assert talk.paused_s() >= LONG_WAIT_S / 2


def test_needed_kind_that_is_unknown_means_an_old_server() -> None:
    talk = Talk(SLICES)
    talk.ask()
    talk.answer(b"404 page not found", 404)
    assert not talk.machine.complete
    assert talk.machine.trouble is not None
    assert "endpointslices.discovery.k8s.io/v1" in talk.machine.trouble.message
    assert "1.21" in talk.machine.trouble.message


def test_answer_of_somebody_else_never_empties_what_is_held(watching: Talk) -> None:
    """A proxy that answers 200 with its own page is no list of no Services."""
    for body in (b"<html>please log in</html>", b"{}", b'{"kind":"ServiceList","metadata":{}}', page(kind="Pod")):
        watching.say(error(410, "Expired"))
        watching.ask()
        assert watching.answer(body) == []
        assert watching.held() == ["a", "b"]
        watching.ask()
        watching.answer(page(service("a"), service("b")))
        watching.ask()
        watching.open()


def test_line_that_is_not_understood_leads_to_a_list(watching: Talk) -> None:
    watching.say(b"this is not JSON\n")
    assert "limit" in watching.ask()
    assert watching.held() == ["a", "b"]


def test_connection_that_breaks_once_is_not_worth_a_word(watching: Talk) -> None:
    watching.machine.broken(CUT, watching.now, 0.5)
    assert watching.machine.trouble is None
    watching.ask()
    watching.machine.broken(CUT, watching.now, 0.5)
    assert watching.machine.trouble == CUT


def test_unreachable_server_is_worth_one(talk: Talk) -> None:
    talk.ask()
    talk.machine.broken(REFUSED, talk.now, 0.5)
    assert talk.machine.trouble == REFUSED


def test_pauses_grow_up_to_their_limit_and_begin_anew_after_success(watching: Talk) -> None:
    pauses = []
    for _ in range(12):
        watching.machine.broken(REFUSED, watching.now, 0.999)
        pauses.append(watching.paused_s())
        watching.ask()
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(LIMIT_S, rel=0.01)
    watching.answer(page(service("a"), version="150"))
    watching.ask()
    watching.open()
    watching.pass_time(SETTLED_S)
    watching.machine.broken(REFUSED, watching.now, 0.999)
    assert watching.paused_s() == pytest.approx(FIRST_S, rel=0.01)


def test_pauses_have_full_jitter_and_bounds() -> None:
    assert pause_s(1, 0.0) == SHORTEST_S
    assert pause_s(100, 0.999) <= LIMIT_S
    assert pause_s(1, 0.5, 3600.0) <= ASKED_LIMIT_S + FIRST_S


def test_object_that_cannot_be_decoded_keeps_its_last_good_version(watching: Talk) -> None:
    bad = event("MODIFIED", "a", 101)
    bad["object"]["spec"]["ports"][0]["port"] = "eighty"  # type: ignore[index]
    assert watching.say(bad, event("ADDED", "c", 102)) != []
    assert watching.held() == ["a", "b", "c"]
    (finding,) = watching.machine.holdings.findings()
    assert (finding.where, finding.field) == ("Service shop/a", "spec.ports[0].port")
    assert "last good version stays in force" in finding.message
    watching.say(event("MODIFIED", "a", 103))
    assert watching.machine.holdings.findings() == []


def test_object_of_a_list_that_cannot_be_decoded_is_named_without_its_index(talk: Talk) -> None:
    bad = service("a")
    bad["spec"]["ports"][0]["port"] = "eighty"  # type: ignore[index]
    talk.ask()
    talk.answer(b"{}", 422)
    talk.ask()
    assert names(talk.answer(page(service("b"), bad))) == ["+b"]
    (finding,) = talk.machine.holdings.findings()
    assert str(finding).startswith("Service shop/a: spec.ports[0].port: ")


def test_own_node_that_is_gone_is_remembered_and_no_longer_eligible() -> None:
    """T9, 16.10."""
    talk = Talk(NODES)
    talk.ask()
    talk.open()
    node = {
        "kind": "Node",
        "metadata": {"name": "n1", "resourceVersion": "5", "labels": {"topology.kubernetes.io/zone": "a"}},
    }
    talk.say({"type": "ADDED", "object": node}, {"type": "BOOKMARK", "object": bookmark(6, True)["object"] | {"kind": "Node"}})  # type: ignore[operator]
    (gone,) = talk.say({"type": "DELETED", "object": node | {"metadata": node["metadata"] | {"resourceVersion": "7"}}})  # type: ignore[operator]
    assert isinstance(gone, Upsert)
    assert isinstance(gone.object, Node)
    assert (gone.object.zone, gone.object.eligible) == ("a", False)


def test_deleting_what_was_never_seen_is_nothing(watching: Talk) -> None:
    """E7."""
    assert watching.say(event("DELETED", "zzz", 101)) == []
    (event_,) = watching.say(event("DELETED", "a", 102))
    assert event_ == Delete(Service, ObjectName("shop", "a"))


def test_more_of_an_answer_that_is_over_is_nothing(watching: Talk) -> None:
    watching.say(error(410, "Expired"))
    assert watching.say(event("ADDED", "c", 105)) == []
    watching.machine.broken(CUT, watching.now, 0.5)
    assert watching.paused_s() == 0
