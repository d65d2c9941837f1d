"""
The verbs, run as a user runs them, against a data plane whose kernel is a dictionary.

The seam is the registry of data planes: what it opens by name is all that the command line knows of a kernel.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from kpx.agent import mode
from kpx.agent.lock import AgentLock, holder
from kpx.cli import main
from kpx.dataplanes import registry
from kpx.dataplanes.base import AffinityEntry
from kpx.errors import PermissionDenied
from kpx.model.addresses import Family, parse_address
from kpx.model.names import Protocol
from kpx.policy.desired import Backend, Frontend
from tests.lab.memory_dataplane import ENDPOINTS, FRONTENDS, MemoryDataplane

WEB = Frontend(Family.IPV4, parse_address("10.96.0.10"), Protocol.TCP, 80)

MANIFESTS = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  sessionAffinity: ClientIP
  ports: [{name: http, port: 80, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: shop
  labels: {kubernetes.io/service-name: web}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- addresses: [10.1.0.7]
- addresses: [10.1.0.8]
- addresses: [10.1.0.9]
  conditions: {ready: false}
"""

BAD = """
kind: Service
metadata: {name: bad}
spec: {clusterIP: 10.96.0.11, ports: [{port: 99999}]}
"""


class ForbiddenDataplane(MemoryDataplane):
    """A kernel that does not let this process read or write."""

    def observe(self) -> Any:
        raise PermissionDenied("list table ip kpx", 1)

    def cleanup(self) -> Any:
        raise PermissionDenied("delete table ip kpx", 1)


