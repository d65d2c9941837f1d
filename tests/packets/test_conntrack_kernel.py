"""Tracked UDP flows of a real kernel: listed whole, deleted one by one, nothing else touched."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from kpx.kernel.conntrack import ConntrackFlows
from kpx.kernel.netlink import Netlink
from tests.lab.netns import Namespace

pytestmark = [pytest.mark.alike, pytest.mark.packets]

ADDRESSES = {4: "127.0.0.1", 6: "::1"}


@pytest.fixture
def host() -> Iterator[Namespace]:
    namespace = Namespace("host")
    # A rule that needs connection tracking turns it on in a namespace.
    rules = "table inet t { chain c { type filter hook output priority 0; ct state new accept; }; }"
    namespace.run("nft", "-f", "-", stdin=rules)
    yield namespace
    namespace.close()


@pytest.fixture
def flows(host: Namespace) -> Iterator[ConntrackFlows]:
    with host.entered():
        netlink = Netlink()
    yield ConntrackFlows(netlink)
    netlink.close()


def send(host: Namespace, version: int, port: int, count: int, kind: socket.SocketKind = socket.SOCK_DGRAM) -> None:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with host.entered():
        for source_port in range(20_000, 20_000 + count):
            with socket.socket(family, kind) as sender:
                sender.bind((ADDRESSES[version], source_port))
                if kind == socket.SOCK_DGRAM:
                    sender.sendto(b"x", (ADDRESSES[version], port))
                else:
                    sender.connect_ex((ADDRESSES[version], port))


@pytest.mark.parametrize("version", [4, 6])
def test_udp_flows_of_a_family_are_listed_and_no_others(host, flows, version):
    send(host, 4, 53, 300)
    send(host, 6, 53, 200)
    send(host, version, 80, 5, socket.SOCK_STREAM)
    listed = flows.udp(version)

    assert len(listed) == {4: 300, 6: 200}[version]
    assert {(f.family, f.protocol, f.orig_dport) for f in listed} == {(version, 17, 53)}


def test_only_the_named_flows_are_deleted(host, flows):
    send(host, 4, 53, 20)
    send(host, 4, 54, 10)
    doomed = [f for f in flows.udp(4) if f.orig_dport == 53]

    assert flows.delete(doomed) == 20
    assert {f.orig_dport for f in flows.udp(4)} == {54}
    assert flows.delete(doomed) == 0
