"""Rows back to frontends, and to commands a person could type; pure."""

from __future__ import annotations

from collections.abc import Collection

from kpx.dataplanes.base import KernelFrontend, KernelVerdict, Refusal
from kpx.dataplanes.ipvs.schema import (
    BY_NAME,
    FAMILIES,
    TABLES,
    Kind,
    Schema,
    backend_of,
    read_server,
    server_of,
    set_name,
)
from kpx.kernel.wire.ipvs import IP_VS_SVC_F_PERSISTENT, IP_VS_SVC_F_SCHED1, IP_VS_SVC_F_SCHED2, ServerSettings
from kpx.model.addresses import Address, Family, Prefix, family_of, format_address, format_endpoint
from kpx.model.names import Protocol
from kpx.policy.desired import Backend, Frontend, FrontendKind
from kpx.reconcile.rows import Key, Rows, Table, Value

_OPTIONS = {Protocol.TCP: "-t", Protocol.UDP: "-u", Protocol.SCTP: "--sctp-service"}
_NODE_PORT = Address(b"")
_PASS, _REJECT = KernelVerdict("pass"), KernelVerdict("reject")


def frontends_of(rows: Rows) -> list[KernelFrontend]:
    """
    Return the frontends the rows describe, sorted; a node port once, however many addresses it answers on.

    A virtual server without an element that steers packets to it is no frontend yet, or no more. What becomes of new flows that
    nftables carries its rows say; here they pass.
    """
    found: dict[Frontend, KernelFrontend] = {}
    for family in Family:
        backends = _backends(rows, family)
        for table in ("frontends", "node-ports"):
            for key in rows.get(TABLES[family, table], {}):
                assert isinstance(key, bytes)
                read = _frontend(rows, family, table, key, backends.get(key, []))
                if read is not None:
                    found.setdefault(read.frontend, read)
    return sorted(found.values(), key=lambda f: f.frontend)


def _backends(rows: Rows, family: Family) -> dict[bytes, list[Backend]]:
    """Return the endpoints that take new flows, by server, in the order of their addresses."""
    result: dict[bytes, list[Backend]] = {}
    for key, weight in sorted(rows.get(TABLES[family, "destinations"], {}).items()):
        assert isinstance(key, bytes)
        if weight != 0:
            result.setdefault(server_of(family, key), []).append(backend_of(family, key))
    return result


def _frontend(rows: Rows, family: Family, table: str, key: bytes, backends: list[Backend]) -> KernelFrontend | None:
    settings = rows.get(TABLES[family, "virtual-servers"], {}).get(key)
    frontend = read_server(family, key)
    if frontend is None or not isinstance(settings, ServerSettings):
        return None
    kind = None
    if table == "node-ports":
        kind, frontend = FrontendKind.NODE_PORT, frontend._replace(address=_NODE_PORT)
    elif frontend.address in rows.get(TABLES[family, "cluster-ips"], {}):
        kind = FrontendKind.CLUSTER_IP
    if key in rows.get(TABLES[family, "by-nftables"], {}):
        return KernelFrontend(frontend, kind, _PASS, _PASS, _PASS)
    if not backends or key in rows.get(TABLES[family, "refused"], {}):
        return KernelFrontend(frontend, kind, _REJECT, _REJECT, _REJECT)
    everybody = key in rows.get(TABLES[family, "masq-all"], {})
    pod = KernelVerdict("forward", tuple(backends), everybody)
    others = pod._replace(masquerade=everybody or key in rows.get(TABLES[family, "masq-nonpod"], {}))
    return KernelFrontend(frontend, kind, pod, others, others)


def refusal_of(rows: Rows, destination: Address, host: Collection[Address]) -> Refusal | None:
    """Tell what the chain KPX-REFUSE does with an address that no frontend catches."""
    family = family_of(destination)
    if destination in host:
        return None
    if destination in rows.get(TABLES[family, "cluster-ips"], {}):
        return Refusal("reject", f"{format_address(destination)} is a ClusterIP that does not have this port")
    ranges = (_range(key) for key in rows.get(TABLES[family, "service-cidrs"], {}))
    captured = destination in rows.get(TABLES[family, "captured"], {})
    if not captured and any(destination in prefix for prefix in ranges):
        return Refusal("drop", f"{format_address(destination)} is in a range of Services, and no Service has it")
    return None


def _range(key: Key) -> Prefix:
    assert isinstance(key, bytes)
    return Prefix(Address(key[:-1]), key[-1])


def row_command(table: Table, key: Key, value: Value) -> str:
    """Return the ipset or ipvsadm command that adds the row."""
    schema, family = BY_NAME[table.name], FAMILIES[table.family]
    assert isinstance(key, bytes)
    if schema.kind is Kind.VIRTUAL_SERVER:
        return f"ipvsadm -A {_service(family, key)}{_settings(value)}"
    if schema.kind is Kind.DESTINATION:
        return f"ipvsadm -a {_service(family, key)} -r {_endpoint(backend_of(family, key))} -m -w {value}"
    return f"ipset add {set_name(family, schema.name)} {print_element(schema, family, key)}"


def _service(family: Family, key: bytes) -> str:
    server = read_server(family, key)
    if server is None:
        return f"(protocol {server_of(family, key)[-3]})"
    return f"{_OPTIONS[server.protocol]} {_endpoint(Backend(server.address, server.port))}"


def _endpoint(backend: Backend) -> str:
    return format_endpoint(backend.address, backend.port)


def _settings(value: Value) -> str:
    if not isinstance(value, ServerSettings):
        return ""
    persistent = f" -p {value.timeout_s}" if value.flags & IP_VS_SVC_F_PERSISTENT else ""
    return f" -s {value.scheduler}{persistent}{_scheduler_flags(value)}"


def _scheduler_flags(settings: ServerSettings) -> str:
    """Spell flags as ipvsadm does: with words for the schedulers that give them a meaning."""
    named = settings.scheduler in ("mh", "sh")
    words = [
        f"{settings.scheduler}-{word}" if named else number
        for bit, word, number in ((IP_VS_SVC_F_SCHED1, "fallback", "flag-1"), (IP_VS_SVC_F_SCHED2, "port", "flag-2"))
        if settings.flags & bit
    ]
    return f" -b {','.join(words)}" if words else ""


def print_element(schema: Schema, family: Family, key: bytes) -> str:
    """Spell an element as ipset does."""
    if schema.kind is Kind.SERVER:
        server = read_server(family, key)
        if server is not None:
            return f"{format_address(server.address)},{str(server.protocol).lower()}:{server.port}"
        return f"{format_address(server_of(family, key)[:-3])},{key[-3]}:{int.from_bytes(key[-2:], 'big')}"
    if schema.kind is Kind.RANGE:
        return str(_range(key))
    if schema.kind is Kind.PAIR:
        return f"{format_address(key)},{format_address(key)}"
    return format_address(key)


def row_frontend(table: Table, key: Key) -> Frontend | None:
    """Return the frontend a row belongs to, a node port with the address it answers on; None for rows that several share."""
    schema, family = BY_NAME[table.name], FAMILIES[table.family]
    if schema.kind not in (Kind.SERVER, Kind.VIRTUAL_SERVER, Kind.DESTINATION):
        return None
    assert isinstance(key, bytes)
    return read_server(family, key)
