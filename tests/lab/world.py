"""
A cluster seen from one node, laid out from what a case or a flow table says about it.

Every endpoint and every client gets a namespace of its own. Endpoints of this node, and pods that ask, hang off the node;
everything else hangs off the fabric beyond it. Behind every address that is asked stands a bystander, on the node if the
address is the node's and on the fabric otherwise: it answers when kpx lets a packet pass that it should have caught, and
it is who must answer when kpx has to keep out.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from tests.lab.agent import Agent, Object, refuse_markers
from tests.lab.flows import Judge, Row, endpoint_name
from tests.lab.holdings import HOLDINGS, left_behind
from tests.lab.http_row import Request, complaint
from tests.lab.netns import Namespace
from tests.lab.probes import Flow
from tests.lab.topology import Host, Lab
from tests.lab.traffic import Responder

NODE = "node"
ELSEWHERE = "elsewhere"
ANY_EXTERNAL_IP = ("--external-ip-ranges", "all,node,api-server")
"""What kube-proxy does, whose cases ours are: any address may be an external IP."""


class NodeConfig(NamedTuple):
    """
    This node, as a case says it (tests/cases/README.md).

    Args:
        node_port_addresses: ranges; none at all means every address.
        versions: the IP versions the node has addresses of.
        pod_interfaces: how interfaces of pods are named, for detection by interface; "" for any name.
        bridge: pods hang off this bridge.
        options: further options for the agent.
    """

    name: str
    local_addresses: tuple[str, ...]
    cluster_cidrs: tuple[str, ...] = ()
    node_port_addresses: tuple[str, ...] = ()
    masquerade_all: bool = False
    versions: tuple[int, ...] = (4,)
    pod_interfaces: str = ""
    bridge: str = ""
    options: tuple[str, ...] = ()

    @classmethod
    def from_case(cls, config: Mapping[str, Any]) -> NodeConfig:
        """Read `config` of a case; the cases are from kube-proxy, where any address may be an external IP."""
        return cls(
            name=config["nodeName"],
            local_addresses=tuple(config["localAddresses"]),
            cluster_cidrs=tuple(config["clusterCIDRs"]) if config["detectLocalMode"] == "ClusterCIDR" else (),
            node_port_addresses=tuple(config["nodePortAddresses"]),
            masquerade_all=config["masqueradeAll"],
            versions=tuple(int(family[-1]) for family in config["ipFamilies"]),
            options=ANY_EXTERNAL_IP,
        )

    def command_options(self) -> Iterator[str]:
        """What the agent must be told."""
        yield from ("--hostname-override", self.name)
        yield from ("--nodeport-addresses", ",".join(self.node_port_addresses or ("0.0.0.0/0", "::/0")))
        if self.cluster_cidrs:
            yield from ("--cluster-cidr", ",".join(self.cluster_cidrs))
        if self.masquerade_all:
            yield "--masquerade-all"
        yield from self.options


class Server(NamedTuple):
    """An endpoint somewhere in the objects of a case."""

    address: str
    port: int
    protocol: str
    node: str | None


def servers_of(objects: Iterable[Object]) -> Iterator[Server]:
    """Yield every endpoint and port that any EndpointSlice names."""
    for each in objects:
        if each["kind"] != "EndpointSlice":
            continue
        for endpoint in each.get("endpoints") or ():
            for port in each.get("ports") or ():
                if endpoint.get("addresses") and port.get("port"):
                    address = str(ipaddress.ip_address(endpoint["addresses"][0]))
                    yield Server(address, port["port"], port.get("protocol") or "TCP", endpoint.get("nodeName"))


class World:
    """
    The laid-out cluster with its agent; use as a context manager.

    Args:
        objects: every object that will ever be written, so that all endpoints are there from the start.
        rows: every row that will ever be asked.
        directory: for manifests and log.
    """

    def __init__(self, config: NodeConfig, objects: Sequence[Object], rows: Sequence[Row], directory: Path) -> None:
        self.config = config
        self._servers = set(servers_of(objects))
        self._rows = rows
        self._hosts: dict[str, Host] = {}
        with contextlib.ExitStack() as undo:
            self.lab = undo.enter_context(Lab())
            self.responder = undo.enter_context(contextlib.closing(Responder()))
            self.node = self.lab.host(NODE, config.local_addresses)
            self.fabric = self.lab.fabric()
            refuse_markers(self.fabric)
            with self.lab.at_once():
                self._lay_out()
            # Where kpx listens itself at times the lab must not; what differs there between times is the point of the case.
            vacant = {(canonical(row.destination), row.port) for row in rows if row.expected.verdict == "accept"}
            self._serve(vacant)
            judge = Judge(frozenset(config.local_addresses), frozenset((NODE, ELSEWHERE)), frozenset(vacant))
            self.judge = undo.enter_context(contextlib.closing(judge))
            self.agent = Agent(self.node, directory, tuple(config.command_options()), config.versions)
            undo.callback(self.agent.stop)
            self._undo = undo.pop_all()

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._undo.close()

    def check(self, row: Row) -> None:
        """Ask a row; fails with what was seen and the agent's last words."""
        wrong = self.judge.eventually(self.client(row), row)
        assert not wrong, f"{wrong}\n{self.agent.log_tail()}"

    def request(self, request: Request, within_s: float) -> None:
        """Ask a health-check node port until it answers as it should; fails like `check`."""
        wrong = complaint(self.client(request.row()), request, within_s)
        assert not wrong, f"{wrong}\n{self.agent.log_tail()}"

    def client(self, row: Row) -> Namespace:
        """The namespace a row is asked from."""
        if row.kind in ("node", "loopback", "node-as-vip"):
            if row.kind == "node-as-vip" and row.source not in self.node.addresses:
                self.node.add_address(row.source, "uplink")  # on lo it would be what the node calls itself to pods
            return self.node.namespace
        return self._hosts[canonical(row.source)].namespace

    def flow(self, protocol: str, source: str, to: str, port: int, source_port: int = 0) -> Flow:
        """Open a flow that is asked more than once, "" from the node; it ends with the world unless somebody ends it before."""
        namespace = self.host(source).namespace if source else self.node.namespace
        flow = Flow(namespace, protocol, source, to, port, source_port)
        self._undo.callback(flow.close)
        return flow

    def wind_up(self) -> None:
        """End a scenario: what is there can be listed, and after `kpx cleanup` nothing of it is there any more."""
        assert HOLDINGS[self.agent.mode].ours(self.node.namespace), "the agent has written nothing"
        self.clean_up()

    def clean_up(self) -> None:
        """Stop the agent; after `kpx cleanup` nothing of kpx is in the kernel, whatever data planes were used."""
        self.agent.stop()
        done = self.agent.bare("cleanup")
        assert done.returncode == 0, done.stderr
        left = left_behind(self.node.namespace)
        assert not left, f"kpx cleanup leaves behind:\n{left}"

    def host(self, address: str) -> Host:
        """The host that has an address."""
        return self._hosts[canonical(address)]

    def _lay_out(self) -> None:
        """Place every address: on the node, behind it, or beyond it."""
        own = {canonical(each) for each in self.config.local_addresses}
        pods = {canonical(row.source) for row in self._rows if row.kind == "pod"}
        pods |= {server.address for server in self._servers if server.node == self.config.name}
        outside = {canonical(row.source) for row in self._rows if row.kind == "external"}
        remote = {server.address for server in self._servers} - pods - own
        pods -= own
        self.lab.uplink(self.node, self.fabric, pods=sorted(pods), default=True)
        for number, address in enumerate(sorted(pods)):
            interface = f"{self.config.pod_interfaces}{number}" if self.config.pod_interfaces else ""
            self._add(f"pod-{address}", address, self.node, interface, self.config.bridge)
        for address in sorted(remote | (outside - pods - own)):
            self._add(f"remote-{address}", address, self.fabric)

    def _add(self, title: str, address: str, router: Host, interface: str = "", bridge: str = "") -> None:
        host = self.lab.host(title, [address])
        self.lab.attach(host, router, interface, bridge)
        self._hosts[address] = host

    def _serve(self, vacant: Collection[tuple[str, int]]) -> None:
        """Start every endpoint, and every bystander but at the vacant places."""
        own = {canonical(each) for each in self.config.local_addresses}
        taken = set()
        for server in sorted({each[:3] for each in self._servers}):
            address, port, protocol = server
            host = self.node if address in own else self._hosts[address]
            self.responder.listen(host.namespace, endpoint_name(address, port), protocol, address, port)
            taken.add(server)
        for row in self._rows:
            destination = canonical(row.destination)
            key = (destination, row.port, row.protocol)
            if key in taken or (destination, row.port) in vacant:
                continue
            taken.add(key)
            if destination in own or ipaddress.ip_address(destination).is_loopback:
                self.responder.listen(self.node.namespace, NODE, row.protocol, destination, row.port)
            else:
                self.responder.listen(self.fabric.namespace, ELSEWHERE, row.protocol, destination, row.port)


def canonical(address: str) -> str:
    """One spelling of an address."""
    return str(ipaddress.ip_address(address))
