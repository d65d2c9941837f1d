"""
Who is connected to whom: nodes, pods, clients and the network between them.

    outside hosts ─┐                      ┌─ pods of this node
                   ├─ fabric ─── node ────┤
    remote pods  ──┘                      └─ pods of this node

Every host is a network namespace on a veth pair of its own, with addresses of full length and a default route, as CNIs
like Calico do it: nothing is on-link with anything, so every packet passes the node that would see it in reality.
Neighbour entries are permanent; no packet of the lab is ever lost or late because of ARP.

The fabric stands for all of the network beyond the node. Packets from hosts that hang off it go to the node first, which
stands for "the route to a Service address leads to this node"; packets that leave the node and belong to nobody end at
the fabric itself, which owns all remaining addresses, so "routed as usual" can be told from "lost".
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
from collections.abc import Iterable, Iterator
from types import TracebackType

from tests.lab.netns import Namespace

GATEWAY = {4: "169.254.1.1", 6: "fe80::1"}
ROUTER_MAC = "02:00:00:00:00:01"
NODE_TABLE = 10
EVERYTHING_ELSE_TABLE = 11
LINKS, ADDRESSES, ROUTES = range(3)


def version(address: str) -> int:
    """4 or 6."""
    return ipaddress.ip_address(address).version


def full(address: str) -> str:
    """The address as a prefix of full length."""
    return f"{address}/{32 if version(address) == 4 else 128}"


class Host:
    """A namespace with addresses: a pod, a client, a node or the fabric."""

    def __init__(self, title: str, addresses: Iterable[str] = (), persistent_name: str = "") -> None:
        self.title = title
        self.addresses = list(addresses)
        self.namespace = Namespace(title, persistent_name)
        self.namespace.sysctl(
            ipv4__conf__all__rp_filter=0, ipv4__conf__default__rp_filter=0,
            ipv6__conf__all__accept_dad=0, ipv6__conf__default__accept_dad=0,
            ipv6__conf__default__addr_gen_mode=1,
            # Refusals are counted here, hundreds a second; the kernel's courtesy of few ICMP errors would hide them.
            ipv4__icmp_ratelimit=0, ipv4__icmp_msgs_per_sec=100000, ipv4__icmp_msgs_burst=100000, ipv6__icmp__ratelimit=0,
        )  # fmt: skip

    def add_address(self, address: str, interface: str = "lo") -> None:
        """Own one more address."""
        self.namespace.ip(f"address add {full(address)} dev {interface}{' nodad' if version(address) == 6 else ''}")
        self.addresses.append(address)

    def forward(self) -> None:
        """Become a router."""
        self.namespace.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)


class Lab:
    """
    The network of one test; leaving the `with` block removes all of it.

    Args:
        persistent_prefix: give every namespace the name `<prefix><title>`, so that people can enter it.
    """

    def __init__(self, persistent_prefix: str = "") -> None:
        self._prefix = persistent_prefix
        self._undo = contextlib.ExitStack()
        self._numbers = itertools.count(2)
        self._bridges: set[tuple[Namespace, str]] = set()
        self._steps: tuple[dict[tuple[Namespace, int], list[str]], ...] | None = None
        self.hosts: list[Host] = []

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._undo.close()

    def keep(self) -> None:
        """Leave everything as it is when the block ends; only named namespaces survive the process."""
        self._undo.pop_all()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """
        Do all wiring of the block at its end, with one `ip` for each namespace and step.

        Starting a program takes longer than what it does here, on an emulated processor a hundred times as long.
        """
        self._steps = ({}, {}, {})
        try:
            yield
            for step in self._steps:
                for (namespace, version), lines in step.items():
                    namespace.ip(*lines, version=version)
        finally:
            self._steps = None

    def _wire(self, step: int, namespace: Namespace, *lines: str, version: int = 0) -> None:
        """Run lines of iproute2, or leave them to the end of `at_once`: links first, then their ends, then the ways there."""
        if self._steps is None:
            namespace.ip(*lines, version=version)
        else:
            self._steps[step].setdefault((namespace, version), []).extend(lines)

    def host(self, title: str, addresses: Iterable[str] = ()) -> Host:
        """Make a host that is not connected to anything yet."""
        host = Host(title, addresses, self._prefix + title if self._prefix else "")
        self._undo.callback(host.namespace.close)
        self.hosts.append(host)
        return host

    def fabric(self) -> Host:
        """Make the network beyond the nodes; it owns every address that no host has."""
        fabric = self.host("fabric")
        fabric.forward()
        # Its own sockets must not catch packets that still have to pass the node.
        fabric.namespace.sysctl(ipv4__ip_early_demux=0)
        fabric.namespace.ip(
            "address add 100.64.0.1/32 dev lo",
            "address add 100::1/128 dev lo nodad",
            f"route add local 0.0.0.0/0 dev lo table {EVERYTHING_ELSE_TABLE}",
            f"route add local ::/0 dev lo table {EVERYTHING_ELSE_TABLE}",
        )
        return fabric

    def attach(self, host: Host, router: Host, interface: str = "", bridge: str = "") -> str:
        """
        Connect a host to a router and route the host's addresses there.

        Args:
            interface: name of the router's end, a fresh one by default.
            bridge: make the router's end a port of this bridge, in hairpin mode as CNIs set it.

        Returns:
            The interface of the router that packets of the host come in by.
        """
        number = next(self._numbers)
        port = interface or f"veth{number}"
        mac = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
        self._wire(
            LINKS,
            router.namespace,
            f"link add {port} address {ROUTER_MAC} type veth peer name eth0 address {mac} netns {host.namespace.path}",
            f"link set {port} up",
        )
        self._wire(
            ADDRESSES,
            host.namespace,
            "link set eth0 up",
            *(f"address add {full(a)} dev eth0{' nodad' if version(a) == 6 else ''}" for a in host.addresses),
            *(f"neighbour replace {GATEWAY[v]} lladdr {ROUTER_MAC} dev eth0 nud permanent" for v in (4, 6)),
            "route replace default via 169.254.1.1 dev eth0 onlink",
            "route replace ::/0 via fe80::1 dev eth0 onlink",
        )
        if bridge:
            self._port_of(router, port, bridge)
        self.route(router, host.addresses, bridge or port, mac)
        return bridge or port

    def _port_of(self, router: Host, port: str, bridge: str) -> None:
        if (router.namespace, bridge) not in self._bridges:
            self._bridges.add((router.namespace, bridge))
            self._wire(LINKS, router.namespace, f"link add {bridge} address {ROUTER_MAC} type bridge", f"link set {bridge} up")
        # A port must not have the bridge's own address, or frames for the gateway would look like the port's.
        self._wire(
            LINKS,
            router.namespace,
            f"link set {port} address 02:00:00:00:ff:{next(self._numbers) & 255:02x}",
            f"link set {port} master {bridge}",
            f"link set {port} type bridge_slave hairpin on",
        )

    def route(self, router: Host, addresses: Iterable[str], interface: str, mac: str) -> None:
        """Route addresses out of an interface, to the host with this link address."""
        lines = []
        for address in addresses:
            lines.append(f"neighbour replace {address} lladdr {mac} dev {interface} nud permanent")
            lines.append(f"route replace {full(address)} dev {interface}")
        self._wire(ROUTES, router.namespace, *lines)

    def uplink(self, node: Host, fabric: Host, pods: Iterable[str] = (), default: bool = False) -> None:
        """
        Connect a node to the fabric; the node's addresses go on the interface `uplink`.

        Args:
            pods: addresses that the fabric routes to this node besides the node's own.
            default: whatever other hosts of the fabric send goes through this node.
        """
        node.forward()
        number = next(self._numbers)
        port, mac = f"node{number}", f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
        self._wire(
            LINKS,
            fabric.namespace,
            f"link add {port} address {ROUTER_MAC} type veth peer name uplink address {mac} netns {node.namespace.path}",
            f"link set {port} up",
            *(f"neighbour replace {GATEWAY[v]} lladdr {mac} dev {port} nud permanent" for v in (4, 6) if default),
        )
        self._wire(
            ADDRESSES,
            node.namespace,
            "link set uplink up",
            *(f"address add {full(a)} dev uplink{' nodad' if version(a) == 6 else ''}" for a in node.addresses),
            *(f"neighbour replace {GATEWAY[v]} lladdr {ROUTER_MAC} dev uplink nud permanent" for v in (4, 6)),
            "route replace default via 169.254.1.1 dev uplink onlink",
            "route replace ::/0 via fe80::1 dev uplink onlink",
        )
        self.route(fabric, [*node.addresses, *pods], port, mac)
        if default:
            for v in (4, 6):
                self._wire(ROUTES, fabric.namespace, *_node_first(port, GATEWAY[v]), version=v)


def _node_first(port: str, gateway: str) -> Iterable[str]:
    """Policy routing of the fabric: packets from the node or itself go where they belong, all others to the node first."""
    for interface in ("lo", port):
        yield f"rule add priority 10 iif {interface} lookup main"
        yield f"rule add priority 11 iif {interface} lookup {EVERYTHING_ELSE_TABLE}"
    yield f"rule add priority 20 lookup {NODE_TABLE}"
    yield f"route add default via {gateway} dev {port} table {NODE_TABLE} onlink"
