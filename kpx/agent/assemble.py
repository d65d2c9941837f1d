"""
From a `Config` to the parts it names: which source, which data plane, what node.

The only place that knows concrete classes; everything it opens speaks through the seams in `sources.base`,
`dataplanes.base` and `host.addresses`.
"""

from __future__ import annotations

from collections.abc import Iterator

from kpx.agent.config import Config
from kpx.dataplanes.base import Dataplane
from kpx.dataplanes.registry import open_dataplane as open_by_name
from kpx.errors import ConfigError
from kpx.host.addresses import AddressWatch, HostAddresses, read_addresses
from kpx.host.node import NodeSettings, node_name, supported_families
from kpx.host.node import node_facts as assemble_facts
from kpx.kernel.netlink import address_notifications, interface_addresses
from kpx.model.addresses import Address, parse_address, parse_prefix
from kpx.model.facts import LocalDetector, NodeFacts
from kpx.model.node import Node
from kpx.sources.base import Source
from kpx.sources.manifests import ManifestSource

__all__ = [
    "dataplane_name",
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


def open_source(config: Config) -> Source:
    """
    Open the source the settings name.

    Raises:
        ConfigError: they name none. SourceError: it cannot be read.
    """
    if not config.manifests:
        raise ConfigError("--manifests: a directory with Services and EndpointSlices is needed")
    return ManifestSource(config.manifests)


def dataplane_name(config: Config) -> str:
    """Return the data plane the settings mean."""
    return "nftables" if config.proxy_mode == "auto" else config.proxy_mode


def open_dataplane(config: Config, kernel: bool = True) -> Dataplane:
    """Open the data plane the settings name; without `kernel` only its pure verbs may be used."""
    return open_by_name(dataplane_name(config), kernel)


def host_addresses() -> HostAddresses:
    """Return the addresses of this network namespace now."""
    return read_addresses(KernelAddresses())


def node_settings(config: Config) -> NodeSettings:
    """Return what the settings say about this node, and what families it supports now."""
    address = parse_address(config.bind_address)
    ranges = config.nodeport_addresses
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
    )


def node_facts(config: Config, node: Node | None, host: HostAddresses) -> NodeFacts:
    """
    Return the facts about this node from settings, its Node object if there is one, and the host's addresses.

    Raises:
        CapabilityError: see `kpx.host.node.node_facts`.
    """
    return assemble_facts(node_settings(config), node, host)
