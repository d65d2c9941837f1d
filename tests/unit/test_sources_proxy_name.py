"""Beside another proxy (S1, S3): whose Services are forwarded, by label, and what is left alone."""

from __future__ import annotations

import contextlib
import select
import time
from pathlib import Path

import pytest
import yaml

from kpx import api
from kpx.agent.assemble import open_source
from kpx.cluster.events import Delete, Synced, Upsert
from kpx.cluster.view import ClusterView
from kpx.errors import ConfigError
from kpx.model.names import ObjectName
from kpx.model.node import ServiceCIDR
from kpx.model.service import LEFT_TO_OTHERS, Service, for_proxy
from kpx.settings.config import Config, make_config
from kpx.sources.proxy_name import NamedSource, heard_as
from tests.lab.apiserver import ApiServer
from tests.lab.memory_source import MemorySource
from tests.lab.objects import node

PATIENCE_S = 40.0

WEB = ObjectName("shop", "web")
CIDRS = ObjectName("", "kubernetes")
UNLABELLED = Service(WEB)
OURS = Service(WEB, skipped=LEFT_TO_OTHERS, proxy_name="kpx")
OTHERS = Service(WEB, skipped=LEFT_TO_OTHERS, proxy_name="cilium")
NOT_OURS = "label service.kubernetes.io/service-proxy-name is not kpx"

MANIFESTS = """\
apiVersion: v1
kind: Service
metadata: {name: mine, labels: {service.kubernetes.io/service-proxy-name: kpx}}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: everybodys}
spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: anothers, labels: {service.kubernetes.io/service-proxy-name: cilium}}
spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: a-number, labels: {service.kubernetes.io/service-proxy-name: 5}}
spec: {clusterIP: 10.96.0.4, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: nowhere, labels: {service.kubernetes.io/service-proxy-name: kpx}}
spec: {clusterIP: None, ports: [{port: 80}]}
---
kind: ServiceCIDR
apiVersion: networking.k8s.io/v1
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/12]}
"""


def reasons(view: ClusterView) -> dict[str, str]:
    return {name.name: service.skipped for name, service in view.services.items()}


@pytest.mark.parametrize(
    ("service", "name", "skipped"),
    [
        (UNLABELLED, "", ""),
        (OURS, "", LEFT_TO_OTHERS),
        (UNLABELLED, "kpx", NOT_OURS),
        (OURS, "kpx", ""),
        (OTHERS, "kpx", NOT_OURS),
        (Service(WEB, skipped="headless", proxy_name="kpx"), "kpx", "headless"),
        (Service(WEB, skipped="headless"), "kpx", "headless"),
    ],
)
def test_label_decides(service: Service, name: str, skipped: str) -> None:
    once = for_proxy(service, name)

    assert once.skipped == skipped
    assert for_proxy(once, name) == once


def test_toggling_the_label_is_an_event_like_any_other() -> None:
    """S1: e2e sets and removes it on live Services."""
    view = ClusterView()
    for event in heard_as((Upsert(OURS), Synced()), "kpx"):
        view.fold(event)
    view.take_dirty()

    for labelled, skipped in ((UNLABELLED, NOT_OURS), (OURS, "")):
        for event in heard_as((Upsert(labelled),), "kpx"):
            view.fold(event)
        assert view.take_dirty().services == {WEB}
        assert view.services[WEB].skipped == skipped


def test_addresses_without_an_owner_may_be_the_other_proxys() -> None:
    """R6 holds only where there is no other proxy."""
    events = (Upsert(ServiceCIDR(CIDRS)), Delete(ServiceCIDR, CIDRS), Delete(Service, WEB), Synced())

    assert heard_as(events, "kpx") == (Delete(Service, WEB), Synced())
    assert heard_as(events, "") == events


def test_named_source_is_the_source_it_was_given() -> None:
    inner = MemorySource(Upsert(OURS))
    source = NamedSource(inner, "kpx")

    assert source.start().events == (Upsert(for_proxy(OURS, "kpx")), Synced())
    inner.say(Upsert(OTHERS))
    assert source.poll().events == (Upsert(for_proxy(OTHERS, "kpx")),)
    assert (source.fileno(), source.deadline()) == (inner.fileno(), inner.deadline())
    source.close()
    assert inner.closed


@pytest.mark.parametrize(
    ("name", "forwarded", "cidrs"),
    [("", {"everybodys"}, 1), ("kpx", {"mine"}, 0), ("cilium", {"anothers"}, 0), ("other", set(), 0)],
)
def test_manifests_are_heard_the_same_by_agent_and_reading_verbs(
    name: str, forwarded: set[str], cidrs: int, tmp_path: Path
) -> None:
    (tmp_path / "all.yaml").write_text(MANIFESTS)
    heard = ClusterView()

    with contextlib.closing(open_source(Config(manifests=str(tmp_path), service_proxy_name=name))) as source:
        for event in source.start().events:
            heard.fold(event)
    read = api.read_manifests(tmp_path, name).view

    assert {name for name, reason in reasons(heard).items() if not reason} == forwarded
    assert reasons(heard) == reasons(read)
    assert reasons(heard)["nowhere"] == "headless"
    assert len(heard.service_cidrs) == len(read.service_cidrs) == cidrs


@pytest.mark.parametrize(("name", "forwarded"), [("", {"everybodys"}), ("kpx", {"mine"}), ("other", set())])
def test_the_api_is_asked_for_what_is_forwarded_and_no_more(name: str, forwarded: set[str]) -> None:
    """And what the server says all the same is left alone (S3); ServiceCIDRs are for who is alone (R6)."""
    with ApiServer() as server:
        server.apply(node("192.0.2.1", name="n1"), *yaml.safe_load_all(MANIFESTS))
        config = Config(master=server.url, hostname_override="n1", service_proxy_name=name)
        view = ClusterView()
        with contextlib.closing(open_source(config)) as source:
            events = source.start().events
            give_up = time.monotonic() + PATIENCE_S
            while not view.synced:
                for event in events:
                    view.fold(event)
                select.select([source], [], [], 0.05)
                events = source.poll().events
                assert time.monotonic() < give_up

    assert {name for name, reason in reasons(view).items() if not reason} == forwarded
    assert len(view.service_cidrs) == (0 if name else 1)


@pytest.mark.parametrize("name", ["a b", "-kpx", "kpx.", "x" * 64, "kpx,other"])
def test_name_that_no_label_can_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--service-proxy-name: .* cannot be the value of a label: use at most 63 "):
        make_config({"service_proxy_name": name})
