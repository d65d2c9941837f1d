"""Lay the neighbours of the load balancer: each a network namespace, behind a link and a router address of its own."""

from __future__ import annotations

import subprocess

NEIGHBOURS = {"web1": "10.1.1", "web2": "10.1.2", "client": "198.51.100"}


def ip(*arguments: str) -> None:
    """Run ip; a failure ends this program."""
    subprocess.run(["/usr/sbin/ip", *arguments], check=True)


def lay(name: str, network: str) -> None:
    """Add the neighbour with address .2, told to send everything to this machine, which is .1."""
    # Hardware addresses stay as they are over a reboot, as those of network cards do, and with them what IPv6 makes of them.
    hardware = "02:00:" + ":".join(f"{int(number):02x}" for number in network.split("."))
    ip("netns", "add", name)
    ip("link", "add", f"to-{name}", "address", f"{hardware}:01", "type", "veth", "peer", "name", "eth0", "netns", name)
    ip("address", "add", f"{network}.1/24", "dev", f"to-{name}")
    ip("link", "set", f"to-{name}", "up")
    ip("-n", name, "address", "add", f"{network}.2/24", "dev", "eth0")
    ip("-n", name, "link", "set", "lo", "up")
    ip("-n", name, "link", "set", "eth0", "up")
    ip("-n", name, "route", "add", "default", "via", f"{network}.1")


if __name__ == "__main__":
    for name, network in NEIGHBOURS.items():
        lay(name, network)
