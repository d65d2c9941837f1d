"""
Programs to rows, pure: the same program gives the same rows, whatever was there before.

Endpoints take the slots 0..N-1 in their sorted order (E8). Rows hold no trace of history; a changed endpoint list rewrites at
most the slots of its own service port.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from kpx.dataplanes.nftables import courtesies
from kpx.dataplanes.nftables.chains import pick_chain, ranges_chain
from kpx.dataplanes.nftables.choices import Choice, slots
from kpx.dataplanes.nftables.remembering import record_chain, record_port_chain, restriction, stick_chain
from kpx.dataplanes.nftables.rules import Chain
from kpx.dataplanes.nftables.schema import CHAINS, ROWS, endpoint_value, frontend_key, port_tail
from kpx.dataplanes.nftables.skeleton import skeleton
from kpx.model.addresses import Family, disjoint, family_of
from kpx.model.facts import NodeFacts
from kpx.model.node import ServiceCIDR
from kpx.policy.desired import Action, Backend, FrontendKind, FrontendProgram, PortProgram, ServiceProgram, Verdict
from kpx.reconcile.rows import Key, Rows, Value

_MASQUERADE: Final = {(True, True, True): "always", (False, True, True): "unless-pod", (False, False, False): "hairpin"}
_KEEPING: Final = (False, True, False)
"""Whether pods, this host and everybody else are masqueraded where clients keep their address (M8-M10)."""


def render_service(program: ServiceProgram, facts: NodeFacts) -> Rows:
    """
    Return the rows of one Service.

    Raises:
        ValueError: a frontend treats kinds of source in a way that no policy does.
    """
    rows = courtesies.render(program, facts)
    for address in program.cluster_ips:
        _table(rows, family_of(address), "cluster-ips")[address] = b""
    for port in program.ports:
        if not port.frontends:
            continue
        sticky = [f for f in port.frontends if f.affinity_timeout_s is not None and _backends(f)]
        remembered = frozenset(backend for frontend in sticky for backend in _backends(frontend))
        for frontend in port.frontends:
            _render_frontend(rows, frontend, remembered)
        if sticky:
            _render_affinity(rows, port, sticky)
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


def _table(rows: Rows, family: Family, name: str) -> dict[Key, Value]:
    return rows.setdefault(ROWS[family, name], {})


def _add_chain(rows: Rows, family: Family, chain: Chain) -> str:
    rows.setdefault(CHAINS[family], {})[chain.name] = chain.comments
    return chain.name


def _backends(program: FrontendProgram) -> tuple[Backend, ...]:
    """Return every endpoint that some kind of source may reach, each once."""
    pod, host, outside = program.pod.pool, program.host.pool, program.outside.pool
    if pod is host is outside:  # nearly always
        return outside.backends if outside is not None else ()
    return tuple(dict.fromkeys(backend for pool in (pod, host, outside) if pool is not None for backend in pool.backends))


def _render_frontend(rows: Rows, program: FrontendProgram, remembered: frozenset[Backend]) -> None:
    family, address, protocol, port = program.frontend
    key = frontend_key(address, protocol, port)
    maps, prefix = ("frontends", "") if address else ("nodeports", "nodeport-")
    if program.kind in (FrontendKind.EXTERNAL_IP, FrontendKind.LOAD_BALANCER_IP):
        _table(rows, family, "captured")[address] = b""
    if program.source_ranges:
        chain = ranges_chain(program.source_ranges)
        _table(rows, family, maps)[key] = f"goto {_add_chain(rows, family, chain)}"
    choices = "ranged" if program.source_ranges else maps
    apart = _apart(program)
    if program.outside.action is Action.REJECT:
        _table(rows, family, f"{prefix}refused")[key] = b""
    elif not apart:
        _table(rows, family, choices)[key] = _way(rows, program, key, program.outside, remembered)
    else:
        _table(rows, family, f"{maps}-inside")[key] = _way(rows, program, key, program.host, remembered)
        _table(rows, family, f"{maps}-outside")[key] = _way(rows, program, key, program.outside, remembered, outside=True)
        _table(rows, family, choices)[key] = f"goto {prefix}{apart}"
    _render_masquerade(rows, program, key)


def _apart(program: FrontendProgram) -> str:
    """
    Return the chain that tells sources apart, "" when all go the same way.

    Raises:
        ValueError: pods go a way of their own, or some sources are refused and others are not.
    """
    if program.pod == program.host == program.outside:
        return ""
    pod, host, outside = ((each.action, each.pool.backends if each.pool else ()) for each in program.verdicts())
    if pod == host == outside:
        return ""
    if pod not in (host, outside) or Action.REJECT in (pod[0], host[0], outside[0]):
        raise ValueError(f"{program.frontend}: no rows for what becomes of {pod}, {host} and {outside}")
    return "by-source" if pod == host else "by-host"


def _way(
    rows: Rows, program: FrontendProgram, key: bytes, verdict: Verdict, remembered: frozenset[Backend], outside: bool = False
) -> str:
    """Add the chains and slots that new flows of a kind of source need, and return the verdict that leads to them."""
    if verdict.pool is None:
        return "drop"
    family, address = program.frontend[:2]
    backends = verdict.pool.backends
    choice = Choice(not address, len(backends), outside)
    endpoints = _table(rows, family, "endpoints" if address else "nodeport-endpoints")
    for slot, (endpoint, number) in zip(slots(choice), backends, strict=False):
        endpoints[key + slot] = endpoint + port_tail(number)
    name, comments = _pick(family, choice)
    rows.setdefault(CHAINS[family], {})[name] = comments
    if program.affinity_timeout_s is not None:
        name = _add_chain(rows, family, stick_chain(family, choice, restriction(backends, remembered)))
    return f"goto {name}"


@lru_cache(maxsize=4096)
def _pick(family: Family, choice: Choice) -> tuple[str, tuple[str, ...]]:
    chain = pick_chain(family, choice)
    return chain.name, chain.comments


def _render_masquerade(rows: Rows, program: FrontendProgram, key: bytes) -> None:
    """
    Say whose address is replaced.

    Who is always masqueraded and who is not stand in tables of their own, so that a frontend is in both while its policy changes;
    masquerading goes first then, since a client that is masqueraded without need gets its answer all the same.
    """
    family, backends = program.frontend.family, _backends(program)
    if not backends:
        return
    pod, host, outside = (verdict.masquerade for verdict in program.verdicts())
    keeping, how = (pod, host, outside) == _KEEPING, _MASQUERADE.get((pod, host, outside))
    if not keeping and (how is None or (how != "always" and not program.frontend.address)):
        raise ValueError(f"{program.frontend}: no rows masquerade {(pod, host, outside)}")
    if program.frontend.address:
        if keeping:
            _table(rows, family, "keeping")[key] = b""
        else:
            by = "masquerade" if program.affinity_timeout_s is None else "sticky"
            _table(rows, family, "masquerades")[key] = f"goto {by}-{how}"
        return
    table = _table(rows, family, "nodeport-keeping" if keeping else "nodeport-masquerades")
    for backend in backends:
        table[key + endpoint_value(*backend)] = b"" if keeping else "goto nodeport-masquerade-always"


def _render_affinity(rows: Rows, port: PortProgram, sticky: list[FrontendProgram]) -> None:
    """Make the first packet of a flow record where it went, under every frontend of the service port (A1)."""
    timeout_s = sticky[0].affinity_timeout_s or 0
    addressed = [f.frontend for f in sticky if f.frontend.address]
    if len(sticky) == len(addressed) == 1:
        chain = _record_one(port.family, timeout_s)
    else:
        chain = record_port_chain(port.family, [f.frontend for f in sticky], timeout_s)
    name = _add_chain(rows, port.family, chain)
    for program in sticky:
        _, address, protocol, number = program.frontend
        key = frontend_key(address, protocol, number)
        if address:
            _table(rows, port.family, "sticky")[key] = f"jump {name}"
        else:
            keys = (key + endpoint_value(*backend) for backend in _backends(program))
            _table(rows, port.family, "nodeport-sticky").update(dict.fromkeys(keys, f"jump {name}"))


@lru_cache(maxsize=1024)
def _record_one(family: Family, timeout_s: int) -> Chain:
    return record_chain(family, timeout_s)
