"""
What follows from the description of the lab: addresses, manifests, routes, settings of the agents.

Virtual machines are told the description as JSON, with all overrides in it (topology.rb); the namespaces of
tests/lab/appliance.py take topology.yaml as it is. Everything else is derived here, once for both.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import string
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
TOLD = Path("/etc/kpx-lab/topology.json")
"""Where a virtual machine keeps what it was told."""


class Machine(NamedTuple):
    """One machine; `role` is lb, web or client."""

    name: str
    role: str
    address: str


class Topology(NamedTuple):
    """
    The lab.

    Args:
        network: the range all machines are in.
        machines: in the order they come up.
        service_range: the ServiceCIDR.
        addresses: of Services, by the name that manifests call them.
        routes: of the client: a name of `addresses`, or service_range, and the machine it is reached through.
        agent: settings of kpx, by their names with underscores.
    """

    network: ipaddress.IPv4Network
    machines: tuple[Machine, ...]
    service_range: str
    addresses: Mapping[str, str]
    routes: Mapping[str, str]
    agent: Mapping[str, Any]

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Topology:
        """Read topology.yaml's content; machines without an address get theirs from the network and their number."""
        network = ipaddress.IPv4Network(description["network"])
        return cls(
            network,
            tuple(
                Machine(name, each["role"], each.get("address") or str(network[each["number"]]))
                for name, each in description["machines"].items()
            ),
            description["service_range"],
            description["addresses"],
            description["routes"],
            description["agent"],
        )

    def named(self, name: str) -> Machine:
        """The machine of that name."""
        return next(machine for machine in self.machines if machine.name == name)

    def having(self, role: str) -> list[Machine]:
        """The machines of a role."""
        return [machine for machine in self.machines if machine.role == role]


def manifests(topology: Topology) -> dict[str, str]:
    """The manifests by file name, with addresses where they have `${names}`; a name that means nothing is a KeyError."""
    names = {machine.name: machine.address for machine in topology.machines}
    names |= {"service_range": topology.service_range, **topology.addresses}
    return {
        path.name: string.Template(path.read_text()).substitute(names) for path in sorted((HERE / "manifests").glob("*.yaml"))
    }


def settings(topology: Topology, name: str) -> dict[str, str]:
    """The agent's settings on a load balancer, as variables of its environment."""
    machine = topology.named(name)
    values = {"hostname_override": machine.name, "bind_address": machine.address, **topology.agent}
    return {f"KPX_{key.upper()}": str(value).lower() if value in (True, False) else str(value) for key, value in values.items()}


def client_routes(topology: Topology) -> list[str]:
    """The client's routes to Services, as lines for `ip -batch`; applying them again changes nothing."""
    return [
        f"route replace {topology.addresses.get(name) or topology.service_range} via {topology.named(gateway).address}"
        for name, gateway in topology.routes.items()
    ]


def sysctls() -> dict[str, int]:
    """
    What a load balancer must be besides running kpx; `*` is every interface, as in sysctl.d(5).

    Clients, load balancers and servers share one network, so the kernel offers clients ICMP redirects. Those of translated
    connections are dropped on their way out (nf_nat_icmp_reply_translation), but each uses up what ICMP errors may be sent
    to that client (ip_rt_send_redirect empties rate_tokens), so refusals come a second late or not at all. And one about an
    undeclared port arrives, and the client may then go past the load balancer for every port of that address.
    """
    return {"net.ipv4.ip_forward": 1, "net.ipv4.conf.*.send_redirects": 0}


def write_manifests(topology: Topology, directory: Path) -> None:
    """Write the manifests as the agent wants it: under a hidden name, then renamed; equal files are left alone."""
    for name, text in manifests(topology).items():
        path, hidden = directory / name, directory / f".{name}"
        if not path.exists() or path.read_text() != text:
            hidden.write_text(text)
            hidden.chmod(0o644)
            hidden.rename(path)


def load(path: Path) -> Topology:
    """Read a description in JSON."""
    return Topology.of(json.loads(path.read_text()))


def main(arguments: list[str]) -> None:
    """Answer a machine that asks what it has to be."""
    parser = argparse.ArgumentParser(prog="python3 -m vagrant.topology", description=__doc__.strip().splitlines()[0])
    parser.add_argument("--topology", type=Path, default=TOLD, metavar="FILE", help="the description, in JSON")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("manifests", help="write the manifests").add_argument("directory", type=Path)
    verbs.add_parser("settings", help="settings of kpx, for an environment file").add_argument("machine")
    verbs.add_parser("address", help="address of a machine").add_argument("machine")
    verbs.add_parser("routes", help="routes of the client, for ip -batch")
    verbs.add_parser("sysctls", help="sysctls of a load balancer, for sysctl.d")
    asked = parser.parse_args(arguments)
    topology = load(asked.topology)
    lines: list[str] = []
    if asked.verb == "manifests":
        write_manifests(topology, asked.directory)
    elif asked.verb == "settings":
        lines = [f"{key}={value}" for key, value in settings(topology, asked.machine).items()]
    elif asked.verb == "address":
        lines = [topology.named(asked.machine).address]
    elif asked.verb == "routes":
        lines = client_routes(topology)
    else:
        lines = [f"{key} = {value}" for key, value in sysctls().items()]
    sys.stdout.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main(sys.argv[1:])
