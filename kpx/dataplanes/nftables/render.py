"""
Programs to rows, pure: the same program gives the same rows, whatever was there before.

Endpoints take the slots 0..N-1 in their sorted order (E8). Rows hold no trace of history; a changed endpoint list rewrites at
most the slots of its own service port.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache

from kpx.dataplanes.fate import fate_of
from kpx.dataplanes.nftables.chains import pick_chain, pick_name, record_chain, record_port_chain, stick_chain
from kpx.dataplanes.nftables.rules import Chain
from kpx.dataplanes.nftables.schema import CHAINS, ROWS, endpoint_value, frontend_key
from kpx.dataplanes.nftables.skeleton import skeleton
from kpx.model.addresses import Family, Prefix, family_of
from kpx.model.facts import NodeFacts
from kpx.model.node import ServiceCIDR
from kpx.policy.desired import Action, Backend, FrontendKind, FrontendProgram, PortProgram, ServiceProgram
from kpx.reconcile.rows import Key, Rows, Value

_SLOTS = [slot.to_bytes(4, sys.byteorder) for slot in range(1024)]


def render_service(program: ServiceProgram) -> Rows:
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
            _render_frontend(rows, frontend)
        if any(f.affinity_timeout_s is not None and f.outside.action is Action.FORWARD for f in port.frontends):
            _render_affinity(rows, port)
        hairpin = _table(rows, port.family, "hairpin") if port.hairpin else {}
        for address in port.hairpin:
            hairpin[address + address] = b""
    return rows


def render_node(facts: NodeFacts, cidrs: Iterable[ServiceCIDR]) -> Rows:
    """Return the rows of the node itself: constant chains, node addresses, pod ranges, Service ranges."""
    rows: Rows = {}
    ranges = [prefix for cidr in cidrs for prefix in cidr.prefixes]
    for family in facts.families:
        for chain in skeleton(facts, family):
            _add_chain(rows, family, chain)
        for address in sorted(a for a in facts.node_port_addresses if family_of(a) == family):
            if family not in facts.node_port_any:
                _table(rows, family, "node-addresses")[address] = b""
        pods = facts.local_detector.prefix(family)
        if pods is not None:
            _table(rows, family, "pod-sources")["ranges"] = (pods,)
        if owned := disjoint(p for p in ranges if family_of(p.address) == family):
            _table(rows, family, "service-cidrs")["ranges"] = owned
    return rows


def disjoint(prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """Return the ranges sorted, without those that lie in another (S8: two ServiceCIDRs may say the same)."""
    result: list[Prefix] = []
    for prefix in sorted(set(prefixes)):
        if not (result and prefix.address in result[-1] and prefix.length >= result[-1].length):
            result.append(prefix)
    return tuple(result)


def _table(rows: Rows, family: Family, name: str) -> dict[Key, Value]:
    return rows.setdefault(ROWS[family, name], {})


def _add_chain(rows: Rows, family: Family, chain: Chain) -> str:
    rows.setdefault(CHAINS[family], {})[chain.name] = chain.comments
    return chain.name


def _render_frontend(rows: Rows, program: FrontendProgram) -> None:
    family, address, protocol, port = program.frontend
    key = frontend_key(address, protocol, port)
    prefix = "" if address else "nodeport-"
    action, pool, masquerade = fate_of(program)
    if program.kind in (FrontendKind.EXTERNAL_IP, FrontendKind.LOAD_BALANCER_IP):
        _table(rows, family, "captured")[address] = b""
    if pool is None:
        verdict = "goto refuse" if action is Action.REJECT else "drop"
        _table(rows, family, prefix + "refused")[key] = verdict
        return
    size, sticky = len(pool.backends), program.affinity_timeout_s is not None
    for name, comments in _choice(family, not address, size, sticky):
        rows.setdefault(CHAINS[family], {})[name] = comments
    _table(rows, family, "frontends" if address else "nodeports")[key] = f"goto {pick_name(not address, size, sticky)}"
    _fill_slots(_table(rows, family, prefix + "endpoints"), key, pool.backends)
    if address:
        _table(rows, family, "masquerades")[key] = f"goto masquerade-{masquerade.removesuffix('-only')}"
    else:
        verdicts = _table(rows, family, "nodeport-masquerades")
        for backend in pool.backends:
            verdicts[key + endpoint_value(*backend)] = f"goto nodeport-masquerade-{masquerade}"


def _fill_slots(endpoints: dict[Key, Value], key: bytes, backends: Sequence[Backend]) -> None:
    slots = _SLOTS
    if len(backends) > len(slots):
        slots = [slot.to_bytes(4, sys.byteorder) for slot in range(len(backends))]
    for slot, (address, port) in zip(slots, backends, strict=False):
        endpoints[key + slot] = address + port.to_bytes(2, "big") + b"\0\0"


@lru_cache(maxsize=4096)
def _choice(family: Family, node_port: bool, size: int, sticky: bool) -> tuple[tuple[str, tuple[str, ...]], ...]:
    chains = [pick_chain(family, node_port, size)] + ([stick_chain(family, node_port, size)] if sticky else [])
    return tuple((chain.name, chain.comments) for chain in chains)


def _render_affinity(rows: Rows, port: PortProgram) -> None:
    """Make the first packet of a flow record where it went, under every frontend of the service port (A1)."""
    sticky = [f for f in port.frontends if f.affinity_timeout_s is not None and f.outside.action is Action.FORWARD]
    timeout_s = sticky[0].affinity_timeout_s or 0
    addressed = [f.frontend for f in sticky if f.frontend.address]
    if len(sticky) == len(addressed) == 1:
        chain = _record_one(port.family, timeout_s)
    else:
        chain = record_port_chain(port.family, [f.frontend for f in sticky], timeout_s)
    name = _add_chain(rows, port.family, chain)
    for program in sticky:
        _, address, protocol, number = program.frontend
        table = "sticky" if address else "nodeport-sticky"
        _table(rows, port.family, table)[frontend_key(address, protocol, number)] = f"jump {name}"


@lru_cache(maxsize=1024)
def _record_one(family: Family, timeout_s: int) -> Chain:
    return record_chain(family, timeout_s)
