"""
NodeFacts from what is set, what the Node object says and what the host has. Pure but for the two probes at the end.

The Node object is optional: without an API server there often is none, and then the host's own addresses stand in for it
(16.3 takes loopback there, which would leave `primary` node ports nowhere to answer).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from kpx.errors import CapabilityError
from kpx.host.addresses import HostAddresses, may_answer
from kpx.host.kube_proxy_names import DEVICE
from kpx.host.sysctl import read_sysctl
from kpx.model.addresses import Address, Family, Prefix, family_of
from kpx.model.facts import DetectLocal, LocalDetector, NodeFacts
from kpx.model.node import Node
from kpx.policy.scheduling import missing_scheduler

PROC: Final = Path("/proc")


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the operator decided about this node.

    Args:
        name: node name, as `node_name` returns it.
        bind_address: the node's address when one is stated (16.3), None when it is to be found.
        detector: for the mode NodeCIDR its prefixes are ignored, the Node object has them.
        node_port_ranges: None for `primary` (N2, N3).
        families: what the host supports (P2).
        masquerade_all: see 6.4.
        per_address: the data plane needs a row for each address that answers on a node port, so all of them are facts (D10);
            without it, an address that comes to a family in which any answers is no news.
        external_ip_ranges, answer_ping, drop_invalid, scheduler, mark_bits, drain_timeout_s, drain_grace_s: see `NodeFacts`.
        own_external_ips, api_server_external_ips: addresses of this node, and of the API server, may be external IPs (V2).
    """

    name: str
    bind_address: Address | None = None
    detector: LocalDetector = LocalDetector()
    node_port_ranges: tuple[Prefix, ...] | None = None
    families: tuple[Family, ...] = (Family.IPV4, Family.IPV6)
    masquerade_all: bool = False
    per_address: bool = False
    external_ip_ranges: tuple[Prefix, ...] | None = None
    own_external_ips: bool = False
    api_server_external_ips: bool = False
    answer_ping: bool = False
    drop_invalid: bool = False
    scheduler: str = "rr"
    mark_bits: int = 0x3000
    drain_timeout_s: float = 3600.0
    drain_grace_s: float = 60.0


def node_facts(
    settings: NodeSettings, node: Node | None, host: HostAddresses, api_servers: frozenset[Address] = frozenset()
) -> NodeFacts:
    """
    Assemble the facts; a function of its arguments alone.

    Args:
        api_servers: every address of the API server that is known.

    Raises:
        CapabilityError: the node's primary family is not supported by the host (P2).
    """
    ips = node_ips(settings.bind_address, node, host)
    families = _families(ips, settings.families)
    ips = tuple(address for address in ips if family_of(address) in families)
    addresses, match_all = node_port_addresses(settings.node_port_ranges, families, ips, host)
    if settings.per_address and match_all:
        addresses |= {address for address in host.answering() if family_of(address) in match_all}
    detector = settings.detector
    if detector.mode is DetectLocal.NODE_CIDR:
        detector = msgspec.structs.replace(detector, prefixes=_one_of_each_family(node.pod_cidrs if node else ()))
    return NodeFacts(
        name=settings.name,
        zone=node.zone if node else None,
        families=families,
        node_ips=ips,
        node_port_addresses=addresses,
        node_port_any=match_all,
        local_detector=detector,
        masquerade_all=settings.masquerade_all,
        external_ip_ranges=settings.external_ip_ranges,
        own_addresses=frozenset() if settings.own_external_ips else own_addresses(settings.bind_address, node, host),
        api_server_addresses=frozenset() if settings.api_server_external_ips else api_servers,
        answer_ping=settings.answer_ping,
        drop_invalid=settings.drop_invalid,
        scheduler=settings.scheduler,
        mark_bits=settings.mark_bits,
        drain_timeout_s=settings.drain_timeout_s,
        drain_grace_s=settings.drain_grace_s,
    )


