"""The list and watch machine, as transcripts: recorded answers of a real server go in, requests and events come out."""

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
    listed,
    names,
    page,
    recorded,
    service,
    watching_talk,
)

from kpx.cluster.events import Upsert
from kpx.model.service import Service
from kpx.sources.kubernetes.kinds import kinds_for
from kpx.sources.kubernetes.pauses import SHORTEST_S
from kpx.sources.kubernetes.position import LONG_OUTAGE_S, WATCH_S
from kpx.sources.kubernetes.vigil import BOOKMARK_SILENCE_S, INITIAL_SILENCE_S, OVERTIME_S, SETTLED_S, SILENCE_S


@pytest.fixture
def talk() -> Talk:
    return Talk()


@pytest.fixture
def watching() -> Talk:
    return watching_talk()


def test_selectors_are_those_of_the_contract(talk: Talk) -> None:
    """S1, S2, S5."""
    query = talk.ask()
    assert query["labelSelector"] == "!service.kubernetes.io/service-proxy-name"
    assert query["fieldSelector"] == "spec.clusterIP!=None"
    assert Talk(SLICES).ask()["labelSelector"] == "!service.kubernetes.io/headless"
    assert Talk(NODES).ask()["fieldSelector"] == "metadata.name=n1"
    cidrs = Talk(CIDRS)
    assert "labelSelector" not in cidrs.ask()
    assert cidrs.target.startswith("/apis/networking.k8s.io/v1/servicecidrs?")


def test_another_proxy_name_asks_for_its_services_only() -> None:
    services = kinds_for("n1", "mine")[0]
    assert services.selectors["labelSelector"] == "service.kubernetes.io/service-proxy-name=mine"


def test_watchlist_is_asked_for_first(talk: Talk) -> None:
    query = talk.ask()
    assert query["watch"] == query["sendInitialEvents"] == query["allowWatchBookmarks"] == "true"
    assert query["resourceVersionMatch"] == "NotOlderThan"
    assert "resourceVersion" not in query


def test_watchlist_goes_over_into_a_watch(talk: Talk) -> None:
    talk.ask()
    talk.open()
    assert names(talk.say(event("ADDED", "a", 5), event("ADDED", "b", 3))) == ["+a", "+b"]
    assert not talk.machine.complete
    assert names(talk.say(bookmark(9, end=True))) == []
    assert talk.machine.complete
    assert names(talk.say(event("DELETED", "a", 10), event("MODIFIED", "b", 11, "10.96.0.2"))) == ["-a", "+b"]
    assert talk.machine.resource_version == "11"


def test_watchlist_that_breaks_off_takes_nothing_away(talk: Talk) -> None:
    talk.ask()
    talk.open()
    talk.say(event("ADDED", "a", 5), event("ADDED", "b", 3), bookmark(9, end=True), error(410, "Expired"))
    talk.ask()
    talk.open()
    talk.say(event("ADDED", "b", 3))
    talk.machine.broken(CUT, talk.now, 0.5)
    assert talk.held() == ["a", "b"]


def test_recorded_watchlist_failure_falls_back_to_list_and_is_remembered(talk: Talk) -> None:
    """An old etcd behind the server: ERROR 500 inside a 200 stream."""
    talk.ask()
    talk.open()
    talk.say(recorded("watchlist-services.jsonl"))
    assert talk.paused_s() == 0
    assert talk.machine.trouble is None
    assert talk.ask()["limit"] == "500"
    talk.answer(page(service("a")))
    talk.ask()
    talk.open()
    talk.say(error(410, "Expired"))
    assert "sendInitialEvents" not in talk.ask()


def test_server_that_never_heard_of_watchlist_says_so_by_its_bookmark(talk: Talk) -> None:
    talk.ask()
    talk.open()
    talk.say(event("ADDED", "a", 5), bookmark(6))
    assert talk.ask()["limit"] == "500"


def test_server_that_never_heard_of_watchlist_says_so_by_its_silence(talk: Talk) -> None:
    talk.ask()
    talk.open()
    talk.say(event("ADDED", "a", 5))
    talk.pass_time(INITIAL_SILENCE_S)
    assert talk.ask()["limit"] == "500"


