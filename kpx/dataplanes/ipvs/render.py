"""
Programs to rows, pure: the same program gives the same rows, whatever was there before.

A frontend is a virtual server; a node port is one on each address of this node that answers on node ports (N1-N5), so a new
address is new rows (D10) and a VIP never gets one (D9). A frontend without endpoints is a virtual server without destinations, so
that connections to endpoints that drain live on, and new flows are refused before they come to it: what IPVS itself would say
to them would have to come from the VIP, and from an address that is not its own this host sends no ICMP (R1).
"""

from __future__ import annotations

from collections.abc import Iterable

from kpx.dataplanes.fate import Fate, fate_of
from kpx.dataplanes.ipvs.schema import TABLES, range_keys, server_key
from kpx.kernel.wire.ipvs import IP_VS_SVC_F_PERSISTENT, ServerSettings
from kpx.model.addresses import Address, Family, family_of
from kpx.model.facts import NodeFacts
from kpx.model.node import ServiceCIDR
from kpx.policy.desired import Action, FrontendKind, FrontendProgram, Scheduler, ServiceProgram
from kpx.reconcile.rows import Key, Rows, Value

_WEIGHT = 1
"""Every endpoint counts the same (6.5); 0 is what makes one drain (G1)."""

_MASQUERADE_TABLES = {"always": "masq-all", "unless-pod": "masq-nonpod"}


def render_service(program: ServiceProgram, facts: NodeFacts) -> Rows:
    """
    Return the rows of one Service.

    Raises:
        ValueError: a frontend treats kinds of sources in a way the tables cannot say yet (different pools).
    """
    rows: Rows = {}
    for address in program.cluster_ips:
        _table(rows, family_of(address), "cluster-ips")[address] = b""
    for port in program.ports:
        if not port.frontends:
            continue
        for frontend in port.frontends:
            _render_frontend(rows, frontend, program.scheduler, facts)
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


def _render_frontend(rows: Rows, program: FrontendProgram, scheduler: Scheduler, facts: NodeFacts) -> None:
    family, address, protocol, port = program.frontend
    fate = fate_of(program)
    if fate.action is Action.DROP:
        raise ValueError(f"{program.frontend}: dropping is not rendered yet")
    if program.kind in (FrontendKind.EXTERNAL_IP, FrontendKind.LOAD_BALANCER_IP):
        _table(rows, family, "captured")[address] = b""
    steering = "frontends" if address else "node-ports"
    for place in (address,) if address else _node_port_addresses(program, facts):
        key = server_key(place, protocol, port)
        _table(rows, family, steering)[key] = b""
        _render_server(rows, family, key, program, scheduler, fate)


def _node_port_addresses(program: FrontendProgram, facts: NodeFacts) -> Iterable[Address]:
    """Return where a node port answers; where somebody else's frontend is exactly that address and port, it wins (V12)."""
    family = program.frontend.family
    return (a for a in facts.node_port_addresses if family_of(a) == family and a not in program.shadowed)


def _render_server(rows: Rows, family: Family, key: bytes, program: FrontendProgram, scheduler: Scheduler, fate: Fate) -> None:
    sticky = program.affinity_timeout_s is not None
    flags = scheduler.flags | (IP_VS_SVC_F_PERSISTENT if sticky else 0)
    _table(rows, family, "servers")[key] = b""
    _table(rows, family, "virtual-servers")[key] = ServerSettings(scheduler.name, flags, program.affinity_timeout_s or 0)
    if fate.pool is None:
        _table(rows, family, "refused")[key] = b""
        return
    destinations = _table(rows, family, "destinations")
    for endpoint, number in fate.pool.backends:
        destinations[key + endpoint + number.to_bytes(2, "big")] = _WEIGHT
    if fate.masquerade in _MASQUERADE_TABLES:
        _table(rows, family, _MASQUERADE_TABLES[fate.masquerade])[key] = b""
