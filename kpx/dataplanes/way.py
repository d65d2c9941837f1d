"""
The way of a packet through netfilter, as a data plane's rows lay it: the hooks it comes by, in the kernel's order, and what
becomes of it. Pure.

A data plane says what it does at each hook (`Hook`), from its rows and from the rules they stand for; what is here is the road,
which is the kernel's: a packet that comes in passes prerouting and then input or forward, one of this host passes output, and
what leaves passes postrouting (net/ipv4/ip_input.c, ip_forward.c, ip_output.c and their likes of IPv6). Where chance decides,
all ways are walked. Only the first packet of a flow goes all of it, so its flow is always new.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from kpx.model.addresses import Address, Family, family_of, is_loopback
from kpx.model.names import Protocol
from kpx.policy.desired import Backend
from kpx.policy.story import Outcome, Packet

Memory = Mapping[tuple[Family, str], Mapping[bytes, bytes]]
"""What rules have written so far, by family and set: clients and where they went, packed as the data plane packs them."""


class Place(enum.Enum):
    """Where the kernel calls hooks."""

    PREROUTING = "prerouting"
    INPUT = "input"
    FORWARD = "forward"
    OUTPUT = "output"
    POSTROUTING = "postrouting"


class Turn(enum.Enum):
    """What a hook makes of a packet: SENT takes it to an endpoint by way of output (IPVS); REJECT answers with an error."""

    ON = "on"
    DROP = "drop"
    REJECT = "reject"
    SENT = "sent"


class Met(NamedTuple):
    """
    A rule that had a say.

    Args:
        place: the hook. chain: the chain the rule is in.
        words: what the rule is for. row: the row that decided, as people write it, "" when the rule alone did.
    """

    place: str
    chain: str
    words: str
    row: str = ""

    def __str__(self) -> str:
        return f"{self.place}, {self.chain}: {self.words}" + (f" [{self.row}]" if self.row else "")


class Traveller(NamedTuple):
    """
    The packet somewhere on its way, and what the kernel remembers of it.

    Args:
        source, destination, port: as they are now. asked: destination and port as they were first.
        interface: it came in by, "" for one of this host.
        translated: it was sent to an endpoint. masqueraded: its source is an address of this node.
        by_conntrack: connection tracking translated it, which IPVS does not count as (status DNAT).
        settled: no rule may translate its destination any more. confirmed: connection tracking knows the flow for good, as it
            left; it comes back only by the loopback interface.
        met: rules that had a say so far.
    """

    family: Family
    source: Address
    destination: Address
    protocol: Protocol
    port: int
    asked: Backend
    interface: str
    memory: Memory
    mark: int = 0
    translated: bool = False
    by_conntrack: bool = False
    settled: bool = False
    confirmed: bool = False
    masqueraded: bool = False
    met: tuple[Met, ...] = ()

    def meets(self, place: Place, chain: str, words: str, row: str = "") -> Traveller:
        """Return the packet after a rule had its say."""
        return self._replace(met=(*self.met, Met(place.value, chain, words, row)))


class Hook(NamedTuple):
    """
    What a data plane does to packets at one hook.

    Args:
        priority: as the kernel sorts them.
        family: of the packets that come by.
        is_nat: it is asked once a flow, and not when another has translated the address before it.
        passes: from a packet to everything that may become of it here.
    """

    place: Place
    priority: int
    family: Family
    is_nat: bool
    passes: Callable[[Traveller], Iterable[tuple[Traveller, Turn]]]


class Way(NamedTuple):
    """One way a packet may go. `memory` is what rules remember after it."""

    outcome: Outcome
    met: tuple[Met, ...]
    memory: Memory


NOTHING_REMEMBERED: Final[Memory] = {}


def walk(
    hooks: Iterable[Hook],
    packet: Packet,
    host: Collection[Address],
    steer: int,
    memory: Memory = NOTHING_REMEMBERED,
) -> tuple[Way, ...]:
    """
    Return every way the first packet of a flow may go.

    Args:
        hooks: of the data planes that are in place.
        packet: with a source; one from an address of this host starts here.
        host: all addresses of this host.
        steer: the bit of the packet mark that makes a packet local (`NodeFacts.steer_bit`).
        memory: what rules wrote when former flows came by.

    Raises:
        ValueError: the packet has no source, or a rule does what this walk knows nothing of.
    """
    if packet.source is None:
        raise ValueError(f"a walk of {packet} needs a source")
    from_here = packet.source in host or is_loopback(packet.source)
    interface = "" if from_here else packet.interface
    asked = Backend(packet.destination, packet.port)
    family = family_of(packet.destination)
    first = Traveller(family, packet.source, *asked[:1], packet.protocol, packet.port, asked, interface, memory)
    road = _Road((hook for hook in hooks if hook.family == family), host, steer)
    return tuple(road.output(first) if from_here else road.prerouting(first))


def outcomes(ways: Iterable[Way]) -> frozenset[Outcome]:
    """Return what may become of the packet."""
    return frozenset(way.outcome for way in ways)


class _Road:
    """The kernel's part: which hooks follow which."""

    def __init__(self, hooks: Iterable[Hook], host: Collection[Address], steer: int) -> None:
        self._host, self._steer = host, steer
        ordered = sorted(hooks, key=lambda hook: hook.priority)
        self._hooks = {place: [hook for hook in ordered if hook.place is place] for place in Place}

    def prerouting(self, one: Traveller) -> Iterator[Way]:
        for arrived, ended in self._through(Place.PREROUTING, one):
            if ended is not None:
                yield ended
            elif self._is_local(arrived):
                yield from self._input(arrived._replace(settled=True))
            else:
                yield from self._forward(arrived._replace(settled=True))

    def output(self, one: Traveller) -> Iterator[Way]:
        for arrived, ended in self._through(Place.OUTPUT, one):
            if ended is not None:
                yield ended
            else:
                yield from self._postrouting(arrived._replace(settled=True))

    def _input(self, one: Traveller) -> Iterator[Way]:
        for arrived, ended in self._through(Place.INPUT, one):
            yield ended or _arrival(arrived, "local")

    def _forward(self, one: Traveller) -> Iterator[Way]:
        for arrived, ended in self._through(Place.FORWARD, one):
            if ended is not None:
                yield ended
            else:
                yield from self._postrouting(arrived)

    def _postrouting(self, one: Traveller) -> Iterator[Way]:
        for arrived, ended in self._through(Place.POSTROUTING, one):
            if ended is not None:
                yield ended
            elif self._is_local(arrived):  # to itself, by the loopback interface
                yield from self.prerouting(arrived._replace(interface="lo", confirmed=True))
            else:
                yield _arrival(arrived, "pass")

    def _is_local(self, one: Traveller) -> bool:
        return bool(one.mark & self._steer) or one.destination in self._host or is_loopback(one.destination)

    def _through(self, place: Place, one: Traveller) -> Iterator[tuple[Traveller, Way | None]]:
        """Yield each packet that comes out behind the hooks of a place, or the end of its way."""
        yield from self._behind(place, self._hooks[place], one)

    def _behind(self, place: Place, hooks: list[Hook], one: Traveller) -> Iterator[tuple[Traveller, Way | None]]:
        if not hooks:
            yield one, None
            return
        hook, rest = hooks[0], hooks[1:]
        is_over = one.masqueraded if place is Place.POSTROUTING else one.settled or one.translated
        for after, turn in [(one, Turn.ON)] if hook.is_nat and is_over else hook.passes(one):
            if turn is Turn.ON:
                yield from self._behind(place, rest, after)
            elif turn is Turn.SENT:
                yield from self._sent(place, rest, after)
            else:
                yield after, Way(Outcome(turn.value), after.met, after.memory)

    def _sent(self, place: Place, rest: list[Hook], one: Traveller) -> Iterator[tuple[Traveller, Way | None]]:
        """Follow what IPVS sends on: to an address of this host straight on, else by the hooks of output, from their start."""
        if one.destination in self._host:
            yield from self._behind(place, rest, one)
        else:
            for way in self.output(one._replace(settled=True)):
                yield one, way


def _arrival(one: Traveller, untouched: str) -> Way:
    masquerade = one.masqueraded and untouched == "pass"
    outcome = Outcome("forward", Backend(one.destination, one.port), masquerade) if one.translated else Outcome(untouched)
    return Way(outcome, one.met, one.memory)