def test_recorded_list_gives_services_without_findings(talk: Talk) -> None:
    talk.ask()
    talk.answer(b"{}", 422)
    talk.ask()
    events = talk.answer(recorded("list-services.json"))
    assert "+tomcat" in names(events)
    assert talk.machine.complete
    assert talk.machine.resource_version == str(json.loads(recorded("list-services.json"))["metadata"]["resourceVersion"])
    assert all(found.severity.value == "warning" for found in talk.machine.holdings.findings())


def test_recorded_watch_gives_what_happened(talk: Talk) -> None:
    """Adding the label of another proxy arrives as DELETED, removing it as ADDED (S1)."""
    listed(talk, "tomcat", version="31060").ask()
    talk.open()
    assert names(talk.say(recorded("watch-services-filtered.jsonl")))[:2] == ["-tomcat", "+tomcat"]
    assert talk.machine.resource_version == "31066"


def test_recorded_unfiltered_watch_is_looked_at_again(talk: Talk) -> None:
    """S3: without the server's selector the label makes the Service one that is skipped."""
    listed(talk, "tomcat", version="31060").ask()
    talk.open()
    first = talk.say(recorded("watch-services.jsonl").splitlines(keepends=True)[0])[0]
    assert isinstance(first, Upsert)
    assert isinstance(first.object, Service)
    assert first.object.skipped


def test_recorded_slices_are_watched() -> None:
    talk = Talk(SLICES)
    talk.ask()
    talk.answer(b"{}", 422)
    talk.ask()
    assert names(talk.answer(recorded("list-endpointslices.json"))) == ["+tomcat-abc"]


def test_recorded_node_and_cidr_are_listed() -> None:
    for kind, name in ((NODES, "list-nodes.json"), (CIDRS, "servicecidrs.http")):
        talk = Talk(kind)
        talk.ask()
        talk.answer(b"{}", 400)
        talk.ask()
        assert len(talk.answer(recorded(name))) == 1
        assert talk.machine.complete


def test_pages_are_asked_for_until_there_are_no_more(talk: Talk) -> None:
    talk.ask()
    talk.answer(b"{}", 422)
    assert "continue" not in talk.ask()
    assert names(talk.answer(page(service("a"), token="more"))) == ["+a"]
    assert not talk.machine.complete
    assert talk.ask()["continue"] == "more"
    assert names(talk.answer(page(service("b"), version="101"))) == ["+b"]
    assert talk.machine.complete
    assert talk.ask()["resourceVersion"] == "101"


@pytest.mark.parametrize(("status", "name"), [(410, "watch-expired.http"), (400, "bad-continue.http")])
def test_token_that_is_no_good_begins_the_list_anew_and_loses_nothing(talk: Talk, status: int, name: str) -> None:
    listed(talk, "a", "b")
    talk.ask()
    talk.open()
    talk.say(error(410, "Expired"))
    talk.ask()
    assert names(talk.answer(page(service("a"), token="more"))) == []
    talk.ask()
    talk.answer(recorded(name), status)
    assert "continue" not in talk.ask()
    assert talk.held() == ["a", "b"]
    assert names(talk.answer(page(service("a"), service("c")))) == ["+c", "-b"]


def test_unchanged_objects_of_a_new_list_are_no_events(watching: Talk) -> None:
    watching.say(error(410, "Expired"))
    watching.ask()
    assert watching.answer(page(service("b", 7), service("a", 8))) == []


def test_recorded_expiry_inside_the_stream_lists_at_once(watching: Talk) -> None:
    watching.say(recorded("watch-expired.http"))
    assert watching.paused_s() == 0
    assert "limit" in watching.ask()
    assert watching.held() == ["a", "b"]


def test_expiry_by_status_lists_at_once(talk: Talk) -> None:
    listed(talk, "a")
    talk.ask()
    talk.answer(b'{"kind":"Status","code":410,"reason":"Gone"}', 410)
    assert talk.paused_s() == 0
    assert "limit" in talk.ask()


