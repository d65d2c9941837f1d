"""What rules find in sets and maps: rows, and what rules themselves have written. Pure."""

from __future__ import annotations

from typing import NamedTuple

from kpx.dataplanes.nftables.schema import BY_NAME, ROWS, print_key, print_value, shape
from kpx.dataplanes.way import Memory
from kpx.model.addresses import Family, Prefix
from kpx.reconcile.rows import Rows


class Found(NamedTuple):
    """An element: its value (packed, or a verdict in words, b"" of a set), and how a person writes it."""

    value: bytes | str
    printed: str


class Sets:
    """The sets and maps of one family."""

    def __init__(self, rows: Rows, family: Family) -> None:
        self._rows, self._family = rows, family

    def key_bytes(self, name: str) -> int:
        """Return how long the keys of a set are."""
        return shape(BY_NAME[name], self._family).key_bytes

    def data_bytes(self, name: str) -> int:
        """Return how long the values of a map are."""
        return shape(BY_NAME[name], self._family).data_bytes

    def find(self, name: str, key: bytes, memory: Memory) -> Found | None:
        """Return the element with a key, None when there is none."""
        schema = BY_NAME[name]
        if schema.dynamic:
            value: object = memory.get((self._family, name), {}).get(key)
        elif schema.interval:
            ranges = self._rows.get(ROWS[self._family, name], {}).get("ranges", ())
            inside = [r for r in ranges if isinstance(r, Prefix) and key in r] if isinstance(ranges, tuple) else []
            return Found(b"", f"{name} {{ {inside[0]} }}") if inside else None
        else:
            value = self._rows.get(ROWS[self._family, name], {}).get(key)
        if not isinstance(value, bytes | str):
            return None
        return Found(value, f"{name} {{ {self.printed(name, key, value)} }}")

    def printed(self, name: str, key: bytes, value: bytes | str) -> str:
        """Spell an element as nft does."""
        schema = BY_NAME[name]
        said = print_value(schema, value)
        return print_key(schema, self._family, key) + (f" : {said}" if said else "")

    def written(self, name: str, key: bytes, data: bytes, memory: Memory) -> Memory:
        """Return the memory with one element more; one that is there keeps its value, since the kernel only refreshes it."""
        place = (self._family, name)
        return {**memory, place: {key: data, **memory.get(place, {})}}

    def forgotten(self, name: str, key: bytes, memory: Memory) -> Memory:
        """Return the memory without an element, which need not be there."""
        place = (self._family, name)
        return {**memory, place: {held: data for held, data in memory.get(place, {}).items() if held != key}}
