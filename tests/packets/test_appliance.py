"""
The lab of vagrant/, built of namespaces from the same description: the same manifests, servers and probes, by real packets.

So what `vagrant up` ends with is known to pass, and known to fail when it should, before anybody starts a virtual machine.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.l2 import ARP, Ether

from tests.lab.appliance import INTERFACE, Appliance
from tests.lab.netns import PATIENCE

pytestmark = [pytest.mark.alike, pytest.mark.dataplane, pytest.mark.needs("bridge interfaces")]

ARP_REPLY = 2
ANSWER_S = 0.5 * PATIENCE


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    """Five machines; kpx runs on both load balancers."""
    with Appliance(tmp_path) as appliance:
        for name in appliance.balancers:
            appliance.start_kpx(name)
        yield appliance


def wrong_lines(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("WRONG")]


def test_everything_is_answered_as_it_must_be(appliance: Appliance) -> None:
    """TCP and UDP, every kind of address, through both load balancers (M3, M7); refusals (R1, R5, R7)."""
    done = appliance.probe()

    assert (done.returncode, done.stderr) == (0, ""), done.stdout + appliance.logs()
    assert done.stdout.splitlines()[-1] == "14 of 14 probes are as they must be"


def test_clients_are_never_sent_past_a_load_balancer(appliance: Appliance) -> None:
    """
    Client and load balancers may share their default gateway too; then the kernel would like to save a hop.

    The probes ask for an undeclared port, which is routed on (R7); all other ports must be where they were afterwards.
    """
    gateway = str(appliance.topology.network[1])
    appliance.be_gateway(gateway)
    for name in ("client", *appliance.balancers):
        appliance.hosts[name].namespace.ip(f"route replace default via {gateway}")
    first, second = appliance.probe(), appliance.probe()

    assert (first.returncode, second.returncode) == (0, 0), first.stdout + second.stdout


def test_the_address_of_a_service_is_nobodys_neighbour(appliance: Appliance) -> None:
    """No load balancer answers ARP for an address it forwards (D3), or two of them would fight over it on one network."""
    asked = appliance.topology.addresses.values()

    assert who_has(appliance, appliance.topology.named("lb1").address)
    assert [] == [address for address in asked if who_has(appliance, address)]


def test_probes_tell_a_load_balancer_without_kpx(appliance: Appliance) -> None:
    """What goes through the other one is still right."""
    appliance.stop("lb2")
    appliance.cleanup("lb2")
    done = appliance.probe()

    assert done.returncode == 1
    assert {"tomcat: load-balancer IP", "tomcat: node port of lb2", "whoami: node port of lb2"} == {
        line[7:].partition("   ")[0] for line in wrong_lines(done.stdout)
    }


def test_probes_tell_a_server_that_is_gone(appliance: Appliance) -> None:
    """A backend that nobody took out of the slices gets connections and refuses them."""
    appliance.stop("web2")
    done = appliance.probe()
    wrong = wrong_lines(done.stdout)

    assert done.returncode == 1
    assert len(wrong) == 8, done.stdout
    assert all("must be web1 and web2" in line for line in wrong)


def test_probes_tell_a_source_that_is_not_the_load_balancers(appliance: Appliance) -> None:
    """Without masquerade the server sees the client and answers it directly, which on one network breaks the connection."""
    appliance.stop("lb1")
    appliance.cleanup("lb1")
    appliance.topology.agent["masquerade_all"] = False  # type: ignore[index]
    appliance.start_kpx("lb1")
    done = appliance.probe()

    assert done.returncode == 1
    assert ["tomcat: cluster IP", "whoami: cluster IP"] == [line[7:].partition("   ")[0] for line in wrong_lines(done.stdout)]


def who_has(appliance: Appliance, address: str) -> bool:
    """Ask the client's network for an address; tell whether anybody claims it."""
    asker = appliance.topology.named("client")
    with appliance.client.namespace.entered():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
        wire.bind((INTERFACE, 0x0806))
        mac = ":".join(f"{byte:02x}" for byte in wire.getsockname()[4])
    with wire:
        wire.send(bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=mac, psrc=asker.address, pdst=address)))
        deadline = time.monotonic() + ANSWER_S
        while select.select([wire], [], [], max(0.0, deadline - time.monotonic()))[0]:
            heard = Ether(wire.recv(2048))[ARP]
            if heard.op == ARP_REPLY and heard.psrc == address:
                return True
    return False
