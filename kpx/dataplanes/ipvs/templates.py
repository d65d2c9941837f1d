"""Session affinity as IPVS keeps it: templates, which the kernel makes, refreshes and forgets by itself."""

from __future__ import annotations

from collections.abc import Iterable

from kpx.dataplanes.base import AffinityEntry
from kpx.dataplanes.ipvs.schema import TABLES, read_server, server_key
from kpx.kernel.wire.ip_vs_conn import Connection
from kpx.kernel.wire.ipvs import ServerSettings
from kpx.model.addresses import Address, Family
from kpx.policy.desired import Backend
from kpx.reconcile.rows import Rows


def affinity_of(rows: Rows, connections: Iterable[Connection]) -> list[AffinityEntry]:
    """Return the templates of our virtual servers, sorted; a node port is named by the address that was asked. Pure."""
    found = []
    for one in connections:
        family = Family.IPV4 if len(one.server) == 4 else Family.IPV6
        key = server_key(one.server, one.protocol, one.server_port)
        settings = rows.get(TABLES[family, "virtual-servers"], {}).get(key)
        frontend = read_server(family, key)
        if not one.is_template or frontend is None or not isinstance(settings, ServerSettings):
            continue
        backend = Backend(Address(one.destination), one.destination_port)
        found.append(AffinityEntry(Address(one.client), frontend, backend, float(one.expires_in_s), float(settings.timeout_s)))
    return sorted(found)
