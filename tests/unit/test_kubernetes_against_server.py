"""
The Kubernetes source against a whole server: what the two have to agree on, whoever the server is.

Every test runs against the stand-in. With $KUBEBUILDER_ASSETS set it also runs against a real kube-apiserver and etcd, where
the agent's token is good for nothing but `kpx.sources.kubernetes.permissions`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kpx.cluster.events import Delete
from kpx.model.announcement import About, Announcement, Occurrences
from kpx.model.names import ObjectName
from kpx.sources.kubernetes.events import EventPoster
from kpx.sources.kubernetes.permissions import permissions
from tests.lab import objects
from tests.lab.apiserver import ApiServer
from tests.lab.certificates import Certificates
from tests.lab.hearing import Listener
from tests.lab.known_access import listening
from tests.lab.kube_apiserver import AGENT, USER, KubeApiServer

PROXY_NAME = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"
WEB = ObjectName("shop", "web")
SLICE = ObjectName("shop", "web-1")

AnyServer = ApiServer | KubeApiServer


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApiServer]:
    rights: dict[tuple[str, str], list[str]] = {}
    for group, resource, verb in sorted(permissions()):
        rights.setdefault((group, resource), []).append(verb)
    with KubeApiServer(tmp_path_factory.mktemp("kube-apiserver"), rights) as server:
        yield server


@pytest.fixture
def against_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyServer]:
    """A server with one Service, its slice, and the own Node."""
    if request.param == "stand-in":
        with ApiServer(tls=Certificates(tmp_path), tokens={AGENT: USER}) as stand_in:
            stand_in.apply(objects.service_cidr("10.96.0.0/12"))
            furnish(stand_in)
            yield stand_in
    else:
        real: KubeApiServer = request.getfixturevalue("real_server")
        furnish(real)
        yield real


def furnish(server: AnyServer) -> None:
    server.apply(objects.node("192.0.2.1"), objects.node("192.0.2.2", name="n2"))
    server.apply(web(), slices("10.244.1.1"))


def web(labels: dict[str, str] | None = None, **changes: Any) -> dict[str, Any]:
    manifest = objects.service("web", "10.96.0.10", **changes)
    return manifest | {"metadata": manifest["metadata"] | {"labels": labels or {}}}


def slices(*addresses: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    manifest = objects.slice_of("web", *addresses)
    return manifest | {"metadata": manifest["metadata"] | {"labels": manifest["metadata"]["labels"] | (labels or {})}}


@pytest.fixture
def listener(against_server: AnyServer) -> Iterator[Listener]:
    """A source that has heard everything."""
    with listening(against_server, token=AGENT) as listener:
        listener.until(listener.synced)
        yield listener


def endpoints(listener: Listener) -> int:
    """Return how many endpoints the slice of the Service has, -1 when it is not there."""
    return next((len(found.endpoints) for found in listener.view.slices_of(WEB)), -1)


def test_everything_there_is_was_told_when_it_is_synced(listener: Listener) -> None:
    """S9, S5: of the Nodes only the own one."""
    assert WEB in listener.view.services
    assert endpoints(listener) == 1
    assert list(listener.view.nodes) == ["n1"]
    assert [name.name for name in listener.view.service_cidrs] == ["kubernetes"]
    assert listener.findings == ()


def test_changes_are_heard(against_server: AnyServer, listener: Listener) -> None:
    against_server.apply(slices("10.244.1.1", "10.244.1.2"))
    listener.until(lambda: endpoints(listener) == 2)
    against_server.delete("EndpointSlice", "web-1", "shop")
    listener.until(lambda: endpoints(listener) == -1)
    against_server.delete("Service", "web", "shop")
    listener.until(lambda: WEB not in listener.view.services)
    against_server.apply(web())
    listener.until(lambda: WEB in listener.view.services)


def test_service_that_gets_another_proxy_is_gone_and_comes_back(against_server: AnyServer, listener: Listener) -> None:
    """S1."""
    against_server.apply(web({PROXY_NAME: ""}))
    listener.until(lambda: WEB not in listener.view.services)
    against_server.apply(web())
    listener.until(lambda: WEB in listener.view.services)


def test_slice_that_becomes_headless_is_gone_and_comes_back(against_server: AnyServer, listener: Listener) -> None:
    """S2."""
    against_server.apply(slices("10.244.1.1", labels={HEADLESS: ""}))
    listener.until(lambda: endpoints(listener) == -1)
    against_server.apply(slices("10.244.1.1"))
    listener.until(lambda: endpoints(listener) == 1)


def test_server_that_is_restarted_is_followed_again(against_server: AnyServer, listener: Listener) -> None:
    """16.5: nothing is taken back meanwhile."""
    before = len(listener.events)
    against_server.restart()
    against_server.apply(slices("10.244.1.1", "10.244.1.3"))
    listener.until(lambda: endpoints(listener) == 2)

    assert not [event for event in listener.events[before:] if isinstance(event, Delete)]


def test_history_that_is_compacted_is_read_anew(against_server: AnyServer, listener: Listener) -> None:
    before = len(listener.events)
    against_server.apply(slices("10.244.1.1", "10.244.1.2", "10.244.1.3"))
    against_server.compact()
    against_server.restart()
    listener.until(lambda: endpoints(listener) == 3)
    against_server.apply(slices("10.244.1.1"))
    listener.until(lambda: endpoints(listener) == 1)

    assert not [event for event in listener.events[before:] if isinstance(event, Delete)]


def test_event_and_its_series_are_taken(against_server: AnyServer, listener: Listener) -> None:
    """The server checks every field; and the rights the agent has are enough."""
    poster = EventPoster(lambda: listener.source.client, "n1")
    what = Announcement(About("Service", WEB), "FrontendConflict", f"it is so at {time.time()}", shared=True)
    on_node = Announcement(About("Node", ObjectName("", "n1")), "Starting", "kpx starts", "Start", warning=False)
    now, before = time.time(), len(against_server.events())
    poster.announce(what, Occurrences(1, now, now))
    poster.announce(what, Occurrences(2, now, now + 1))
    poster.announce(on_node, Occurrences(1, now, now))

    def posted() -> bool:
        poster.act(time.monotonic())
        return poster.idle

    listener.until(posted)

    told = {(one["reason"], one["regarding"]["name"], one.get("series", {}).get("count")) for one in against_server.events()}
    assert poster.trouble == ""
    assert {("FrontendConflict", "web", 2), ("Starting", "n1", None)} <= told
    assert len(against_server.events()) == before + 2
