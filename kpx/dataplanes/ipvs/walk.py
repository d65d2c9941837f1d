"""
What the rows of this data plane make of a packet, hook by hook: the constant iptables rules, the sets they ask, and IPVS. Pure.

IPVS itself is a hook behind the filters of input, and one of output for what this host sends (net/netfilter/ipvs/ip_vs_core.c,
ip_vs_ops). Which destination its scheduler takes is not foreseen: any that has a weight may be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from kpx.dataplanes.ipvs.rule_text import Asked, read
from kpx.dataplanes.ipvs.rules import Chain, chains
from kpx.dataplanes.ipvs.schema import BY_NAME, PREFIXES, TABLES, Kind, backend_of, server_key, server_of
from kpx.dataplanes.way import Hook, Place, Traveller, Turn
from kpx.model.addresses import Address, Family, Prefix, is_loopback
from kpx.model.facts import NodeFacts
from kpx.policy.desired import Backend
from kpx.reconcile.rows import Key, Rows

_PRIORITIES: Final = {"mangle": -150, "filter": 0, "nat": 100}
"""Of the tables of iptables (enum nf_ip_hook_priorities), nat as it is at postrouting."""
_IPVS: Final = {Place.INPUT: 99, Place.OUTPUT: -98}
"""Where IPVS takes packets: NF_IP_PRI_NAT_SRC - 1, and NF_IP_PRI_NAT_DST + 2."""


def hooks_of(rows: Rows, facts: NodeFacts, host: Collection[Address]) -> Iterator[Hook]:
    """Yield what the rules do, and IPVS; nothing in a family without any row."""
    for family in facts.families:
        if not any(content for table, content in rows.items() if table.family == TABLES[family, "servers"].family):
            continue
        servers = _virtual_servers(rows, family)
        for place, priority in _IPVS.items():
            yield Hook(place, priority, family, False, _Ipvs(place, servers, facts.steer_bit, host).passes)
        written = {chain.name: chain for chain in chains(facts, family)}
        asked = _asked(rows, family, host)
        for chain in written.values():
            for entrance in chain.entered_from:
                place = Place(entrance.lower())
                steps = _Rules(written, place, family, asked, chain)
                yield Hook(place, _PRIORITIES[chain.table], family, chain.table == "nat", steps.passes)


class _Rules:
    """The chains of iptables, as packets of one hook find them."""

    def __init__(self, written: dict[str, Chain], place: Place, family: Family, asked: Asked, first: Chain) -> None:
        self._written, self._place, self._asked, self._first = written, place, asked, first
        self._prefix = PREFIXES[family]

    def passes(self, packet: Traveller) -> Iterable[tuple[Traveller, Turn]]:
        """Return the one thing that becomes of a packet."""
        after, turn = self._chain(self._first, packet)
        return [(after, turn or Turn.ON)]

    def _chain(self, chain: Chain, packet: Traveller) -> tuple[Traveller, Turn | None]:
        """Return the packet behind a chain, and its end; None when it is to go on where the chain was called."""
        for words, text in chain.rules:
            rule = read(text)
            if not rule.matches(packet, self._asked):
                continue
            name, goes, mark = rule.target
            packet = packet.meets(self._place, f"{chain.table} {chain.name}", words, ", ".join(rule.sets))
            if name == "MARK":
                value, mask = mark
                packet = packet._replace(mark=packet.mark & ~mask ^ value)
            elif name == "RETURN":
                return packet, None
            elif name in ("DROP", "REJECT"):
                return packet, Turn(name.lower())
            elif name == "ACCEPT":
                return packet, Turn.ON
            elif name == "MASQUERADE":
                return packet._replace(masqueraded=True), Turn.ON
            else:
                packet, turn = self._chain(self._written[name], packet)
                if goes or turn is not None:
                    return packet, turn
        return packet, None


class _Ipvs:
    """IPVS at one of its hooks."""

    def __init__(self, place: Place, servers: dict[bytes, list[Backend]], steer: int, host: Collection[Address]) -> None:
        self._place, self._servers, self._steer, self._host = place, servers, steer, host

    def passes(self, packet: Traveller) -> Iterator[tuple[Traveller, Turn]]:
        """Yield the packet on its way to each destination; it goes on as it is when there is no virtual server for it."""
        key = server_key(packet.destination, packet.protocol, packet.port)
        if packet.translated or key not in self._servers:
            yield packet, Turn.ON
            return
        server = f"virtual server {Backend(packet.destination, packet.port)}/{packet.protocol}"
        if not self._servers[key]:
            # To a packet that was only steered here the refusal would come from an address that is not this host's (0014).
            is_silent = packet.mark & self._steer and packet.destination not in self._host
            answer = Turn.DROP if is_silent else Turn.REJECT
            yield packet.meets(self._place, "IPVS", f"{server} has no destination to schedule"), answer
        for backend in self._servers[key]:
            sent = packet._replace(destination=backend.address, port=backend.port, translated=True)
            yield sent.meets(self._place, "IPVS", server, str(backend)), Turn.SENT


def _virtual_servers(rows: Rows, family: Family) -> dict[bytes, list[Backend]]:
    """Return the destinations of each virtual server that take new flows."""
    found: dict[bytes, list[Backend]] = {
        key: [] for key in rows.get(TABLES[family, "virtual-servers"], {}) if isinstance(key, bytes)
    }
    for key, weight in rows.get(TABLES[family, "destinations"], {}).items():
        assert isinstance(key, bytes)
        if weight != 0 and server_of(family, key) in found:
            found[server_of(family, key)].append(backend_of(family, key))
    return found


def _asked(rows: Rows, family: Family, host: Collection[Address]) -> Asked:
    prefix = PREFIXES[family]

    def member(name: str, directions: str, packet: Traveller) -> bool:
        table = name.removeprefix(prefix).lower()
        return _is_member(table, rows.get(TABLES[family, table], {}), directions, packet)

    return Asked(member, lambda address: address in host or is_loopback(address))


def _is_member(table: str, content: Collection[Key], directions: str, packet: Traveller) -> bool:
    addresses = [{"src": packet.source, "dst": packet.destination}[one] for one in directions.split(",")]
    kind = BY_NAME[table].kind
    if kind is Kind.SERVER:
        if directions != "dst,dst":
            raise ValueError(f"the walk does not know the port {directions} of {table}")
        return server_key(packet.destination, packet.protocol, packet.port) in content
    if kind is Kind.RANGE:
        ranges = (Prefix(Address(key[:-1]), key[-1]) for key in content if isinstance(key, bytes))
        return any(addresses[0] in one for one in ranges)
    if kind is Kind.PAIR:
        return addresses[0] == addresses[1] and addresses[0] in content
    return addresses[0] in content