def test_versions_that_expire_faster_than_they_are_read_make_pauses(talk: Talk) -> None:
    listed(talk, "a")
    for pause in (0.0, SHORTEST_S):
        talk.ask()
        talk.answer(b"{}", 410)
        assert talk.paused_s() >= pause
        talk.ask()
        talk.answer(page(service("a")))


@pytest.mark.parametrize("name", ["watchlist", "list"])
def test_what_goes_wrong_as_soon_as_all_is_told_is_not_begun_anew_at_once_for_ever(name: str) -> None:
    """Whatever a server is, it is not asked for everything in a loop without a pause."""
    for last in (error(410, "Expired"), event("MODIFIED", "a", 50)):
        talk = Talk() if name == "watchlist" else listed(Talk(), "a")
        pauses = []
        for _ in range(20):
            query = talk.ask()
            if "sendInitialEvents" in query:
                talk.open()
                talk.say(event("ADDED", "a", 50), bookmark(100, end=True), event("MODIFIED", "a", 101), last)
            elif "limit" in query:
                talk.answer(page(service("a")))
            else:
                talk.open()
                talk.say(event("MODIFIED", "a", 101), last)
            pauses.append(talk.paused_s())
        assert max(pauses) > 10 * SHORTEST_S
        assert talk.machine.trouble is not None
        assert "forgets what it said" in talk.machine.trouble.message
        assert talk.held() == ["a"]


def test_list_that_expires_page_after_page_is_worth_a_word(talk: Talk) -> None:
    talk.ask()
    talk.answer(b"{}", 422)
    for _ in range(3):
        assert "continue" not in talk.ask()
        talk.answer(page(service("a"), token="more"))
        talk.ask()
        talk.answer(b"{}", 410)
    assert talk.machine.trouble is not None
    assert "forgets what it said about services" in talk.machine.trouble.message


def test_expired_token_is_not_gone_on_with_though_the_server_offers_another_one(talk: Talk) -> None:
    """The other one is of what is now, so a list made of both would be of no moment at all."""
    talk.ask()
    talk.answer(b"{}", 422)
    talk.ask()
    talk.answer(page(service("a"), token="more"))
    talk.ask()
    talk.answer(json.dumps({"kind": "Status", "code": 410, "metadata": {"continue": "inconsistent"}}).encode(), 410)
    assert "continue" not in talk.ask()


def test_page_that_leads_to_itself_is_not_read_for_ever(talk: Talk) -> None:
    """As behind a proxy that leaves out what it does not know of a query."""
    talk.ask()
    talk.answer(b"{}", 422)
    talk.ask()
    talk.answer(page(service("a"), token="more"))
    talk.ask()
    assert talk.answer(page(service("a"), token="more")) == []
    assert talk.paused_s() >= SHORTEST_S
    assert talk.machine.trouble is not None


def test_recorded_version_from_the_future_lists_anew(talk: Talk) -> None:
    listed(talk, "a")
    talk.ask()
    talk.answer(recorded("list-too-large-rv.http"), 504, "1")
    assert "limit" in talk.ask()


def test_version_that_goes_backwards_in_a_stream_lists_anew(watching: Talk) -> None:
    assert watching.say(event("MODIFIED", "a", 50, "10.96.0.9")) == []
    watching.ask()
    assert names(watching.answer(page(service("a", ip="10.96.0.9"), version="50"))) == ["+a", "-b"]


def test_server_that_came_back_is_asked_for_its_version(watching: Talk) -> None:
    """After an etcd restore a watch from a version to come is answered with silence."""
    watching.machine.broken(CUT, watching.now, 0.5)
    assert watching.ask()["limit"] == "1"
    watching.answer(page(service("a"), version="40", token="more"))
    assert watching.ask()["limit"] == "500"
    assert watching.held() == ["a", "b"]
    assert names(watching.answer(page(service("a"), version="41"))) == ["-b"]


def test_server_that_came_back_with_its_memory_is_watched_on(watching: Talk) -> None:
    watching.machine.broken(CUT, watching.now, 0.5)
    watching.ask()
    watching.answer(page(service("a"), version="140", token="more"))
    assert watching.ask()["resourceVersion"] == "100"


