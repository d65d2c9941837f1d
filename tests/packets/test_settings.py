"""An agent that goes by kube-proxy's own file: what it says holds for packets, also when it changes while they flow (16.7)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.netns import PATIENCE
from tests.lab.probes import Outcome, probe
from tests.lab.world import NodeConfig, World
from tests.packets.test_lifecycle import NODE_OBJECT, POD, TO_CLUSTER_IP, service, slice_of

pytestmark = [pytest.mark.alike, pytest.mark.dataplane]
NODE = NodeConfig("n1", ("192.168.10.1",), ("10.244.0.0/16",), ("192.168.0.0/16",))
OBJECTS = [NODE_OBJECT, service("tomcat", "10.96.0.10", 30080), slice_of("tomcat", "10.244.1.1", "10.244.2.1", "10.244.1.2")]
SOON_S = 5.0 * PATIENCE
CLOSE_WAIT = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait"

KUBE_PROXY = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ""
configSyncPeriod: 15m0s
conntrack: {{maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: {close_wait}}}
iptables: {{masqueradeAll: {masquerade_all}}}
oomScoreAdj: 0
"""


class Settings:
    """The file the agent goes by."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write()

    def write(self, masquerade_all: str = "false", close_wait: str = "1h0m0s", more: str = "") -> None:
        hidden = self.path.with_name(".next")
        hidden.write_text(KUBE_PROXY.format(masquerade_all=masquerade_all, close_wait=close_wait) + more)
        hidden.rename(self.path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "settings").mkdir()
    return Settings(tmp_path / "settings" / "config.conf")


@pytest.fixture
def world(tmp_path: Path, settings: Settings) -> Iterator[World]:
    """A node whose agent runs with that file."""
    with World(NODE, OBJECTS, [TO_CLUSTER_IP], tmp_path) as world:
        world.agent.run_options = ("--config", str(settings.path))
        world.agent.write(OBJECTS, mark=False)
        world.agent.start()
        yield world
        world.clean_up()


def soon(reached: Callable[[], bool], world: World) -> None:
    deadline = time.monotonic() + SOON_S
    while not reached():
        assert time.monotonic() < deadline, f"not within {SOON_S} s: {world.agent.log_tail()}"


def ask(world: World) -> Outcome:
    """One new connection of a pod."""
    return probe(world.host(POD).namespace, "TCP", POD, "10.96.0.10", 80)


def close_wait(world: World) -> str:
    return world.node.namespace.run("cat", CLOSE_WAIT).stdout.strip()


def test_what_changes_in_the_file_is_what_packets_meet(world: World, settings: Settings) -> None:
    world.check(TO_CLUSTER_IP)
    assert ask(world).seen == POD
    soon(lambda: close_wait(world) == "3600", world)
    pid = world.agent.pid

    settings.write(masquerade_all="true", close_wait="30m0s")

    soon(lambda: ask(world).seen != POD, world)
    soon(lambda: close_wait(world) == "1800", world)
    world.check(TO_CLUSTER_IP)
    assert world.agent.pid == pid
    assert "configSyncPeriod: not needed" in world.agent.log.read_text()


def test_file_that_is_wrong_changes_nothing_for_anybody(world: World, settings: Settings) -> None:
    settings.write(masquerade_all="perhaps", close_wait="5s")
    soon(lambda: "the settings stay as they were" in world.agent.log.read_text(), world)

    assert ask(world).seen == POD
    assert close_wait(world) == "3600"
    assert f"{settings.path}:7: iptables.masqueradeAll: expected true or false, got text" in world.agent.log.read_text()


def test_what_takes_a_new_start_ends_the_agent_and_not_the_forwarding(world: World, settings: Settings) -> None:
    settings.write(more="metricsBindAddress: 127.0.0.1:10259\n")

    assert world.agent.ended(SOON_S) == 3
    assert f"--metrics-bind-address in {settings.path} changed, which takes a new start" in world.agent.log_tail(1)
    assert ask(world).verdict == "answered"
    settings.write()
    world.agent.start()
    assert ask(world).verdict == "answered"


def test_every_verb_takes_the_file_of_the_agent(world: World, settings: Settings) -> None:
    for arguments in (("diff",), ("get", "frontends"), ("explain", "10.96.0.10:80"), ("check",)):
        verb, *rest = arguments
        assert world.agent.kpx(verb, *rest, "--config", str(settings.path)).stderr.count("error") == 0