@pytest.fixture(autouse=True)
def one_dataplane(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine can do, nftables is the only data plane there is, and the one these tests replace."""
    monkeypatch.delitem(registry.FACTORIES, "ipvs")
    monkeypatch.setattr(mode, "_decided", {})


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryDataplane]:
    """The kernel of this test."""
    with contextlib.closing(MemoryDataplane()) as memory:
        memory.name = "nftables"
        monkeypatch.setitem(registry.FACTORIES, "nftables", lambda kernel: memory)
        yield memory


@pytest.fixture
def manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with one Service of three endpoints, one of them not ready; its path is in the environment."""
    (tmp_path / "web.yaml").write_text(MANIFESTS)
    monkeypatch.setenv("KPX_MANIFESTS", str(tmp_path))
    monkeypatch.setenv("KPX_HOSTNAME_OVERRIDE", "n1")
    monkeypatch.setenv("KPX_BIND_ADDRESS", "192.0.2.1")
    return tmp_path


def kpx(*arguments: str) -> Result:
    """Run the command line."""
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def kpx_json(*arguments: str) -> Any:
    """Run the command line for JSON."""
    return json.loads(kpx(*arguments, "-o", "json").stdout)


@pytest.fixture
def synced(plane: MemoryDataplane, manifests: Path) -> MemoryDataplane:
    """A kernel that equals the manifests."""
    result = kpx("sync")
    assert result.exit_code == 0, result.output
    return plane


def test_sync_says_what_it_wrote_and_then_finds_nothing_to_do(plane: MemoryDataplane, manifests: Path) -> None:
    first, second = kpx("sync"), kpx("sync")

    assert first.exit_code == second.exit_code == 0
    assert "+ add row ip frontends" in first.stdout
    assert "rows added, 0 changed, 0 removed, 0 refused" in first.stdout.splitlines()[-1]
    assert second.stdout.splitlines() == ["0 rows added, 0 changed, 0 removed, 0 refused"]
    assert len(plane.plans) == 1


def test_sync_that_the_kernel_refuses_in_part_names_the_row_and_is_no_success(plane: MemoryDataplane, manifests: Path) -> None:
    plane.refused["frontends", WEB] = 28

    result = kpx("sync")
    assert result.exit_code == 1
    assert any(line.startswith("refused: + add row ip frontends") for line in result.stdout.splitlines())
    answer = kpx_json("sync")

    assert answer["equal"] is False
    assert [row["service"] for row in answer["refused"]] == ["shop/web"]
    assert answer["rows"] == []


def test_sync_of_many_rows_spells_some_unless_asked_for_all(plane: MemoryDataplane, manifests: Path) -> None:
    endpoints = "".join(f"\n- addresses: [10.1.1.{number}]" for number in range(1, 101))
    (manifests / "web.yaml").write_text(MANIFESTS.rstrip() + endpoints + "\n")

    some = kpx("sync").stdout.splitlines()
    kpx("cleanup")
    every = kpx("sync", "-o", "wide").stdout.splitlines()

    assert some[-2].startswith("... and ")
    assert len(some) < 60 < 100 < len(every)


def test_diff_is_silent_when_equal(synced: MemoryDataplane) -> None:
    result = kpx("diff")

    assert (result.exit_code, result.stdout) == (0, "")
    assert kpx_json("diff") == {"equal": True, "present": True, "differences": [], "rows": []}


def test_diff_tells_what_is_missing_in_words_and_as_rows(synced: MemoryDataplane) -> None:
    del synced.kernel[FRONTENDS[Family.IPV4]][WEB]

    result = kpx("diff")
    answer = kpx_json("diff")

    assert result.exit_code == 1
    assert "Service shop/web: 10.96.0.10:80/TCP is missing from the kernel" in result.stdout.splitlines()
    assert answer["equal"] is False
    assert [(row["change"], row["table"], row["service"]) for row in answer["rows"]] == [("add", "frontends", "shop/web")]
    assert not synced.plans[1:], "diff wrote something"


def test_diff_of_an_empty_kernel(plane: MemoryDataplane, manifests: Path) -> None:
    answer = kpx_json("diff")

    assert answer["present"] is False
    assert answer["differences"][0] == "nothing of kpx is in the kernel"


@pytest.mark.parametrize("what", ["services", "frontends", "endpoints", "affinity", "rows"])
def test_get_gives_the_same_as_json_and_yaml(synced: MemoryDataplane, what: str) -> None:
    synced.entries = [AffinityEntry(parse_address("10.1.0.9"), WEB, Backend(parse_address("10.1.0.7"), 8080), 5.0, 10800.0)]

    as_json = kpx_json("get", what)

    assert as_json == yaml.safe_load(kpx("get", what, "-o", "yaml").stdout)
    assert as_json[what]
    assert len(kpx("get", what, "-o", "wide").stdout.splitlines()) == len(as_json[what]) + 1


def test_get_joins_names_when_manifests_are_at_hand(synced: MemoryDataplane, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "shop/web" in kpx("get", "frontends").stdout

    monkeypatch.delenv("KPX_MANIFESTS")
    assert "10.96.0.10:80/TCP" in kpx("get", "frontends").stdout
    assert "shop/web" not in kpx("get", "frontends").stdout
    assert kpx("get", "services").exit_code == kpx("get", "frontends", "-n", "shop").exit_code == 2


def test_get_shows_the_kernel_and_not_the_manifests(synced: MemoryDataplane) -> None:
    synced.kernel.clear()

    assert kpx_json("get", "frontends")["frontends"] == []
    assert kpx_json("get", "services")["services"][0]["state"] == "missing"


def test_get_rows_prints_commands_and_nothing_else(synced: MemoryDataplane) -> None:
    lines = kpx("get", "rows", "10.96.0.10").stdout.splitlines()

    assert lines
    assert all(line.startswith("add row ip") for line in lines)


def test_explain_tells_the_story_and_that_the_kernel_agrees(synced: MemoryDataplane) -> None:
    result = kpx("explain", "10.96.0.10:80", "--from", "10.244.0.7")

    assert result.exit_code == 0
    assert "1. 10.96.0.10:80/TCP is the ClusterIP of Service shop/web, port http." in result.stdout
    assert "Verdict: forward" in result.stdout
    assert "The kernel agrees." in result.stdout
    assert "The way through the kernel's rows, rule by rule:" in result.stdout
    assert "  => 10.1.0.7:8080 (source kept), 10.1.0.8:8080 (source kept)" in result.stdout


def test_explain_tells_where_the_kernel_differs(synced: MemoryDataplane) -> None:
    del synced.kernel[FRONTENDS[Family.IPV4]][WEB]

    answer = kpx_json("explain", "10.96.0.10:80")

    assert answer["verdict"] == "forward"
    assert answer["kernel"]["agrees"] is False
    missing, *led_elsewhere = answer["kernel"]["differences"]
    assert missing == "10.96.0.10:80/TCP is missing from the kernel"
    assert led_elsewhere
    assert all("left alone by kpx, routed as usual; by the manifests: 10.1.0.7:8080" in each for each in led_elsewhere)
    assert {way["agrees"] for way in answer["walk"]} == {False}


def test_explain_tells_of_rows_behind_a_frontend_that_looks_right(synced: MemoryDataplane) -> None:
    slots = synced.kernel[ENDPOINTS[Family.IPV4]]
    slots[WEB, 0], slots[WEB, 1] = slots[WEB, 1], slots[WEB, 0]

    answer = kpx_json("explain", "10.96.0.10:80")

    assert answer["kernel"]["differences"] == ["Service shop/web: 2 rows of ip endpoints have other values in the kernel"]


def test_explain_tells_which_endpoint_the_client_is_kept_on(synced: MemoryDataplane) -> None:
    client, kept = parse_address("10.244.0.7"), Backend(parse_address("10.1.0.8"), 8080)
    synced.entries = [AffinityEntry(client, WEB, kept, 42.4, 10800.0)]

    answer = kpx_json("explain", "10.96.0.10:80", "--from", "10.244.0.7")

    assert answer["kernel"]["affinity"]["endpoint"] == "10.1.0.8:8080"
    assert "The kernel keeps 10.244.0.7 on 10.1.0.8:8080 for 42 s more" in kpx(
        "explain", "10.96.0.10:80", "--from", "10.244.0.7"
    ).stdout  # fmt: skip
    assert kpx_json("explain", "10.96.0.10:80", "--from", "10.244.0.8")["kernel"]["affinity"] is None


def test_explain_works_with_the_manifests_alone(manifests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(kernel: bool) -> MemoryDataplane:
        assert not kernel, "the kernel was opened"
        return MemoryDataplane()

    monkeypatch.setitem(registry.FACTORIES, "nftables", fail)

    answer = kpx_json("explain", "10.96.0.10:80", "--offline")

    assert (answer["verdict"], answer["service"]) == ("forward", "shop/web:http/TCP")
    assert [one["chosen"] for one in answer["endpoints"]] == [True, True, False]
    assert answer["kernel"]["consulted"] is False
    assert answer["walk"]
    assert all(way["agrees"] for way in answer["walk"])


def test_explain_works_with_the_kernel_alone(synced: MemoryDataplane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KPX_MANIFESTS")

    caught, left_alone = kpx_json("explain", "10.96.0.10:80"), kpx_json("explain", "10.96.0.10:81")

    assert caught["verdict"] == "forward"
    assert caught["kernel"]["frontend"]["endpoints"] == ["10.1.0.7:8080", "10.1.0.8:8080"]
    assert caught["kernel"]["agrees"] is None
    assert left_alone["verdict"] == "pass"
    assert caught.keys() == left_alone.keys()
    assert kpx("explain", "10.96.0.10:80", "--offline").exit_code == 2


def test_explain_says_the_same_keys_with_and_without_manifests(synced: MemoryDataplane, monkeypatch: pytest.MonkeyPatch) -> None:
    with_manifests = kpx_json("explain", "10.96.0.10:80")
    monkeypatch.delenv("KPX_MANIFESTS")

    without = kpx_json("explain", "10.96.0.10:80")

    assert with_manifests.keys() == without.keys()
    assert with_manifests["kernel"].keys() == without["kernel"].keys()


def test_cleanup_prints_what_it_removes_and_may_be_repeated(synced: MemoryDataplane) -> None:
    first, second = kpx("cleanup"), kpx("cleanup")

    assert first.exit_code == second.exit_code == 0
    assert first.stdout.splitlines()
    assert second.stdout == ""
    assert not synced.kernel


def test_cleanup_and_sync_refuse_while_an_agent_runs(synced: MemoryDataplane) -> None:
    assert holder() is None, "an agent serves this network namespace; the test cannot play one"
    before = dict(synced.kernel)

    with AgentLock():
        results = [kpx("cleanup"), kpx("sync"), kpx("run")]

    assert [result.exit_code for result in results] == [3, 3, 3]
    assert all(result.stderr.splitlines()[-1].startswith("kpx: error: ") for result in results)
    assert synced.kernel == before


def test_without_permission_the_answer_is_what_to_do(manifests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(ForbiddenDataplane()) as forbidden:
        monkeypatch.setitem(registry.FACTORIES, "nftables", lambda kernel: forbidden)

        for arguments in (("get", "rows"), ("diff",), ("cleanup",), ("sync",)):
            result = kpx(*arguments)
            assert result.exit_code == 4, arguments
            assert "the kernel's tables needs CAP_NET_ADMIN" in result.stderr.splitlines()[-1]
        story = kpx("explain", "10.96.0.10:80")
        assert story.exit_code == 0
        assert "The kernel was not consulted: reading the kernel's tables needs CAP_NET_ADMIN" in story.stdout


def test_mistakes_in_manifests_are_named_and_stop_nothing(synced: MemoryDataplane, manifests: Path) -> None:
    (manifests / "bad.yaml").write_text(BAD)

    result = kpx("diff")

    assert result.exit_code == 0
    (line,) = [line for line in result.stderr.splitlines() if "bad.yaml" in line]
    assert line.startswith("kpx: warning: ")
    assert "spec.ports[0].port" in line


def test_check_tells_of_the_host_and_of_the_manifests(plane: MemoryDataplane, manifests: Path) -> None:
    (manifests / "bad.yaml").write_text(BAD)

    answer = kpx_json("check", "--metrics-bind-address", "", "--healthz-bind-address", "")

    assert {check["status"] for check in answer["checks"]} <= {"ok", "look", "failed"}
    assert answer["able"] is not any(check["status"] == "failed" for check in answer["checks"])
    assert [finding["field"] for finding in answer["findings"]] == ["spec.ports[0].port"]
    assert all(check["remedy"] for check in answer["checks"] if check["status"] == "failed")


def test_check_that_finds_the_kernel_closed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(ForbiddenDataplane()) as forbidden:
        monkeypatch.setitem(registry.FACTORIES, "nftables", lambda kernel: forbidden)
        result = kpx("check")

    assert result.exit_code == 1
    assert "This host cannot run kpx" in result.stdout
