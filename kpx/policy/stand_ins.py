"""Who stands for a kind of source when a packet is given without one: an address that counts as such on this node. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from kpx.model.addresses import Address, Family, Prefix, family_of, is_loopback, parse_address
from kpx.model.facts import NodeFacts
from kpx.policy.desired import Source
from kpx.policy.explain import source_kind
from kpx.policy.story import Packet

_FAR_AWAY: Final = tuple(map(parse_address, ("198.51.100.1", "203.0.113.1", "192.0.2.1", "2001:db8::1", "2001:db8:1::1")))
"""Documentation addresses (RFC 5737, RFC 3849): nobody has them, so they are outside."""
_ELSEWHERE: Final = "(not of pods)"
"""No interface is called so; the longest name has 15 characters and none has blanks."""


def stand_ins(
    packet: Packet, facts: NodeFacts, host: Collection[Address], ranges: Sequence[Prefix] = ()
) -> Iterator[tuple[Source, Packet]]:
    """
    Yield the packet as each kind of source would send it: as it is when its kind is known.

    A kind that nobody here can be, as pods where none can be told from others, is left out.

    Args:
        host: all addresses of this host.
        ranges: source ranges; who stands for outsiders is in one of them if any outsider is.
    """
    for kind in Source:
        for address, interface in _candidates(packet, kind, facts, host, ranges):
            if source_kind(address, facts, host, interface) is kind:
                yield kind, packet._replace(source=address, interface=interface)
                break


def _candidates(
    packet: Packet, kind: Source, facts: NodeFacts, host: Collection[Address], ranges: Sequence[Prefix]
) -> Iterator[tuple[Address, str]]:
    """Yield sources that may be of a kind, the best ones first."""
    interface = packet.interface or (facts.local_detector.interface if kind is Source.POD else _ELSEWHERE)
    if packet.source is not None:
        yield packet.source, interface
        return
    family = family_of(packet.destination)
    pods = facts.local_detector.prefix(family)
    if kind is Source.HOST:
        yield from ((address, "") for address in _own(facts, host) if family_of(address) == family)
        return
    here = [pods] if pods is not None and kind is Source.POD else ranges if kind is Source.OUTSIDE else ()
    places = [*(address for prefix in here if prefix.length for address in _first_of(prefix)), *_FAR_AWAY]
    yield from ((address, interface) for address in _of(family, places) if address not in (*host, packet.destination))


def _own(facts: NodeFacts, host: Collection[Address]) -> list[Address]:
    return [*facts.node_ips, *sorted(address for address in host if not is_loopback(address))]


def _of(family: Family, addresses: Iterable[Address]) -> Iterator[Address]:
    return (address for address in addresses if family_of(address) == family)


def _first_of(prefix: Prefix) -> Iterator[Address]:
    """Yield the first addresses a range has for hosts; this node may have one of them itself."""
    width = len(prefix.address)
    start, size = int.from_bytes(prefix.address, "big"), 1 << (width * 8 - prefix.length)
    if size == 1:
        yield prefix.address
    for number in range(1, min(size, 8)):
        yield Address((start + number).to_bytes(width, "big"))
