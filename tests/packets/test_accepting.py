"""A firewall of this host that drops what nobody accepts, and what it takes to let Services through (`--accept-forwarded`)."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpx.host import accepting
from kpx.host.accepting import CHAIN
from kpx.kernel.iptables import DIRECTORIES
from kpx.model.addresses import Family
from tests.lab.netns import Namespace
from tests.lab.objects import node, port, service, slice_of
from tests.lab.ruleset import nft
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, ask, begin, eventually, shop
from tests.lab.world import World

pytestmark = [pytest.mark.dataplane, pytest.mark.needs("iptables")]

VERSIONS = pytest.mark.parametrize("v", [4, 6])
VIP = {4: "10.96.0.10", 6: "fd00:96::10"}
OF_NODE = {4: "10.96.0.20", 6: "fd00:96::20"}
NODE_PORT = {4: 30080, 6: 30086}
HERE = {v: ENDPOINTS[v][0] for v in (4, 6)}
OBJECTS = [
    node(*NODE.values()),
    *(service(f"web{v}", VIP[v], port(80, node_port=NODE_PORT[v])) for v in (4, 6)),
    *(slice_of(f"web{v}", *ENDPOINTS[v], remote=[ENDPOINTS[v][2]]) for v in (4, 6)),
    *(service(f"host{v}", OF_NODE[v]) for v in (4, 6)),
    *(slice_of(f"host{v}", NODE[v]) for v in (4, 6)),
]  # fmt: skip
FIREWALL = """
*filter
:INPUT DROP
:FORWARD DROP
-F INPUT
-F FORWARD
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"""
LOOKS_S = 15.0


def raise_firewall(world: World) -> None:
    """Load a firewall of iptables, as somebody does who knows nothing of kpx."""
    for program in ("iptables-restore", "ip6tables-restore"):
        world.node.namespace.run(program, "--noflush", stdin=FIREWALL)


def rules(world: World) -> str:
    return "".join(world.node.namespace.run(f"{program}-save", "-t", "filter").stdout for program in ("iptables", "ip6tables"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A node that serves behind a firewall; options may still be added."""
    with shop(OBJECTS, tmp_path, versions=(4, 6)) as world:
        yield world
        world.clean_up()


def reached(world: World, v: int) -> list[bool]:
    """By the way: a pod and an outsider to endpoints by forwarding, and to a process of this host by input."""
    ways = ((POD[v], VIP[v], 80), (CLIENT[v], NODE[v], NODE_PORT[v]), (POD[v], OF_NODE[v], 80))
    return [ask(world, source, to, number, timeout_s=1.0).verdict == "answered" for source, to, number in ways]


def test_flows_of_services_pass_and_others_do_not(world: World) -> None:
    raise_firewall(world)
    world.agent.run_options = ("--accept-forwarded",)
    begin(world, OBJECTS)

    for v in (4, 6):
        for _ in range(6):
            assert reached(world, v) == [True, True, True]
        assert ask(world, CLIENT[v], HERE[v], 8080).verdict == "silence", "it accepts more than flows of Services"


def test_without_it_the_firewall_drops_them(world: World) -> None:
    """What the setting is for, and that nothing is written unless it is asked for."""
    raise_firewall(world)
    begin(world, OBJECTS)

    assert [reached(world, v) for v in (4, 6)] == [[False] * 3] * 2
    assert CHAIN not in rules(world)


def test_a_firewall_that_is_loaded_anew_is_entered_again(world: World) -> None:
    world.agent.run_options = ("--accept-forwarded",)
    begin(world, OBJECTS)
    raise_firewall(world)

    eventually(lambda: rules(world).count(f"-j {CHAIN}") == 4, world, LOOKS_S)
    assert [reached(world, v) for v in (4, 6)] == [[True] * 3] * 2
    assert "the firewall of iptables" in world.agent.log.read_text()


def test_an_agent_that_is_not_asked_takes_it_away(world: World) -> None:
    """Rules are a function of the settings, not of what was asked for once."""
    world.agent.run_options = ("--accept-forwarded",)
    begin(world, OBJECTS)
    raise_firewall(world)
    world.agent.stop()
    world.agent.run_options = ()
    world.agent.start()

    eventually(lambda: CHAIN not in rules(world), world)
    assert ":FORWARD DROP" in rules(world)


def test_a_file_switches_it_on_and_off(world: World, tmp_path: Path) -> None:
    settings = tmp_path / "settings" / "kpx.yaml"
    settings.parent.mkdir()

    def say(wish: str) -> None:
        hidden = settings.with_name(".next")
        hidden.write_text(f"apiVersion: kpx.io/v1alpha1\nkind: KpxConfiguration\nacceptForwarded: {wish}\n")
        hidden.rename(settings)

    say("false")
    world.agent.run_options = ("--config", str(settings))
    begin(world, OBJECTS)
    say("true")
    eventually(lambda: CHAIN in rules(world), world)
    say("false")
    eventually(lambda: CHAIN not in rules(world), world)


@pytest.mark.dataplane("nftables")
@VERSIONS
def test_a_firewall_of_nftables_needs_a_rule_of_its_own(world: World, v: int) -> None:
    """No rule of ours can overrule a drop in another base chain (docs/differences.md); the one word it takes there is this."""
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority 0; policy drop; iifname lo accept; ct state established accept; }}\n"
        for hook in ("input", "forward")
    )
    nft(world.node.namespace, "-f", "-", stdin=f"table inet firewall {{\n{chains}}}\n")
    world.agent.run_options = ("--accept-forwarded",)
    begin(world, OBJECTS)

    assert reached(world, v) == [False, False, False]
    for hook in ("input", "forward"):
        nft(world.node.namespace, "add", "rule", "inet", "firewall", hook, "ct", "status", "dnat", "accept")
    assert reached(world, v) == [True, True, True]


@pytest.mark.dataplane("nftables")
@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_both_kinds_of_iptables_take_the_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    """Made once, found right, found at all, and taken away; whichever of them the host calls iptables."""
    for program in ("iptables", "ip6tables"):
        path = shutil.which(f"{program}-{variant}-save", path=DIRECTORIES)
        if path is None:
            pytest.skip(f"{program}-{variant} is not installed")
        for verb in ("save", "restore"):
            (tmp_path / f"{program}-{verb}").symlink_to(Path(path).with_name(f"{program}-{variant}-{verb}"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{DIRECTORIES}")
    host = Namespace("host")
    with contextlib.closing(host), host.entered():
        assert not any(map(accepting.is_there, Family))
        assert len(accepting.ensure(Family, accepting.rules(0x1000))) == len(Family)
        assert accepting.ensure(Family, accepting.rules(0x1000)) == []
        assert all(map(accepting.is_there, Family))
        assert len(accepting.ensure(Family, ())) == len(Family)
        assert accepting.ensure(Family, ()) == []
        assert host.run(f"iptables-{variant}-save").stdout.count(CHAIN) == 0
