"""The addresses of the host: which may answer, which is the primary one, and word of changes."""

from __future__ import annotations

import selectors
import socket
from contextlib import closing

from kpx.host.addresses import AddressFeed, HostAddresses, LocalAddress, read_addresses, source_towards
from kpx.model.addresses import Family, parse_address, parse_prefix
from tests.lab.memory_source import MemoryHost

ENTRIES = (
    ("lo", "127.0.0.1", 8),
    ("lo", "::1", 128),
    ("eth0", "192.0.2.1", 24),
    ("eth0", "fe80::1", 64),
    ("eth0", "fd00::1", 64),
    ("veth1", "10.244.1.1", 24),
)


def host(*preferred: str) -> HostAddresses:
    entries = (LocalAddress(interface, parse_address(text), length) for interface, text, length in ENTRIES)
    return HostAddresses(tuple(entries), tuple(map(parse_address, preferred)))


def test_loopback_and_link_local_do_not_answer_on_node_ports() -> None:
    """N6, P4."""
    assert host().answering() == tuple(map(parse_address, ("192.0.2.1", "fd00::1", "10.244.1.1")))
    assert len(host().every()) == len(ENTRIES)


def test_ranges_stand_for_the_addresses_in_them() -> None:
    """N5; a range over everything has no loopback either."""
    assert host().within([parse_prefix("192.0.2.0/24")]) == {parse_address("192.0.2.1")}
    assert host().within([parse_prefix("0.0.0.0/0")]) == {parse_address("192.0.2.1"), parse_address("10.244.1.1")}
    assert host().within([parse_prefix("127.0.0.0/8"), parse_prefix("fe80::/10")]) == frozenset()


def test_primary_address_is_the_one_used_towards_the_outside() -> None:
    assert host("10.244.1.1").primary(Family.IPV4) == parse_address("10.244.1.1")


def test_primary_address_without_a_way_outside_is_the_first_one() -> None:
    assert host().primary(Family.IPV4) == parse_address("192.0.2.1")
    assert host("127.0.0.1", "203.0.113.9").primary(Family.IPV4) == parse_address("192.0.2.1")
    assert HostAddresses().primary(Family.IPV6) is None


def test_source_towards_loopback_is_loopback() -> None:
    assert source_towards("127.0.0.1", socket.AF_INET) == parse_address("127.0.0.1")


def test_feed_tells_changes_apart_from_noise() -> None:
    kernel = MemoryHost(("eth0", "192.0.2.1", 24))
    with closing(AddressFeed(kernel)) as feed, selectors.DefaultSelector() as selector:
        selector.register(feed.fileno(), selectors.EVENT_READ)
        kernel.change(("eth0", "192.0.2.1", 24))
        assert selector.select(5)
        assert not feed.poll()
        assert not selector.select(0)

        kernel.change(("eth0", "192.0.2.1", 24), ("eth0", "192.0.2.2", 24))
        assert selector.select(5)
        assert feed.poll()
        assert feed.current.every() == {parse_address("192.0.2.1"), parse_address("192.0.2.2")}


def test_equal_addresses_are_equal_values() -> None:
    kernel = MemoryHost(("eth0", "192.0.2.1", 24))

    assert read_addresses(kernel) == read_addresses(kernel)
