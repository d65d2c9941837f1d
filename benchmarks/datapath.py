"""
What packets see: new connections and first packets through a ClusterIP, against one hand-written DNAT rule.

For each size of cluster there is a node with that many Services, between a client and a server of its own, and one more node
whose only rule is written by hand. All are network namespaces of this machine, linked by veth pairs. The client opens connections
a few hundred at a time, first through one node, then through the next: whatever else the machine does hits all alike. Each
connection is timed by itself and the median of a visit counts, so that a moment in which somebody else had the processor does
not. How far the result may be off is computed from how much the visits differ.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.manifests import CLUSTER_CIDR, Cluster
from benchmarks.spread import ratios, uncertainty
from benchmarks.stages import NODE
from tests.lab.netns import Namespace

SERVICE: Final = "10.95.0.1"
PORT, TARGET_PORT = 80, 8080
CLIENT, SERVER = "10.200.0.2", "10.201.0.2"
BACKLOG: Final = 4096
VISIT: Final = 200
"""Connections, and first packets, at a time."""
HAND: Final = f"""
table ip hand {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        ip daddr {SERVICE} meta l4proto {{ tcp, udp }} th dport {PORT} dnat to {SERVER}:{TARGET_PORT}
    }}
}}
"""
_RESET: Final = struct.pack("ii", 1, 0)


class Against(NamedTuple):
    """
    A way compared with the hand-written rule, visit by visit: 1.05 is 5 % slower.

    Args:
        off: how far the ratio before it may be off, in 95 of 100 runs.
    """

    services: int
    connections_hz: float
    connect_ratio: float
    connect_off: float
    first_packet_s: float
    first_packet_ratio: float
    first_packet_off: float
    kernel_bytes: int


class Way:
    """Client, node and server, and the sockets that wait at the server."""

    def __init__(self, title: str) -> None:
        self.client, self.node, self.server = (Namespace(f"{title}: {who}") for who in ("client", "node", "server"))
        for host, link, address in ((self.client, "clients", CLIENT), (self.server, "servers", SERVER)):
            gateway = address.rpartition(".")[0] + ".1"
            self.node.ip(f"link add {link} type veth peer name eth0 netns {host.path}")
            self.node.ip(f"addr add {gateway}/24 dev {link}", f"link set {link} up")
            host.ip(f"addr add {address}/24 dev eth0", "link set eth0 up", f"route add default via {gateway}")
        self.node.sysctl(ipv4__ip_forward=1)
        with self.server.entered():
            self.listener = socket.create_server((SERVER, TARGET_PORT), backlog=BACKLOG)
            self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind((SERVER, TARGET_PORT))
        self.datagrams.settimeout(5.0)
        self.listener.settimeout(5.0)

    def connect(self) -> float:
        """Open connections one after the other; return the median of how long one took, socket and all."""
        took = []
        with self.client.entered():
            for _ in range(VISIT):
                started = time.perf_counter()
                connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                connection.connect((SERVICE, PORT))
                took.append(time.perf_counter() - started)
                # A reset leaves no socket behind that would keep the port for a minute.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                connection.close()
        for _ in range(VISIT):
            with contextlib.suppress(ConnectionAbortedError):
                self.listener.accept()[0].close()
        return statistics.median(took)

    def first_packet(self) -> float:
        """Send the first packet of one flow after the other; return the median of the time until it was read at the server."""
        took = []
        with self.client.entered():
            for _ in range(VISIT):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    sender.connect((SERVICE, PORT))
                    started = time.perf_counter()
                    sender.send(b"first")
                    self.datagrams.recv(16)
                    took.append(time.perf_counter() - started)
        return statistics.median(took)

    def close(self) -> None:
        """Remove it all."""
        self.listener.close()
        self.datagrams.close()
        for host in (self.client, self.node, self.server):
            host.close()


def measure(sizes: list[int], place: Path, visits: int) -> list[Against]:
    """Set up a way for each size, visit all of them in turn, and compare."""
    with contextlib.ExitStack() as stack:
        ways = {0: stack.enter_context(_way(0))}
        ways[0].node.run("nft", "-f", "-", stdin=HAND)
        kernel_bytes = {0: 0}
        for services in sizes:
            ways[services] = stack.enter_context(_way(services))
            kernel_bytes[services] = _program(ways[services], services, place)
        stack.enter_context(_on_one_processor())
        connect_s: dict[int, list[float]] = {services: [] for services in ways}
        first_packet_s: dict[int, list[float]] = {services: [] for services in ways}
        for number in range(visits + 1):
            for services in random.sample(list(ways), len(ways)):
                connect, first_packet = ways[services].connect(), ways[services].first_packet()
                if number:  # the first visit warms caches
                    connect_s[services].append(connect)
                    first_packet_s[services].append(first_packet)
    return [against(services, connect_s, first_packet_s, kernel_bytes[services]) for services in ways]


def against(
    services: int, connect_s: dict[int, list[float]], first_packet_s: dict[int, list[float]], kernel_bytes: int
) -> Against:
    """Compare one way with the hand-written rule, whose key is 0."""
    connect, first = ratios(connect_s[services], connect_s[0]), ratios(first_packet_s[services], first_packet_s[0])
    return Against(
        services,
        1 / statistics.median(connect_s[services]),
        statistics.median(connect),
        uncertainty(connect),
        statistics.median(first_packet_s[services]),
        statistics.median(first),
        uncertainty(first),
        kernel_bytes,
    )


@contextlib.contextmanager
def _way(services: int) -> Iterator[Way]:
    way = Way(f"{services:,} Services" if services else "hand-written")
    try:
        yield way
    finally:
        way.close()


@contextlib.contextmanager
def _on_one_processor() -> Iterator[None]:
    """Stay on one processor: the packets of a veth pair are handled where they are sent."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _program(way: Way, services: int, place: Path) -> int:
    """Let kpx write that many Services, of 10 endpoints but for the one that is asked; return the bytes the kernel took."""
    directory = place / f"datapath-{services}"
    directory.mkdir()
    if services > 1:
        Cluster(services - 1, 10).write(directory)
    (directory / "target.json").write_text(json.dumps(target()))
    before = kernel_memory()
    options = ["--manifests", str(directory), "--cluster-cidr", CLUSTER_CIDR, "--hostname-override", NODE]
    command = [sys.executable, "-m", "kpx", "sync", *options, "--proxy-mode", "nftables"]
    with way.node.entered():
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(f"kpx sync failed: {done.stderr[-2000:]}")
    return kernel_memory() - before


def kernel_memory() -> int:
    """Return the bytes the kernel has in slabs, in vmalloc and in per-processor memory; other software's, too."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(fields[name].split()[0]) * 1024 for name in ("Slab", "VmallocUsed", "Percpu"))


def target() -> dict[str, object]:
    """Return the Service that is asked, and its slice: one endpoint, the server."""
    ports = [{"name": protocol.lower(), "protocol": protocol, "port": PORT} for protocol in ("TCP", "UDP")]
    metadata = {"namespace": "bench", "name": "target"}
    spec = {"clusterIP": SERVICE, "clusterIPs": [SERVICE], "ipFamilies": ["IPv4"], "ports": ports}
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**metadata, "name": "target-1", "labels": {"kubernetes.io/service-name": "target"}},
        "addressType": "IPv4",
        "ports": [{**port, "port": TARGET_PORT} for port in ports],
        "endpoints": [{"addresses": [SERVER], "nodeName": "node-1"}],
    }
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    return {"apiVersion": "v1", "kind": "List", "items": [service, slice_]}
