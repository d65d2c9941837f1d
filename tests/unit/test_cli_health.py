"""Verbs that read ask the running agent which endpoints fail their health check (decision 0018)."""

from __future__ import annotations

import contextlib
import json
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kpx.agent import asking
from kpx.agent.lock import AgentLock
from kpx.cli import main
from kpx.model.addresses import parse_address
from kpx.model.health_check import EndpointHealth, Failing
from kpx.model.names import ObjectName

MANIFESTS = """
kind: Service
apiVersion: v1
metadata: {name: web, namespace: shop, annotations: {kpx.io/health-check: tcp}}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}
---
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.0.7]}, {addresses: [10.1.0.8]}]
"""
FAILING = EndpointHealth(ObjectName("shop", "web"), (Failing(parse_address("10.1.0.7"), 8080, "connection refused, 2 in a row"),))
NOBODY = "no running agent tells which endpoints fail their health check; all are taken to pass"


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    (tmp_path / "web.yaml").write_text(MANIFESTS)
    return tmp_path


@contextlib.contextmanager
def agent(*health: EndpointHealth) -> Iterator[None]:
    """Be the agent of this network namespace, as far as its lock goes."""
    done = threading.Event()
    with AgentLock() as lock:

        def answer() -> None:
            while not done.is_set():
                if select.select([lock], [], [], 0.05)[0]:
                    lock.drain(lambda asker: asking.tell(asker, health))

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def explain(manifests: Path, *arguments: str) -> Result:
    command = ["explain", "10.96.0.10:80", "--offline", "--manifests", str(manifests), *arguments]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return result


def test_what_the_agent_found_out_is_in_the_story(manifests: Path) -> None:
    with agent(FAILING):
        result = explain(manifests, "-o", "json")

    assert {each["endpoint"]: each["reason"] for each in json.loads(result.stdout)["endpoints"]} == {
        "10.1.0.7:8080": "failed its health check (connection refused, 2 in a row)",
        "10.1.0.8:8080": "ready",
    }
    assert NOBODY not in result.stderr


def test_an_agent_that_found_nothing_wrong_is_believed(manifests: Path) -> None:
    with agent():
        assert NOBODY not in explain(manifests).stderr


def test_without_an_agent_it_is_said_that_nobody_knows(manifests: Path) -> None:
    result = explain(manifests)

    assert NOBODY in result.stderr
    assert "failed" not in result.stdout


def test_nobody_is_asked_when_nothing_is_checked(manifests: Path) -> None:
    (manifests / "web.yaml").write_text(MANIFESTS.replace("kpx.io/health-check: tcp", ""))

    assert NOBODY not in explain(manifests).stderr
