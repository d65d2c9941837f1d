"""The stand-in API server keeps to what a real one was recorded to say (tests/data/apiserver-1.36), and fails as ordered."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest
import yaml

from tests.lab.apiserver import ApiServer, Fault
from tests.lab.certificates import Certificates

RECORDED = Path(__file__).parent.parent / "data" / "apiserver-1.36"
OBJECTS = list(yaml.safe_load_all((RECORDED / "objects.yaml").read_text()))
PROXY_SELECTORS = {"labelSelector": "!service.kubernetes.io/service-proxy-name", "fieldSelector": "spec.clusterIP!=None"}
HEADERS = ("content-type", "cache-control", "retry-after", "x-content-type-options")
"""Headers a client may go by; the others are different each time."""
TIMEOUT_S = 20.0


class Answer(NamedTuple):
    """What came back."""

    code: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


def ask(server: ApiServer, path: str, token: str = "", method: str = "GET", body: Any = None, **query: str | int) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if body is not None:
        headers["Content-Type"] = "application/json" if method != "PATCH" else "application/merge-patch+json"
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, f"{path}?{urlencode(query, quote_via=quote)}", body=data, headers=headers)
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def recorded(name: str) -> Answer:
    """Read a recording with its head."""
    head, _, body = (RECORDED / name).read_bytes().partition(b"\r\n\r\n")
    first, *lines = head.decode().splitlines()
    return Answer(int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body)


def recorded_events(name: str) -> list[Any]:
    return [json.loads(line) for line in (RECORDED / name).read_text().splitlines()]


def shape(value: Any) -> Any:
    """Return the types at every path; of lists, those of their elements; what differs each time is left out."""
    if isinstance(value, dict):
        skipped = ("managedFields", "annotations", "f:metadata")
        return {key: shape(inner) for key, inner in value.items() if key not in skipped}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value).__name__


def same_head(expected: Answer, actual: Answer) -> None:
    assert expected.code == actual.code
    for name in HEADERS:
        assert expected.headers.get(name) == actual.headers.get(name), name
    assert ("content-length" in expected.headers) == ("content-length" in actual.headers)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """A server that holds what the recorded one held."""
    with ApiServer(allocate_node_ports=True, tokens={"good": "kpx"}) as running:
        running.store.load(OBJECTS)
        yield running


def get(server: ApiServer, path: str, **query: str | int) -> Answer:
    return ask(server, path, "good", **query)


@pytest.mark.parametrize(("name", "path"), [("list-endpointslices", "/apis/discovery.k8s.io/v1/endpointslices")])
def test_list_looks_as_recorded(server: ApiServer, name: str, path: str) -> None:
    expected = json.loads((RECORDED / f"{name}.json").read_text())

    actual = get(server, path).json()

    assert shape(expected) == shape(actual)
    assert [item["metadata"]["name"] for item in expected["items"]] == [item["metadata"]["name"] for item in actual["items"]]


def test_services_are_completed_as_recorded(server: ApiServer) -> None:
    expected = json.loads((RECORDED / "list-services.json").read_text())
    server.apply(next(one for one in OBJECTS if one["metadata"]["name"] == "web") | {"status": expected["items"][-1]["status"]})

    actual = get(server, "/api/v1/services").json()

    assert shape(expected) == shape(actual)
    for one, other in zip(expected["items"], actual["items"], strict=True):
        assert one["metadata"]["name"] == other["metadata"]["name"]
        assert one["spec"]["type"] == other["spec"]["type"]


def test_node_and_service_cidr_look_as_recorded(server: ApiServer) -> None:
    nodes = json.loads((RECORDED / "list-nodes.json").read_text())
    cidrs = recorded("servicecidrs.http")
    server.apply({"apiVersion": "v1", "kind": "Node", **nodes["items"][0]})
    server.apply({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", **cidrs.json()["items"][0]})

    answer = get(server, "/apis/networking.k8s.io/v1/servicecidrs")

    same_head(cidrs, answer)
    assert shape(cidrs.json()) == shape(answer.json())
    assert shape(nodes) == shape(get(server, "/api/v1/nodes", fieldSelector="metadata.name=n1").json())
    assert get(server, "/api/v1/nodes", fieldSelector="metadata.name=n2").json()["items"] == []


def test_first_page_looks_as_recorded_and_the_pages_make_the_list(server: ApiServer) -> None:
    expected = json.loads((RECORDED / "list-services-page1.json").read_text())["metadata"]

    first = get(server, "/api/v1/services", limit=4).json()
    server.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "zz", "namespace": "shop"}})
    server.delete("Service", "web", "shop")
    second = get(server, "/api/v1/services", limit=4, **{"continue": first["metadata"]["continue"]}).json()

    assert shape(expected) == shape(first["metadata"])
    assert first["metadata"]["remainingItemCount"] == 2
    names = [item["metadata"]["name"] for page in (first, second) for item in page["items"]]
    assert sorted(one["metadata"]["name"] for one in OBJECTS if one["kind"] == "Service") == names
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]
    assert "continue" not in second["metadata"]


def test_page_of_a_compacted_moment_is_gone_and_its_new_token_works(server: ApiServer) -> None:
    first = get(server, "/api/v1/services", limit=4).json()
    server.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "zz", "namespace": "shop"}})
    server.compact()

    gone = get(server, "/api/v1/services", limit=4, **{"continue": first["metadata"]["continue"]})
    rest = get(server, "/api/v1/services", limit=4, **{"continue": gone.json()["metadata"]["continue"]})

    assert (gone.code, gone.json()["reason"]) == (410, "Expired")
    assert [item["metadata"]["name"] for item in rest.json()["items"]] == ["tomcat", "web", "zz"]


@pytest.mark.parametrize(
    ("name", "token", "query"),
    [
        ("forbidden-anonymous.http", "", {}),
        ("unauthorized.http", "bad", {}),
        ("list-too-large-rv.http", "good", {"resourceVersion": 999999999}),
        ("bad-continue.http", "good", {"continue": "gibberish", "limit": 5}),
    ],
)
def test_refusal_is_as_recorded(server: ApiServer, name: str, token: str, query: dict[str, Any]) -> None:
    expected = recorded(name)

    actual = ask(server, "/api/v1/services", token, **query)

    same_head(expected, actual)
    one, other = expected.json(), actual.json()
    if name.startswith(("list-too", "bad")):  # what was asked for, and where the server was, is in the words
        assert one.pop("message").split(":")[0] == other.pop("message").split(":")[0]
    assert one == other


def test_expired_watch_is_an_error_inside_a_good_stream(server: ApiServer) -> None:
    server.apply(OBJECTS[0] | {"spec": {"ports": [{"port": 1}]}})
    server.compact()
    expected = recorded("watch-expired.http")

    actual = get(server, "/api/v1/services", watch="1", resourceVersion=1)

    same_head(expected, actual)
    assert expected.body.split(b"(")[0] == actual.body.split(b"(")[0]
    assert shape(expected.events()) == shape(actual.events())


def test_watch_list_without_etcd_support_is_an_error_inside_the_stream(server: ApiServer) -> None:
    server.watch_list = "failing"

    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    actual = get(server, "/api/v1/services", watch="true", **query)

    assert (actual.code, recorded_events("watchlist-services.jsonl")) == (200, actual.events())


def test_watch_list_tells_what_there_is_then_a_marked_bookmark(server: ApiServer) -> None:
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}

    actual = get(server, "/api/v1/services", watch="true", timeoutSeconds=0, **PROXY_SELECTORS, **query).events()

    assert [(event["type"], event["object"]["metadata"].get("name")) for event in actual[:-1]] == [
        ("ADDED", "dns"),
        ("ADDED", "ext"),
        ("ADDED", "tomcat"),
        ("ADDED", "web"),
        ("BOOKMARK", None),
    ]
    assert actual[4]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def relabelled(labels: dict[str, str]) -> dict[str, Any]:
    tomcat = OBJECTS[0]
    return tomcat | {"metadata": tomcat["metadata"] | {"labels": labels}}


@pytest.mark.parametrize(("name", "query"), [("watch-services", {}), ("watch-services-filtered", PROXY_SELECTORS)])
def test_label_that_comes_and_goes_is_told_as_recorded(server: ApiServer, name: str, query: dict[str, str]) -> None:
    """Who watches a selection hears of a deletion, with the object as it was while it belonged there, then of an addition."""
    revision = server.revision
    server.apply(relabelled({"app": "tomcat", "service.kubernetes.io/service-proxy-name": "other"}))
    server.apply(relabelled({"app": "tomcat"}))
    expected = recorded_events(f"{name}.jsonl")[:-1]  # of the two bookmarks, the one before the end

    query = query | {"allowWatchBookmarks": "true"}
    actual = get(server, "/api/v1/services", watch="true", resourceVersion=revision, timeoutSeconds=0, **query).events()

    assert shape(expected) == shape(actual)
    assert [event["type"] for event in expected] == [event["type"] for event in actual]
    assert [event["object"]["metadata"].get("labels") for event in expected] == [
        event["object"]["metadata"].get("labels") for event in actual
    ]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) - revision for event in actual]
    assert versions == [1, 2, 2]


def test_change_and_deletion_of_a_slice_are_told_as_recorded(server: ApiServer) -> None:
    revision = server.revision
    events = recorded_events("watch-endpointslices.jsonl")
    server.apply(events[0]["object"])
    server.delete("EndpointSlice", "tomcat-abc", "shop")

    path = "/apis/discovery.k8s.io/v1/endpointslices"
    query = {"resourceVersion": revision, "timeoutSeconds": 0, "allowWatchBookmarks": "1"}
    actual = get(server, path, watch="1", **query).events()

    assert shape(events[:-1]) == shape(actual)
    assert [event["type"] for event in events[:-1]] == [event["type"] for event in actual]
    assert [event["object"]["metadata"].get("generation") for event in actual] == [2, 2, None]
    assert actual[1]["object"]["metadata"]["resourceVersion"] == str(revision + 2)


def test_applying_the_same_again_is_no_change(server: ApiServer) -> None:
    before = server.revision

    for manifest in OBJECTS:
        server.apply(manifest)

    assert server.revision == before


def test_kind_the_server_is_too_old_for_is_not_there(server: ApiServer) -> None:
    server.missing_kinds.add("servicecidrs")

    assert get(server, "/apis/networking.k8s.io/v1/servicecidrs").code == 404


def test_denied_verb_is_forbidden_by_name(server: ApiServer) -> None:
    server.access.deny("watch", "endpointslices")

    actual = get(server, "/apis/discovery.k8s.io/v1/endpointslices", watch="1")

    assert actual.code == 403
    assert actual.json()["message"] == (
        'endpointslices.discovery.k8s.io is forbidden: User "kpx" cannot watch resource "endpointslices" '
        'in API group "discovery.k8s.io" at the cluster scope'
    )


def test_ordered_answer_comes_as_often_as_ordered(server: ApiServer) -> None:
    server.faults.order(Fault(429, verb="list", retry_after_s=3, times=2))

    answers = [get(server, "/api/v1/services") for _ in range(3)]

    assert [answer.code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "3"


def test_cut_body_is_half_an_answer(server: ApiServer) -> None:
    server.faults.order(Fault(cut=True, resource="services"))

    with pytest.raises(http.client.IncompleteRead):
        get(server, "/api/v1/services")


def test_watch_is_cut_in_the_middle_of_a_line(server: ApiServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
    path = f"/api/v1/services?watch=1&resourceVersion={server.revision}"
    connection.request("GET", path, headers={"Authorization": "Bearer good"})
    answer = connection.getresponse()
    server.wait_until(lambda: server.watching("services") == 1)
    server.cut_watches("services", half_line=True)

    with closing(connection), answer, pytest.raises(http.client.IncompleteRead) as caught:
        answer.read()

    assert caught.value.partial.startswith(b'{"type":"BOOKMARK"')
    assert not caught.value.partial.endswith(b"\n")
    server.wait_until(lambda: server.watching("services") == 0)


def test_dropped_connections_end_without_an_answer(server: ApiServer) -> None:
    server.faults.drop(1)

    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        get(server, "/api/v1/services")
    assert get(server, "/api/v1/services").code == 200


def test_server_that_is_down_refuses_and_is_back_on_its_port(server: ApiServer) -> None:
    port = server.port
    server.down()
    with pytest.raises(ConnectionRefusedError):
        get(server, "/api/v1/services")
    server.up()

    assert (port, 200) == (server.port, get(server, "/api/v1/services").code)


def test_restored_server_is_as_it_was_and_counts_from_there(server: ApiServer) -> None:
    then = server.revision
    server.delete("Service", "tomcat", "shop")
    server.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "zz", "namespace": "shop"}})
    later = server.revision

    server.restore(then)

    assert get(server, "/api/v1/services", resourceVersion=later).code == 504
    answer = get(server, "/api/v1/services").json()
    assert answer["metadata"]["resourceVersion"] == str(then)
    assert [item["metadata"]["name"] for item in answer["items"]] == ["dns", "ext", "headless", "other-proxy", "tomcat", "web"]


EVENT = {
    "metadata": {"name": "web.1"},
    "eventTime": "2026-11-22T21:27:08.000000Z",
    "reportingController": "kpx.io/agent",
    "reportingInstance": "n1",
    "action": "Program",
    "reason": "Conflict",
    "type": "Warning",
    "note": "it is so",
    "regarding": {"kind": "Service", "namespace": "shop", "name": "web"},
}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"eventTime": None}, "eventTime"),
        ({"type": "Bad"}, "type"),
        ({"action": ""}, "action"),
        ({"note": "x" * 1025}, "note"),
        ({"series": {"count": 1, "lastObservedTime": "2026-11-22T21:27:08.000000Z"}}, "series.count"),
        ({"regarding": {"kind": "Node", "name": "n1"}}, "involvedObject.namespace"),
    ],
)
def test_event_a_real_server_would_refuse_is_refused(server: ApiServer, change: dict[str, Any], field: str) -> None:
    path = "/apis/events.k8s.io/v1/namespaces/shop/events"

    refused = ask(server, path, "good", "POST", EVENT | change)

    assert (refused.code, refused.json()["details"]["causes"][0]["field"]) == (422, field)
    assert server.events() == []


def test_event_is_kept_and_patched(server: ApiServer) -> None:
    path = "/apis/events.k8s.io/v1/namespaces/shop/events"
    assert ask(server, path, "good", "POST", EVENT).code == 201
    assert ask(server, path, "good", "POST", EVENT).code == 409
    series = {"series": {"count": 2, "lastObservedTime": "2026-11-22T21:37:08.000000Z"}}

    patched = ask(server, f"{path}/web.1", "good", "PATCH", series)

    assert (patched.code, patched.json()["kind"]) == (200, "Event")
    assert [event["series"]["count"] for event in server.events()] == [2]


def test_certificates_let_in_whom_they_name(tmp_path: Path) -> None:
    import ssl

    certificates = Certificates(tmp_path)
    context = ssl.create_default_context(cafile=str(certificates.authority))
    with ApiServer(tls=certificates) as server:
        server.access.deny("list", "nodes")
        answers = []
        for pair in (None, certificates.client("kpx:n1")):
            if pair:
                context.load_cert_chain(*pair)
            connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=TIMEOUT_S, context=context)
            connection.request("GET", "/api/v1/nodes")
            answers.append(json.loads(connection.getresponse().read())["message"])
            connection.close()

    assert ['User "system:anonymous"' in answers[0], 'User "kpx:n1"' in answers[1]] == [True, True]


def test_process_serves_a_file_until_it_is_told_to_end(tmp_path: Path) -> None:
    """As benchmarks use it."""
    command = [
        sys.executable,
        "-m",
        "tests.lab.apiserver",
        "--objects",
        str(RECORDED / "objects.yaml"),
        "--tls",
        str(tmp_path / "pki"),
    ]
    command += ["--kubeconfig", str(tmp_path / "config")]
    with subprocess.Popen(command, cwd=RECORDED.parents[2], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        told = yaml.safe_load((tmp_path / "config").read_text())
        process.terminate()

        assert process.wait(TIMEOUT_S) == 0
        assert told["clusters"][0]["cluster"]["server"] == url
        assert url.startswith("https://127.0.0.1:")
