"""
Look whether others touched what is ours, where the kernel tells nobody: IPVS and ipsets have no notifications.

What is cheap is looked at whole: how many elements each set has, which virtual servers there are and what they do. Destinations,
of which there may be many, are looked at for a sample of Services at a time. Nothing is mended here: a difference leads to one
full reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from kpx.dataplanes.ipvs.doors import Doors
from kpx.dataplanes.ipvs.draining import kernel_key
from kpx.dataplanes.ipvs.observe import packed, read_servers
from kpx.dataplanes.ipvs.reading import row_command
from kpx.dataplanes.ipvs.schema import BY_NAME, FAMILIES, TABLES, server_of, set_name
from kpx.model.addresses import Family
from kpx.reconcile.rows import Key, Rows, Table, Value

SPELLED: Final = 5
"""How many differing rows of a kind are spelled out."""


def audit(doors: Doors, counts: Mapping[Table, int], sample: Rows) -> list[str]:
    """
    Compare the kernel with what it is known to hold; return a sentence for each difference found.

    Args:
        counts: how many rows each table has.
        sample: some of the rows; those that are virtual servers or destinations are compared one by one, and must be all
            destinations of each virtual server in the sample.
    """
    return [*_sets(doors, counts), *_servers(doors, counts, sample), *_destinations(doors, sample)]


def _sets(doors: Doors, counts: Mapping[Table, int]) -> Iterator[str]:
    for (family, name), table in TABLES.items():
        expected = counts.get(table, 0)
        if not expected or not BY_NAME[name].is_set:
            continue
        held = doors.sets.count(set_name(family, name))
        if held != expected:
            yield f"ipset {set_name(family, name)} has {'gone' if held is None else f'{held} elements instead of {expected}'}"


def _servers(doors: Doors, counts: Mapping[Table, int], sample: Rows) -> Iterator[str]:
    tables = {family: TABLES[family, "virtual-servers"] for family in Family}
    if not any(counts.get(table) for table in tables.values()):
        return
    held: dict[tuple[int, Key], Value] = {(s.family, packed(s)): settings for s, settings in read_servers(doors).items()}
    for family, table in tables.items():
        mine = sum(1 for known, _ in held if known == family)
        if mine < counts.get(table, 0):
            yield f"{counts[table] - mine} or more virtual servers are missing ({family})"
        differing = [(key, value) for key, value in sample.get(table, {}).items() if held.get((int(family), key)) != value]
        yield from (f"differs: {row_command(table, key, value)}" for key, value in differing[:SPELLED])


def _destinations(doors: Doors, sample: Rows) -> Iterator[str]:
    for table, rows in sample.items():
        if table.name != "virtual-servers":
            continue
        family = FAMILIES[table.family]
        places = TABLES[family, "destinations"]
        wanted: dict[bytes, dict[bytes, object]] = {key: {} for key in rows if isinstance(key, bytes)}
        for key, weight in sample.get(places, {}).items():
            assert isinstance(key, bytes)
            wanted.setdefault(server_of(family, key), {})[key] = weight
        for server, destinations in wanted.items():
            held = {
                server + address + port.to_bytes(2, "big"): state.weight
                for (address, port), state in doors.ipvs.destinations(kernel_key(family, server))
                if state.weight
            }
            if held != destinations:
                yield f"destinations of {row_command(table, server, None)} differ"
