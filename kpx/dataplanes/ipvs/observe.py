"""
Read the kernel back as rows: our sets, the virtual servers they record as ours, the destinations of these.

Whose a virtual server is, the set `servers` says (D18). A destination of weight 0 drains and is no row, but for those of UDP,
which are the table `spared`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from kpx.dataplanes.ipvs.doors import Doors
from kpx.dataplanes.ipvs.schema import (
    DRAINING,
    PREFIXES,
    SCHEMAS,
    TABLES,
    key_of,
    server_key,
    set_name,
    shapes,
)
from kpx.kernel.wire.ipset import Element
from kpx.kernel.wire.ipvs import IP_VS_CONN_F_MASQ, ServerKey, ServerSettings
from kpx.model.addresses import Family
from kpx.model.names import Protocol
from kpx.reconcile.rows import Key, Rows, Value

Servers = dict[ServerKey, ServerSettings]


class FamilyState(NamedTuple):
    """
    What the kernel holds of one family.

    Args:
        rows: ours. draining: keys of destinations with weight 0. memory: elements of the set of that name.
        foreign: keys of virtual servers that are not ours.
    """

    rows: Rows
    draining: tuple[bytes, ...]
    memory: tuple[Element, ...]
    foreign: frozenset[bytes]


def read_servers(doors: Doors) -> Servers:
    """Return all virtual servers of this network namespace, whoever made them."""
    return dict(doors.ipvs.servers())


def packed(server: ServerKey) -> bytes:
    """Return a virtual server's key as rows have it; b"" for one by firewall mark, which is never ours."""
    return b"" if server.fwmark else server_key(server.address, server.protocol, server.port)


def present_sets(doors: Doors) -> list[str]:
    """Return the names of the sets that are there and whose names are ours."""
    return sorted(name for name in doors.sets.names() if name.startswith(tuple(PREFIXES.values())))


def misshapen(doors: Doors, family: Family, names: list[str]) -> list[str]:
    """Return a sentence for each set that is missing or of another type than ours."""
    found = []
    for wanted in shapes(family):
        if wanted.name not in names:
            found.append(f"ipset {wanted.name} is missing")
            continue
        held = doors.sets.shape(wanted.name)
        if held is None or (held.kind, held.family, held.timeout) != (wanted.kind, wanted.family, wanted.timeout):
            found.append(f"ipset {wanted.name} is of type {held.kind if held else 'unknown'}, not {wanted.kind}")
    return found


def observe_family(doors: Doors, family: Family, names: list[str], servers: Servers, known: Collection[Key] = ()) -> FamilyState:
    """
    Read one family.

    Args:
        names: what `present_sets` said. servers: what `read_servers` said.
        known: keys of virtual servers this process knows to be ours, whatever became of their record.
    """
    rows: Rows = {}
    for schema in SCHEMAS:
        name = set_name(family, schema.name)
        if schema.is_set and name in names:
            keys = (key_of(schema, element) for element in doors.sets.elements(name))
            content: dict[Key, Value] = {key: b"" for key in keys if key is not None}
            if content:
                rows[TABLES[family, schema.name]] = content
    memory_set = set_name(family, DRAINING)
    memory = tuple(doors.sets.elements(memory_set)) if memory_set in names else ()
    record = rows.get(TABLES[family, "servers"], {})
    mine, draining, foreign = _servers(doors, family, {*record, *known}, servers)
    rows.update(mine)
    return FamilyState(rows, draining, memory, foreign)


def _servers(
    doors: Doors, family: Family, record: Collection[Key], servers: Servers
) -> tuple[Rows, tuple[bytes, ...], frozenset[bytes]]:
    virtual: dict[Key, Value] = {}
    destinations: dict[Key, Value] = {}
    spared: dict[Key, Value] = {}
    draining: list[bytes] = []
    foreign: set[bytes] = set()
    for server, settings in servers.items():
        key = packed(server)
        if server.family != family or not key:
            continue
        if key not in record:
            foreign.add(key)
            continue
        virtual[key] = settings
        for (address, port), state in doors.ipvs.destinations(server):
            place = key + address + port.to_bytes(2, "big")
            if not state.weight and server.protocol == Protocol.UDP:
                spared[place] = 0
            elif not state.weight:
                draining.append(place)
            else:
                # Somebody's other forwarding method is a difference that a weight of ours mends.
                destinations[place] = state.weight if state.method == IP_VS_CONN_F_MASQ else -state.method
    found = {"virtual-servers": virtual, "destinations": destinations, "spared": spared}
    rows = {TABLES[family, name]: content for name, content in found.items()}
    return {table: content for table, content in rows.items() if content}, tuple(draining), frozenset(foreign)
