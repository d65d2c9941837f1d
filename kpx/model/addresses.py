"""
IP addresses and prefixes: the only parser and the only printer of them.

An address is its packed bytes, 4 or 16 of them, exactly as the kernel wants it; the family follows from the length.
Text is read sloppily, as Kubernetes does (contract J7: leading zeros are decimal), and printed canonically, so two
spellings of one address are one value.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable
from typing import NamedTuple, NewType

Address = NewType("Address", bytes)

_OCTETS = {str(number): number for number in range(256)}


class Family(enum.IntEnum):
    """An IP family; the value is the IP version."""

    IPV4 = 4
    IPV6 = 6

    def __str__(self) -> str:
        return f"IPv{self.value}"


class Prefix(NamedTuple):
    """An address range: `address` has its host bits zero, `length` counts bits."""

    address: Address
    length: int

    def __str__(self) -> str:
        return f"{format_address(self.address)}/{self.length}"

    def __contains__(self, address: object) -> bool:
        """Tell whether an `Address` lies in the range; False for the other family."""
        if not isinstance(address, bytes) or len(address) != len(self.address):
            return False
        bits = len(address) * 8
        shift = bits - self.length
        return int.from_bytes(address, "big") >> shift == int.from_bytes(self.address, "big") >> shift


def disjoint(prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """Return ranges sorted, each once, without those that lie in another."""
    result: list[Prefix] = []
    for prefix in sorted(set(prefixes)):
        if not (result and prefix.address in result[-1] and prefix.length >= result[-1].length):
            result.append(prefix)
    return tuple(result)


def family_of(address: bytes) -> Family:
    """Return the family of a packed address."""
    return Family.IPV4 if len(address) == 4 else Family.IPV6


def is_loopback(address: bytes) -> bool:
    """Tell whether an address is a loopback address; those never answer on node ports (N2, N4)."""
    return address[0] == 127 if len(address) == 4 else address == bytes(15) + b"\x01"


def parse_address(text: str) -> Address:
    """
    Parse an address; leading zeros of IPv4 numbers are decimal (J7).

    An IPv4-mapped IPv6 address (`::ffff:192.0.2.1`) is the IPv4 address, as in Go's net package that Kubernetes uses.

    Raises:
        ValueError: not an address; the message names the text.
    """
    try:  # a tenth of the time of the general way, and nearly all addresses come by here
        first, second, third, fourth = text.split(".")
        return Address(bytes((_OCTETS[first], _OCTETS[second], _OCTETS[third], _OCTETS[fourth])))
    except (ValueError, KeyError):
        pass
    cleaned = text.strip()
    if "." in cleaned and ":" not in cleaned:
        cleaned = ".".join(part.lstrip("0") or "0" if part.isdigit() else part for part in cleaned.split("."))
    try:
        value = ipaddress.ip_address(cleaned)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    if isinstance(value, ipaddress.IPv6Address):
        if value.scope_id:
            raise ValueError(f"{text!r} has a zone, which no Service address may have")
        if value.ipv4_mapped is not None:
            return Address(value.ipv4_mapped.packed)
    return Address(value.packed)


def parse_prefix(text: str) -> Prefix:
    """
    Parse `address/length`; host bits are masked (V4), a bare address is the range of itself.

    Raises:
        ValueError: not a range; the message names the text.
    """
    head, slash, tail = text.strip().partition("/")
    address = parse_address(head)
    bits = len(address) * 8
    if not slash:
        return Prefix(address, bits)
    if not (tail.isascii() and tail.isdigit()) or int(tail) > bits:
        raise ValueError(f"{text!r} is not an address range")
    length = int(tail)
    mask = ((1 << length) - 1) << (bits - length)
    return Prefix(Address((int.from_bytes(address, "big") & mask).to_bytes(len(address), "big")), length)


def format_address(address: bytes) -> str:
    """Print an address canonically (RFC 5952 for IPv6)."""
    if len(address) == 4:
        return "%d.%d.%d.%d" % tuple(address)
    return str(ipaddress.IPv6Address(address))


def format_endpoint(address: bytes, port: int) -> str:
    """Print `address:port`, with the brackets IPv6 needs."""
    text = format_address(address)
    return f"[{text}]:{port}" if len(address) == 16 else f"{text}:{port}"
