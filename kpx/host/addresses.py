"""
The addresses of this host, and word of their changes.

Node ports answer on addresses (N1-N5), so an address that comes or goes changes what the kernel must hold. Nothing is
polled: the kernel says when an address changed, and then all of them are read again, which is cheap and cannot drift.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from typing import Final, NamedTuple
from typing import Protocol as Interface

from kpx.model.addresses import Address, Family, Prefix, family_of, format_address, parse_address, parse_prefix

LOOPBACK: Final = (parse_prefix("127.0.0.0/8"), parse_prefix("::1/128"))
LINK_LOCAL: Final = parse_prefix("fe80::/10")

ELSEWHERE: Final = {Family.IPV4: ("192.0.2.1", socket.AF_INET), Family.IPV6: ("2001:db8::1", socket.AF_INET6)}
"""Documentation addresses (RFC 5737, RFC 3849): what the kernel would use to reach them is how this host appears outside."""


class AddressWatch(Interface):
    """A subscription to address changes of this network namespace."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when an address may have changed."""

    def drain(self) -> object:
        """Read away what is queued, without waiting; also when notifications were lost."""

    def close(self) -> None:
        """End the subscription; idempotent."""


class AddressKernel(Interface):
    """What this room needs of the kernel."""

    def addresses(self) -> Iterable[tuple[str, Address, int, int]]:
        """Return (interface, address, prefix length, scope) of every address, interfaces in order of their index."""

    def subscribe_addresses(self) -> AddressWatch:
        """Return word of every address that comes or goes from now on."""


class LocalAddress(NamedTuple):
    """An address of an interface; `scope` as in rtnetlink: 0 global, 253 link, 254 host."""

    interface: str
    address: Address
    length: int
    scope: int = 0

    def __str__(self) -> str:
        return f"{format_address(self.address)}/{self.length} on {self.interface}"


class HostAddresses(NamedTuple):
    """
    All addresses of the host at one moment; equal sets of addresses in equal order are equal values.

    Args:
        addresses: in the order of the kernel, that is, by interface index.
        preferred: at most one of each family: what this host uses as source towards the outside.
    """

    addresses: tuple[LocalAddress, ...] = ()
    preferred: tuple[Address, ...] = ()

    def every(self) -> frozenset[Address]:
        """Return all addresses, loopback too."""
        return frozenset(entry.address for entry in self.addresses)

    def answering(self) -> tuple[Address, ...]:
        """Return the addresses node ports may answer on: neither loopback nor IPv6 link-local (N6, P4), in order."""
        return tuple(entry.address for entry in self.addresses if may_answer(entry.address))

    def within(self, ranges: Iterable[Prefix]) -> frozenset[Address]:
        """Return the answering addresses that lie in any of the ranges (N5)."""
        ranges = tuple(ranges)
        return frozenset(address for address in self.answering() if any(address in prefix for prefix in ranges))

    def primary(self, family: Family) -> Address | None:
        """Return the address this host is best known by: the one it uses towards the outside, else its first one."""
        mine = [address for address in self.answering() if family_of(address) == family]
        return next((address for address in self.preferred if address in mine), mine[0] if mine else None)


def may_answer(address: Address) -> bool:
    """Tell whether node ports may answer on a local address (N6, P4)."""
    return not any(address in prefix for prefix in (*LOOPBACK, LINK_LOCAL))


def read_addresses(kernel: AddressKernel) -> HostAddresses:
    """Read the addresses of this network namespace now."""
    entries = tuple(LocalAddress(*entry) for entry in kernel.addresses())
    preferred = (source_towards(*ELSEWHERE[family]) for family in Family)
    return HostAddresses(entries, tuple(address for address in preferred if address is not None))


def source_towards(destination: str, family: socket.AddressFamily) -> Address | None:
    """
    Return the source address the kernel would choose for a destination, None without a route to it.

    Connecting a datagram socket looks up the route and sends nothing.
    """
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((destination, 9))
        return parse_address(probe.getsockname()[0].partition("%")[0])
    return None


class AddressFeed:
    """The addresses of this host, kept up to date by notifications; used from one thread."""

    def __init__(self, kernel: AddressKernel) -> None:
        self._kernel = kernel
        # Subscribe first: an address that comes between the two is then read twice, not never.
        self._watch = kernel.subscribe_addresses()
        self.current = read_addresses(kernel)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when `poll` has something to say."""
        return self._watch.fileno()

    def poll(self) -> bool:
        """Take note of what happened, without waiting; tell whether `current` is another value now."""
        self._watch.drain()
        return self.reread()

    def reread(self) -> bool:
        """Read all addresses again; tell whether `current` is another value now."""
        before, self.current = self.current, read_addresses(self._kernel)
        return before != self.current

    def close(self) -> None:
        """End the subscription; idempotent."""
        self._watch.close()
