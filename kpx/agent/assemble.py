"""
From a `Config` to the parts it names: which source, which data plane, what node.

The only place that knows concrete classes; everything it opens speaks through the seams in `sources.base`,
`dataplanes.base` and `host.addresses`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import msgspec

from kpx.agent.mode import AUTO, decide, in_place, supposed
from kpx.dataplanes.base import Dataplane
from kpx.dataplanes.registry import FACTORIES, may_be_present
from kpx.dataplanes.registry import open_dataplane as open_by_name
from kpx.errors import CapabilityError, ConfigError
from kpx.host.addresses import AddressWatch, HostAddresses, read_addresses
from kpx.host.node import NodeSettings, node_name, supported_families
from kpx.host.node import node_facts as assemble_facts
from kpx.kernel.netlink_addresses import interface_addresses
from kpx.kernel.notifications import address_notifications
from kpx.model.addresses import Address, parse_address, parse_prefix
from kpx.model.facts import LocalDetector, NodeFacts
from kpx.model.node import Node
from kpx.settings.config import Config
from kpx.settings.external_ips import external_ips
from kpx.sources.base import Source
from kpx.sources.kubernetes.access import in_cluster
from kpx.sources.kubernetes.client import Client
from kpx.sources.kubernetes.source import KubernetesSource
from kpx.sources.manifests import ManifestSource
from kpx.sources.proxy_name import NamedSource

NO_SOURCE: Final = (
    "nothing says where Services come from: use --manifests DIRECTORY or --kubeconfig FILE, or set KPX_MANIFESTS, KPX_KUBECONFIG"
)

__all__ = [
    "NO_SOURCE",
    "as_in_place",
    "client_of",
    "dataplane_name",
    "dataplanes_to_clean",
    "has_source",
    "host_addresses",
    "node_facts",
    "node_name",
    "node_settings",
    "open_dataplane",
    "open_source",
]


class KernelAddresses:
    """The kernel's list of addresses, as `kpx.host` wants it."""

    def addresses(self) -> Iterator[tuple[str, Address, int, int]]:
        """Yield every address of this network namespace."""
        for entry in interface_addresses():
            yield entry.interface, Address(entry.address), entry.prefix_length, entry.scope

    def subscribe_addresses(self) -> AddressWatch:
        """Return word of every address that comes or goes from now on."""
        return address_notifications()


def has_source(config: Config) -> bool:
    """Tell whether the settings, or the pod this runs in, say where Services come from."""
    return bool(config.manifests or config.kubeconfig or config.master) or in_cluster()


def open_source(config: Config, once: bool = False) -> Source:
    """
    Open the source the settings name: a directory of manifests, else the API server, in a pod that of the cluster.

    Args:
        once: for who reads everything once and then closes it: what will not mend itself is a SourceError then.

    Raises:
        ConfigError: they name none. SourceError: it cannot be read.
    """
    source: Source
    if config.manifests:
        source = ManifestSource(config.manifests)
    elif has_source(config):
        name = node_name(config.hostname_override)
        source = KubernetesSource(name, config.kubeconfig, config.master, config.service_proxy_name, impatient=once)
    else:
        raise ConfigError(NO_SOURCE)
    return NamedSource(source, config.service_proxy_name) if config.service_proxy_name else source


def client_of(source: Source) -> Client | None:
    """Return what requests are sent with to the API server a source reads; None for other sources."""
    inner = source.inner if isinstance(source, NamedSource) else source
    return inner.client if isinstance(inner, KubernetesSource) else None


def dataplane_name(config: Config, kernel: bool = True) -> str:
    """
    Return the data plane the settings mean; see `kpx.agent.mode`.

    Args:
        kernel: ask the kernel when it matters, the first time in this process. Otherwise what was found then, or a guess that
            needs no privilege.

    Raises:
        CapabilityError: with `kernel`, ipvs was asked for by name and this host lacks something for it.
    """
    return (decide if kernel else supposed)(config.proxy_mode).name


def as_in_place(config: Config) -> Config:
    """Return the settings with --proxy-mode auto replaced by the data plane that is in the kernel, for verbs that read it."""
    return msgspec.structs.replace(config, proxy_mode=in_place(config.proxy_mode).name)


def open_dataplane(config: Config, kernel: bool = True) -> Dataplane:
    """
    Open the data plane the settings name; without `kernel` only its pure verbs may be used.

    Raises:
        CapabilityError: see `dataplane_name`.
    """
    return open_by_name(dataplane_name(config, kernel), kernel)


def dataplanes_to_clean(config: Config) -> Iterator[Dataplane]:
    """
    Open the data planes that may have something to clean up: the one that is named, with auto every one this host can have.

    What a host lacks since it ran a data plane is no obstacle to removing what is left.

    Raises:
        CapabilityError: the one that is named cannot be opened.
    """
    if config.proxy_mode != AUTO:
        yield open_by_name(config.proxy_mode)
        return
    for name in filter(may_be_present, sorted(FACTORIES)):
        with contextlib.suppress(CapabilityError):
            yield open_by_name(name)


def host_addresses() -> HostAddresses:
    """Return the addresses of this network namespace now."""
    return read_addresses(KernelAddresses())


def node_settings(config: Config) -> NodeSettings:
    """Return what the settings say about this node, and what families it supports now."""
    address = parse_address(config.bind_address)
    ranges, allowed = config.nodeport_addresses, external_ips(config.external_ip_ranges)
    return NodeSettings(
        name=node_name(config.hostname_override),
        bind_address=address if any(address) else None,
        detector=LocalDetector(
            mode=config.detect_local,
            prefixes=tuple(parse_prefix(text) for text in config.cluster_cidr),
            interface=config.pod_bridge_interface or config.pod_interface_name_prefix,
        ),
        node_port_ranges=None if ranges == ("primary",) else tuple(parse_prefix(text) for text in ranges),
        families=supported_families(),
        masquerade_all=config.masquerade_all,
        external_ip_ranges=allowed.ranges,
        own_external_ips=allowed.own,
        api_server_external_ips=allowed.api_server,
        answer_ping=config.answer_ping,
        # A connection tracking that takes segments outside of the window for valid has no use for it.
        drop_invalid=config.drop_invalid and not config.conntrack_tcp_be_liberal,
        per_address=dataplane_name(config, kernel=False) == "ipvs",
        scheduler=config.ipvs_scheduler,
        mark_bits=config.mark_bits,
        drain_timeout_s=config.drain_timeout_s,
        drain_grace_s=config.drain_grace_s,
    )


def node_facts(
    config: Config, node: Node | None, host: HostAddresses, api_servers: frozenset[Address] = frozenset()
) -> NodeFacts:
    """
    Return the facts about this node from settings, its Node object if there is one, and the host's addresses.

    Args:
        api_servers: every address of the API server that is known.

    Raises:
        CapabilityError: see `kpx.host.node.node_facts`.
    """
    return assemble_facts(node_settings(config), node, host, api_servers)
