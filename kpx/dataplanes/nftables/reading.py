"""Rows back to frontends, pure: what `kpx get` shows and what `kpx explain` compares a story with."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from kpx.dataplanes.base import KernelFrontend, KernelVerdict, Refusal
from kpx.dataplanes.nftables.chains import ranges_of
from kpx.dataplanes.nftables.choices import Choice, slots
from kpx.dataplanes.nftables.remembering import affinity_timeout_s
from kpx.dataplanes.nftables.schema import (
    ADDRESS_BYTES,
    BY_NAME,
    CHAINS,
    FAMILIES,
    ROWS,
    endpoint_value,
    print_key,
    print_value,
    read_endpoint,
    read_frontend,
)
from kpx.model.addresses import Address, Family, Prefix, family_of, format_address
from kpx.policy.desired import Backend, Frontend, FrontendKind
from kpx.reconcile.rows import Key, Rows, Table, Value

_MASQUERADE: Final = {
    "goto masquerade-always": (True, True, True),
    "goto nodeport-masquerade-always": (True, True, True),
    "goto masquerade-unless-pod": (False, True, True),
    "goto sticky-always": (True, True, True),
    "goto sticky-unless-pod": (False, True, True),
}
"""Whether pods, the host and outsiders are masqueraded."""
_KEEPING: Final = (False, True, False)
_NOBODY: Final = (False, False, False)
_BY_SOURCE: Final = {
    "goto by-source": ("inside", "inside", "outside"),
    "goto nodeport-by-source": ("inside", "inside", "outside"),
    "goto by-host": ("outside", "inside", "outside"),
    "goto nodeport-by-host": ("outside", "inside", "outside"),
}
"""For the chains that tell sources apart, which way pods, the host and outsiders go."""


def frontends_of(rows: Rows) -> list[KernelFrontend]:
    """
    Return the frontends the rows describe, sorted.

    A slot that is missing is left out of the endpoints; a row that kpx would not write (somebody else's) is left out whole.
    """
    found: list[KernelFrontend] = []
    for family in Family:
        for maps, refused in (("frontends", "refused"), ("nodeports", "nodeport-refused")):
            for key, verdict in rows.get(ROWS[family, maps], {}).items():
                assert isinstance(key, bytes)
                ways = _ways(rows, family, maps, key, str(verdict))
                found += _frontend(rows, family, key, ways) if ways else []
            for key in rows.get(ROWS[family, refused], {}):
                assert isinstance(key, bytes)
                found += _frontend(rows, family, key, [KernelVerdict("reject")] * 3)
    return sorted(found, key=lambda f: f.frontend)


def _frontend(rows: Rows, family: Family, key: bytes, ways: list[KernelVerdict]) -> list[KernelFrontend]:
    """Return the frontend with a key, given what becomes of each kind of source but for masquerading; [] when it is none."""
    frontend = read_frontend(family, key)
    if frontend is None:
        return []
    backends = [backend for way in ways for backend in way.backends]
    masqueraded = _masquerade(rows, family, key, backends)
    pod, host, outside = (
        way._replace(masquerade=masquerade and way.action == "forward") for way, masquerade in zip(ways, masqueraded, strict=True)
    )
    recorded = rows.get(ROWS[family, "sticky" if frontend.address else "nodeport-sticky"], {})
    keys = [key] if frontend.address else [key + endpoint_value(*backend) for backend in backends]
    sticky = next((recorded[each] for each in keys if each in recorded), None)
    name, comments = _target(rows, family, sticky)
    timeout = affinity_timeout_s(name, comments) if name else None
    ranges = ranges_of(_target(rows, family, rows.get(ROWS[family, "frontends"], {}).get(key))[1])
    return [KernelFrontend(frontend, _kind(rows, frontend), pod, host, outside, timeout, ranges)]


def _ways(rows: Rows, family: Family, maps: str, key: bytes, verdict: str) -> list[KernelVerdict]:
    """Return what becomes of pods, the host and outsiders; [] for a verdict kpx would not write."""
    if verdict.startswith("goto ranges-"):
        verdict = str(rows.get(ROWS[family, "ranged"], {}).get(key))
    if verdict in _BY_SOURCE:
        verdicts = {side: str(rows.get(ROWS[family, f"{maps}-{side}"], {}).get(key)) for side in ("inside", "outside")}
        ways = {side: _way(rows, family, maps, key, verdict) for side, verdict in verdicts.items()}
        found = [ways[side] for side in _BY_SOURCE[verdict]]
    else:
        found = [_way(rows, family, maps, key, verdict)] * 3
    return [way for way in found if way is not None] if None not in found else []


def _way(rows: Rows, family: Family, maps: str, key: bytes, verdict: str) -> KernelVerdict | None:
    if verdict == "drop":
        return KernelVerdict("drop")
    choice = Choice.of(verdict)
    if choice is None:
        return None
    endpoints = rows.get(ROWS[family, "endpoints" if maps == "frontends" else "nodeport-endpoints"], {})
    packed = [endpoints.get(key + slot) for slot in slots(choice)[: choice.size]]
    return KernelVerdict("forward", tuple(Backend(*read_endpoint(p)) for p in packed if isinstance(p, bytes)))


def _kind(rows: Rows, frontend: Frontend) -> FrontendKind | None:
    """Rows tell ClusterIPs and node ports; external and load-balancer addresses look alike."""
    if not frontend.address:
        return FrontendKind.NODE_PORT
    cluster_ips = rows.get(ROWS[frontend.family, "cluster-ips"], {})
    return FrontendKind.CLUSTER_IP if frontend.address in cluster_ips else None


def _masquerade(rows: Rows, family: Family, key: bytes, backends: list[Backend]) -> tuple[bool, bool, bool]:
    if len(key) > 8:
        if key in (always := rows.get(ROWS[family, "masquerades"], {})):
            return _MASQUERADE.get(str(always[key]), _NOBODY)
        return _KEEPING if key in rows.get(ROWS[family, "keeping"], {}) else _NOBODY
    exact = [key + endpoint_value(*backend) for backend in backends]
    always, keeping = (rows.get(ROWS[family, name], {}) for name in ("nodeport-masquerades", "nodeport-keeping"))
    verdict = next((always[each] for each in exact if each in always), None)
    if verdict is not None:
        return _MASQUERADE.get(str(verdict), _NOBODY)
    return _KEEPING if any(each in keeping for each in exact) else _NOBODY


def _target(rows: Rows, family: Family, verdict: Value | None) -> tuple[str, tuple[str, ...]]:
    """Return the chain a verdict leads to, and the comments of its rules."""
    name = str(verdict).partition(" ")[2] if verdict is not None else ""
    comments = rows.get(CHAINS[family], {}).get(name, ())
    return name, comments if isinstance(comments, tuple) else ()


def refusal_of(rows: Rows, destination: Address, host: Collection[Address]) -> Refusal | None:
    """Tell what the chain `refusing` does with an address that no frontend catches."""
    family = family_of(destination)
    if destination in host:
        return None
    if destination in rows.get(ROWS[family, "cluster-ips"], {}):
        return Refusal("reject", f"{format_address(destination)} is a ClusterIP that does not have this port")
    ranges = rows.get(ROWS[family, "service-cidrs"], {}).get("ranges", ())
    inside = isinstance(ranges, tuple) and any(isinstance(r, Prefix) and destination in r for r in ranges)
    if inside and destination not in rows.get(ROWS[family, "captured"], {}):
        return Refusal("drop", f"{format_address(destination)} is in a range of Services, and no Service has it")
    return None


def row_command(table: Table, key: Key, value: Value) -> str:
    """Return the nft command that adds the row; for a chain a comment says what its rules do."""
    if table.name == "chains":
        words = "; ".join(str(v).rsplit(" #", 1)[0] for v in value) if isinstance(value, tuple) else ""
        return f"add chain {table.family} kpx {key}  # {words}"
    schema, family = BY_NAME[table.name], FAMILIES[table.family]
    if schema.interval:
        ranges = ", ".join(str(prefix) for prefix in value) if isinstance(value, tuple) else ""
        return f"add element {table.family} kpx {table.name} {{ {ranges} }}"
    assert isinstance(key, bytes)
    printed = print_value(schema, value)
    data = f" : {printed}" if printed else ""
    return f"add element {table.family} kpx {table.name} {{ {print_key(schema, family, key)}{data} }}"


def row_frontend(table: Table, key: Key) -> Frontend | None:
    """Return the frontend a row belongs to, None for rows that several share."""
    if table.name in ("chains", "node-addresses") or BY_NAME[table.name].shared or BY_NAME[table.name].interval:
        return None
    assert isinstance(key, bytes)
    family = FAMILIES[table.family]
    width = 8 if table.name.startswith("nodeport") else ADDRESS_BYTES[family] + 8
    return read_frontend(family, key[:width])
