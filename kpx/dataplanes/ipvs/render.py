"""
Programs to rows, pure: the same program gives the same rows, whatever was there before.

A frontend is a virtual server; a node port is one on each address of this node that answers on node ports (N1-N5), so a new
address is new rows (D10) and a VIP never gets one (D9). A frontend without endpoints is a virtual server without destinations, so
that connections to endpoints that drain live on, and new flows are refused before they come to it: what IPVS itself would say
to them would have to come from the VIP, and from an address that is not its own this host sends no ICMP (R1).

A frontend that nftables carries is a virtual server without destinations too, for the connections IPVS had before; its new flows
are not brought here (decision 0019).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kpx.dataplanes.carrying import is_plain
from kpx.dataplanes.ipvs.schema import TABLES, range_keys, server_key
from kpx.dataplanes.stale import refuges_of
from kpx.kernel.wire.ipvs import ServerSettings
from kpx.model.addresses import Address, Family, family_of
from kpx.model.facts import NodeFacts
from kpx.model.names import Protocol
from kpx.model.node import ServiceCIDR
from kpx.policy.desired import Backend, FrontendKind, FrontendProgram, PortProgram, Scheduler, ServiceProgram
from kpx.reconcile.rows import Key, Rows, Value

_WEIGHT = 1
"""Every endpoint counts the same (6.5); 0 is what makes one drain (G1)."""


def render_service(program: ServiceProgram, facts: NodeFacts) -> Rows:
    """Return the rows of one Service."""
    rows: Rows = {}
    for address in program.cluster_ips:
        _table(rows, family_of(address), "cluster-ips")[address] = b""
    for port in program.ports:
        if not port.frontends:
            continue
        for frontend in port.frontends:
            _render_frontend(rows, port, frontend, program.scheduler, facts)
        hairpin = _table(rows, port.family, "hairpin") if port.hairpin else {}
        for address in port.hairpin:
            hairpin[address] = b""
    return rows


def render_node(facts: NodeFacts, cidrs: Iterable[ServiceCIDR]) -> Rows:
    """Return the rows of the node itself: pod ranges, Service ranges."""
    rows: Rows = {}
    for cidr in cidrs:
        for prefix in cidr.prefixes:
            family = family_of(prefix.address)
            if family in facts.families:
                _table(rows, family, "service-cidrs").update(dict.fromkeys(range_keys(prefix), b""))
    for family in facts.families:
        pods = facts.local_detector.prefix(family)
        if pods is not None:
            _table(rows, family, "pods").update(dict.fromkeys(range_keys(pods), b""))
    return rows


def _table(rows: Rows, family: Family, name: str) -> dict[Key, Value]:
    return rows.setdefault(TABLES[family, name], {})


def _render_frontend(rows: Rows, port: PortProgram, program: FrontendProgram, scheduler: Scheduler, facts: NodeFacts) -> None:
    family, address, protocol, number = program.frontend
    if program.kind in (FrontendKind.EXTERNAL_IP, FrontendKind.LOAD_BALANCER_IP):
        _table(rows, family, "captured")[address] = b""
    places = (address,) if address else _node_port_addresses(program, facts)
    keys = [server_key(place, protocol, number) for place in places]
    settings = ServerSettings(scheduler.name, scheduler.flags, 0)
    pool: Sequence[Backend] = ()
    state = "by-nftables"
    if is_plain(program):
        pool = program.outside.pool.backends if program.outside.pool else ()
        state = _masquerading(program) if pool else "refused"
    for key in keys:
        _table(rows, family, "servers")[key] = b""
        _table(rows, family, "virtual-servers")[key] = settings
        _table(rows, family, "frontends" if address else "node-ports")[key] = b""
        if state:
            _table(rows, family, state)[key] = b""
        if pool:
            destinations = _table(rows, family, "destinations")
            for endpoint, where in pool:
                destinations[key + endpoint + where.to_bytes(2, "big")] = _WEIGHT
    if protocol is Protocol.UDP:
        _spare(rows, keys, port, pool)


def _node_port_addresses(program: FrontendProgram, facts: NodeFacts) -> Iterable[Address]:
    """Return where a node port answers; where somebody else's frontend is exactly that address and port, it wins (V12)."""
    family = program.frontend.family
    return (a for a in facts.node_port_addresses if family_of(a) == family and a not in program.shadowed)


def _masquerading(program: FrontendProgram) -> str:
    """Return the set that says whose address is replaced, "" for nobody's but that of an endpoint that reaches itself."""
    if program.pod.masquerade:
        return "masq-all"
    return "masq-nonpod" if program.outside.masquerade else ""


def _spare(rows: Rows, keys: Iterable[bytes], port: PortProgram, pool: Sequence[Backend]) -> None:
    """
    Keep the flows of UDP endpoints that take no new ones while they live on in connection tracking (U4, U6).

    Connections of TCP end, so their endpoints drain; a UDP flow does not, so whether it lives on is a matter of what is, not of
    what was.
    """
    if outside := [backend for backend in refuges_of(port) if backend not in pool]:
        spared = _table(rows, port.family, "spared")
        for key in keys:
            spared.update((key + endpoint + number.to_bytes(2, "big"), 0) for endpoint, number in outside)
