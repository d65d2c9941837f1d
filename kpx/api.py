"""
The public Python API: the functions the command line is made of, for programs that embed kpx (docs/api.md).

The way is always the same: manifests -> `compile` -> programs -> `render` -> rows, and `observe` -> rows -> `diff` -> plan ->
`apply`. All of it up to the plan is pure but for reading files and the host's addresses; only `observe`, `apply` and `cleanup`
talk to the kernel. Everything happens in the network namespace of the calling thread.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from kpx.agent import assemble
from kpx.agent.lock import AgentLock, holder
from kpx.cluster.api_servers import api_servers
from kpx.cluster.view import ClusterView
from kpx.dataplanes.base import Dataplane, Observed
from kpx.errors import AlreadyRunning
from kpx.host.addresses import HostAddresses
from kpx.model.addresses import Address, parse_address
from kpx.model.facts import NodeFacts
from kpx.model.findings import Finding
from kpx.model.names import ObjectName, Protocol
from kpx.model.node import ServiceCIDR
from kpx.model.service import Service
from kpx.policy import compile as compiling
from kpx.policy import explain as explaining
from kpx.policy.admission import admitted
from kpx.policy.claims import Claims
from kpx.policy.desired import ServiceProgram
from kpx.policy.story import Packet, Story
from kpx.reconcile import diff as differing
from kpx.reconcile.delta import DeltaTable
from kpx.reconcile.plan import Outcome, Plan
from kpx.reconcile.rows import Rows
from kpx.settings.config import Config, make_config
from kpx.sources.manifests import read_directory
from kpx.sources.proxy_name import heard_as


class Manifests(NamedTuple):
    """
    A directory of manifests, read once.

    Args:
        view: the Services, EndpointSlices, Nodes and ServiceCIDRs in it.
        findings: what is wrong in it, one line each; everything else is in the view all the same.
    """

    view: ClusterView
    findings: tuple[Finding, ...]


def read_manifests(directory: str | os.PathLike[str], service_proxy_name: str = "") -> Manifests:
    """
    Read all manifests of a directory.

    Args:
        service_proxy_name: as the option; the Services that are not for this proxy are in the view as skipped.

    Raises:
        SourceError: the directory cannot be read.
    """
    view = ClusterView()
    news = read_directory(os.fspath(directory))
    for event in heard_as(news.events, service_proxy_name):
        view.fold(event)
    return Manifests(view, news.findings)


def host_addresses() -> HostAddresses:
    """Return the addresses of this network namespace now; needs no privilege."""
    return assemble.host_addresses()


def node_facts(view: ClusterView | None = None, **settings: object) -> NodeFacts:
    """
    Return what is known of this node, from settings, its Node object if the view has one, and the host's addresses.

    Args:
        view: of `read_manifests`.
        settings: by the names of `kpx.settings.config.Config`, for example `cluster_cidr="10.244.0.0/16"`.

    Raises:
        ConfigError: a setting is wrong.
    """
    return node_facts_of(make_config(settings), view)


def node_facts_of(config: Config, view: ClusterView | None = None, servers: frozenset[Address] = frozenset()) -> NodeFacts:
    """Return what is known of this node, from a `Config`; see `node_facts`. `servers`: where an API server was reached."""
    name = assemble.node_name(config.hostname_override)
    if view is None:
        return assemble.node_facts(config, None, host_addresses(), servers)
    return assemble.node_facts(config, view.nodes.get(name), host_addresses(), servers | api_servers(view))


def compile(view: ClusterView, facts: NodeFacts) -> dict[ObjectName, ServiceProgram]:
    """Return what this node forwards for each Service; pure, and a function of its arguments alone."""
    return compiling.compile_all(view.services, view.slices_of, facts, _claims(_admitted(view, facts)), health=view.health)


def render(
    dataplane: Dataplane,
    programs: Mapping[ObjectName, ServiceProgram],
    facts: NodeFacts,
    cidrs: Iterable[ServiceCIDR] = (),
) -> Rows:
    """
    Return the rows of programs and of the node itself; pure.

    Args:
        dataplane: whose rows; it is not asked about the kernel.
        programs: of `compile`.
        facts: as given to `compile`.
        cidrs: the ServiceCIDRs of the view.

    Raises:
        ValueError: two programs want different values of one row, which programs of one `compile` never do.
    """
    delta = DeltaTable()
    delta.replace({}, dataplane.render_node(facts, cidrs))
    for program in programs.values():
        delta.replace({}, dataplane.render_service(program, facts))
    delta.plan()
    return delta.desired_rows()


def packet(destination: str, source: str | None = None) -> Packet:
    """
    Read a packet to explain.

    Args:
        destination: `ADDRESS:PORT[/PROTOCOL]`, IPv6 in brackets, tcp unless said otherwise.
        source: address of the client, None when it does not matter.

    Raises:
        ValueError: the message says which part is wrong and what it should look like.
    """
    place, slash, protocol = destination.strip().partition("/")
    names = {one.name.lower(): one for one in Protocol}
    if slash and protocol.lower() not in names:
        raise ValueError(f"protocol {protocol!r} is not one of {', '.join(names)}")
    host, colon, port = place.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise ValueError(f"{destination!r} is not ADDRESS:PORT[/PROTOCOL], for example 10.96.0.10:53/udp or [fd00::1]:80")
    if not (port.isascii() and port.isdigit()) or not 1 <= int(port) <= 65535:
        raise ValueError(f"port {port!r} is not a number from 1 to 65535")
    client = None if source is None else parse_address(source)
    return Packet(parse_address(host[1:-1] if bracketed else host), int(port), names[protocol.lower() or "tcp"], client)


def explain(
    packet: Packet,
    view: ClusterView,
    facts: NodeFacts,
    programs: Mapping[ObjectName, ServiceProgram] | None = None,
    addresses: Collection[Address] | None = None,
) -> Story:
    """
    Tell what this node does with the first packet of a flow, and why; asks the manifests, not the kernel.

    Args:
        packet: of `packet`.
        programs: of `compile`, when they are at hand.
        addresses: all addresses of the host; None reads them.
    """
    claims = _claims(_admitted(view, facts))
    if programs is None:
        programs = compiling.compile_all(view.services, view.slices_of, facts, claims, health=view.health)
    if addresses is None:
        addresses = host_addresses().every()
    cidrs = view.service_cidrs.values()
    return explaining.explain(packet, programs.values(), view.services, facts, cidrs, claims, addresses)


def open_dataplane(name: str = "nftables", kernel: bool = True) -> Dataplane:
    """
    Open a data plane by name ("auto" takes the best this host has); close it after use.

    Args:
        kernel: False for its pure part only (`render`, `row_command`), which works on any machine; "auto" is then a guess that
            asks no kernel.

    Raises:
        CapabilityError: this host cannot run it. ConfigError: there is none of that name.
    """
    return assemble.open_dataplane(Config(proxy_mode=name), kernel)


def observe(dataplane: Dataplane) -> Observed:
    """
    Return what the kernel holds of kpx's.

    Raises:
        PermissionDenied: without CAP_NET_ADMIN.
    """
    return dataplane.observe()


def diff(actual: Rows, desired: Rows) -> Plan:
    """Return what to write so that `actual` becomes `desired`, in order; empty when they are equal. Pure."""
    return differing.diff(actual, desired)


def apply(dataplane: Dataplane, plan: Plan, facts: NodeFacts) -> Outcome:
    """
    Make the constant part of the data plane right, then carry a plan out, each family atomically.

    Rows the kernel refuses are in the outcome and stop nothing else. Stale UDP flows and affinity entries stay as they are;
    the agent and `kpx sync` see to those.

    Raises:
        PermissionDenied: without CAP_NET_ADMIN.
        KernelError: the kernel refused as a whole.
    """
    dataplane.prepare(facts)
    return dataplane.apply(plan)


def cleanup(dataplane: Dataplane) -> list[str]:
    """
    Remove everything kpx owns in this network namespace, and nothing else; idempotent.

    Returns:
        A sentence for each thing removed.

    Raises:
        AlreadyRunning: an agent serves this network namespace and would put it back.
        PermissionDenied: without CAP_NET_ADMIN.
    """
    if (pid := holder()) is not None:
        who = f"pid {pid}" if pid else "its pid is not visible from here"
        raise AlreadyRunning(f"an agent ({who}) serves this network namespace and would put everything back; stop it first")
    with AgentLock():
        return dataplane.cleanup()


def _admitted(view: ClusterView, facts: NodeFacts) -> dict[ObjectName, Service]:
    return {name: admitted(service, facts) for name, service in view.services.items()}


def _claims(services: Mapping[ObjectName, Service]) -> Claims:
    claims = Claims()
    for name, service in services.items():
        claims.update(name, service)
    return claims