def test_watch_that_ends_in_time_is_begun_again_where_it_was(watching: Talk) -> None:
    watching.pass_time(WATCH_S * 1.5 - SETTLED_S)
    watching.say(event("ADDED", "c", 107))
    watching.machine.end(watching.now, 0.5)
    assert watching.paused_s() == 0
    assert watching.ask()["resourceVersion"] == "107"


def test_watch_that_ends_before_its_time_is_followed_by_a_check(watching: Talk) -> None:
    """A server that goes down ends its watches in good order; what comes back may have been restored."""
    watching.say(event("ADDED", "c", 107))
    watching.machine.end(watching.now, 0.5)
    assert watching.ask()["limit"] == "1"
    watching.answer(page(service("a"), version="40"))
    assert watching.ask()["limit"] == "500"


def test_watch_that_told_nothing_at_all_is_followed_by_a_check(talk: Talk) -> None:
    """A watch from a version that is yet to come is silent until its time is over."""
    listed(talk, "a")
    talk.ask()
    talk.open()
    talk.pass_time(WATCH_S * 1.5)
    talk.machine.end(talk.now, 0.5)
    assert talk.ask()["limit"] == "1"


def test_server_that_was_away_for_long_is_asked_for_everything(watching: Talk) -> None:
    """Restored and grown beyond our version meanwhile, it would look as if it had the memory it had."""
    watching.machine.broken(REFUSED, watching.now, 0.5)
    assert watching.ask()["limit"] == "1"
    watching.machine.broken(REFUSED, watching.now, 0.5)
    watching.now += LONG_OUTAGE_S
    assert watching.ask()["limit"] == "500"
    assert names(watching.answer(page(service("a"), version="900"))) == ["-b"]


def test_watch_that_ends_as_soon_as_it_begins_is_not_begun_at_once(talk: Talk) -> None:
    listed(talk, "a")
    talk.ask()
    talk.answer(b"")
    assert talk.paused_s() >= SHORTEST_S


def test_half_a_line_waits_for_its_other_half(watching: Talk) -> None:
    added = event("ADDED", "c", 105)
    added["object"]["metadata"]["annotations"] = {"note": "größer"}  # type: ignore[index]
    line = json.dumps(added, ensure_ascii=False).encode() + b"\n"
    for place in range(len(line) - 1):
        assert watching.machine.body(line[place : place + 1], watching.now, 0.5) == []
    assert names(watching.machine.body(line[-1:], watching.now, 0.5)) == ["+c"]


def test_half_a_line_at_the_end_is_forgotten(watching: Talk) -> None:
    watching.say(b'{"type":"ADDED","object":{"kind":"Serv')
    watching.machine.end(watching.now, 0.5)
    watching.ask()
    watching.answer(page(service("a"), version="100"))
    assert watching.ask()["resourceVersion"] == "100"
    watching.open()
    assert names(watching.say(event("ADDED", "c", 101))) == ["+c"]


def test_bookmarks_move_the_version_on(watching: Talk) -> None:
    assert watching.say(bookmark(170)) == []
    assert watching.machine.resource_version == "170"


def test_watch_that_falls_silent_after_a_bookmark_is_given_up(watching: Talk) -> None:
    watching.say(bookmark(101))
    watching.pass_time(BOOKMARK_SILENCE_S - 1)
    assert watching.machine.request is not None
    watching.pass_time(1)
    assert watching.machine.request is None
    assert watching.ask()["limit"] == "1"


def test_watch_that_outlives_its_time_is_given_up(watching: Talk) -> None:
    watching.pass_time(WATCH_S * 1.5 + OVERTIME_S)
    assert watching.machine.request is None


def test_watch_that_follows_a_watchlist_may_be_silent_as_long_as_any_other(talk: Talk) -> None:
    talk.ask()
    talk.open()
    talk.say(bookmark(9, end=True))
    talk.pass_time(WATCH_S)
    assert talk.machine.request is not None


def test_list_that_falls_silent_is_given_up(talk: Talk) -> None:
    talk.ask()
    talk.answer(b"{}", 422)
    talk.ask()
    talk.open()
    talk.say(b'{"kind":"ServiceList",')
    talk.pass_time(SILENCE_S)
    assert talk.machine.request is None
