"""Rows back to frontends, pure: what `kpx get` shows and what `kpx explain` compares a story with."""

from __future__ import annotations

import sys
from collections.abc import Collection

from kpx.dataplanes.base import KernelFrontend, Refusal
from kpx.dataplanes.nftables.chains import affinity_timeout_s, pool_size
from kpx.dataplanes.nftables.schema import (
    ADDRESS_BYTES,
    BY_NAME,
    CHAINS,
    FAMILIES,
    ROWS,
    print_key,
    print_value,
    read_endpoint,
    read_frontend,
)
from kpx.model.addresses import Address, Family, Prefix, family_of, format_address
from kpx.policy.desired import Backend, Frontend, FrontendKind
from kpx.reconcile.rows import Key, Rows, Table, Value

_MASQUERADE = {
    "goto masquerade-always": "always",
    "goto nodeport-masquerade-always": "always",
    "goto masquerade-unless-pod": "unless-pod",
    "goto masquerade-hairpin": "hairpin-only",
}


def frontends_of(rows: Rows) -> list[KernelFrontend]:
    """
    Return the frontends the rows describe, sorted.

    A slot that is missing is left out of the endpoints; a row that kpx would not write (somebody else's) is left out whole.
    """
    found: list[KernelFrontend] = []
    for family in Family:
        found += _forwarded(rows, family, "frontends", "endpoints", "sticky")
        found += _forwarded(rows, family, "nodeports", "nodeport-endpoints", "nodeport-sticky")
        found += _refused(rows, family, "refused")
        found += _refused(rows, family, "nodeport-refused")
    return sorted(found, key=lambda f: f.frontend)


def _forwarded(rows: Rows, family: Family, verdicts: str, slots: str, sticky: str) -> list[KernelFrontend]:
    endpoints = rows.get(ROWS[family, slots], {})
    recorded = rows.get(ROWS[family, sticky], {})
    found = []
    for key, verdict in rows.get(ROWS[family, verdicts], {}).items():
        assert isinstance(key, bytes)
        frontend = read_frontend(family, key)
        size = pool_size(str(verdict))
        if frontend is None or size is None:
            continue
        packed = [endpoints.get(key + slot.to_bytes(4, sys.byteorder)) for slot in range(size)]
        backends = tuple(Backend(*read_endpoint(p)) for p in packed if isinstance(p, bytes))
        timeout = _timeout(rows, family, recorded.get(key))
        kind = _kind(rows, frontend)
        found.append(KernelFrontend(frontend, kind, "forward", backends, _masquerade(rows, family, key, packed), timeout))
    return found


def _refused(rows: Rows, family: Family, table: str) -> list[KernelFrontend]:
    found = []
    for key, verdict in rows.get(ROWS[family, table], {}).items():
        assert isinstance(key, bytes)
        frontend = read_frontend(family, key)
        if frontend is None:
            continue
        action = "drop" if verdict == "drop" else "reject"
        found.append(KernelFrontend(frontend, _kind(rows, frontend), action, (), "", None))
    return found


def _kind(rows: Rows, frontend: Frontend) -> FrontendKind | None:
    """Rows tell ClusterIPs and node ports; external and load-balancer addresses look alike."""
    if not frontend.address:
        return FrontendKind.NODE_PORT
    cluster_ips = rows.get(ROWS[frontend.family, "cluster-ips"], {})
    return FrontendKind.CLUSTER_IP if frontend.address in cluster_ips else None


def _masquerade(rows: Rows, family: Family, key: bytes, packed: list[Value | None]) -> str:
    if len(key) > 8:
        verdict = rows.get(ROWS[family, "masquerades"], {}).get(key)
    else:
        table = rows.get(ROWS[family, "nodeport-masquerades"], {})
        verdict = next((table.get(key + value) for value in packed if isinstance(value, bytes)), None)
    return _MASQUERADE.get(str(verdict), "never")


def _timeout(rows: Rows, family: Family, verdict: Value | None) -> int | None:
    if verdict is None:
        return None
    name = str(verdict).removeprefix("jump ")
    comments = rows.get(CHAINS[family], {}).get(name, ())
    return affinity_timeout_s(name, comments if isinstance(comments, tuple) else ())


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
    if table.name in ("chains", "hairpin", "captured", "cluster-ips", "node-addresses", "pod-sources", "service-cidrs"):
        return None
    assert isinstance(key, bytes)
    family = FAMILIES[table.family]
    width = 8 if table.name.startswith("nodeport") else ADDRESS_BYTES[family] + 8
    return read_frontend(family, key[:width])