def node_ips(bind_address: Address | None, node: Node | None, host: HostAddresses) -> tuple[Address, ...]:
    """
    Return the node's addresses, at most one of each family, primary family first (16.3).

    A stated address wins, then those of the Node in their order; the host's own fill in only if there is no Node.
    """
    candidates = [bind_address] if bind_address is not None else []
    if node is not None and node.addresses:
        candidates += node.addresses
    else:
        candidates += [address for address in map(host.primary, Family) if address is not None]
    chosen: dict[Family, Address] = {}
    for address in candidates:
        chosen.setdefault(family_of(address), address)
    return tuple(chosen.values())


def own_addresses(bind_address: Address | None, node: Node | None, host: HostAddresses) -> frozenset[Address]:
    """
    Return every address of this node: what is stated, what the Node says, and what interfaces have.

    Loopback and link-local are left out: no Service gets those whatever is set, and the latter come and go with each pod. So
    are the addresses of kube-ipvs0, where kube-proxy's mode ipvs leaves those of Services.
    """
    stated = [] if bind_address is None else [bind_address]
    here = (entry.address for entry in host.addresses if entry.interface != DEVICE and may_answer(entry.address))
    return frozenset((*stated, *(node.addresses if node else ()), *here))


def node_port_addresses(
    ranges: tuple[Prefix, ...] | None, families: Iterable[Family], ips: Iterable[Address], host: HostAddresses
) -> tuple[frozenset[Address], frozenset[Family]]:
    """
    Return the addresses that answer on node ports, and the families in which every local address does.

    `primary` is the node's address, loopback excluded (N2). Of ranges, a family no range is of answers everywhere, and so
    does one with a zero-length range (N1); other ranges stand for the addresses the host has in them (N5).
    """
    if ranges is None:
        return frozenset(address for address in ips if may_answer(address)), frozenset()
    everywhere = set()
    chosen: set[Address] = set()
    for family in families:
        mine = [prefix for prefix in ranges if family_of(prefix.address) == family]
        if not mine or any(prefix.length == 0 for prefix in mine):
            everywhere.add(family)
        else:
            chosen |= host.within(mine)
    return frozenset(chosen), frozenset(everywhere)


def facts_warnings(facts: NodeFacts) -> tuple[str, ...]:
    """Return a sentence for each thing about the node that is legal and probably not meant."""
    result = []
    for family in facts.families:
        if not facts.local_detector.works_for(family):
            why = _why_no_detector(facts.local_detector.mode, family)
            result.append(f"{why}: {family} traffic to ClusterIPs is not masqueraded")
        if family not in facts.node_port_any and not any(family_of(a) == family for a in facts.node_port_addresses):
            result.append(f"no {family} address of this node answers on node ports")
    if facts.scheduler in facts.missing_schedulers:
        result.append(f"--ipvs-scheduler: {missing_scheduler(facts.scheduler)}")
    return tuple(result)


def node_name(override: str) -> str:
    """Return the name of this node: stated or the host name, lower case, without blanks around it (16.4)."""
    return (override.strip() or socket.gethostname().strip()).lower()


def supported_families(proc: Path = PROC) -> tuple[Family, ...]:
    """Return the families this network namespace can forward (P2)."""
    if read_sysctl("net.ipv6.conf.all.disable_ipv6", proc / "sys") == "0" and (proc / "net/if_inet6").exists():
        return (Family.IPV4, Family.IPV6)
    return (Family.IPV4,)


def _families(ips: tuple[Address, ...], supported: tuple[Family, ...]) -> tuple[Family, ...]:
    """Return the families to program, that of the first node address first."""
    if not ips:
        return supported
    primary = family_of(ips[0])
    if primary not in supported:
        raise CapabilityError(
            f"the address of this node is {primary}, and this host has {primary} switched off: "
            "set net.ipv6.conf.all.disable_ipv6=0, or give an IPv4 --bind-address"
        )
    return (primary, *(family for family in supported if family != primary))


def _one_of_each_family(prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    chosen: dict[Family, Prefix] = {}
    for prefix in prefixes:
        chosen.setdefault(family_of(prefix.address), prefix)
    return tuple(chosen.values())


def _why_no_detector(mode: DetectLocal, family: Family) -> str:
    if mode is DetectLocal.NODE_CIDR:
        return f"the Node object has no {family} pod range"
    return f"--cluster-cidr has no {family} range"
