"""
NodeFacts: everything policy and data planes may know about this node, as one comparable value.

Assembled in `kpx.host.node` from settings, the Node object and the host's interfaces; when any of it changes a new
value replaces the old one and everything is compiled again.
"""

from __future__ import annotations

import enum

import msgspec

from kpx.model.addresses import Address, Family, Prefix


class DetectLocal(enum.Enum):
    """How traffic from this node's pods is recognised (6.3); the value is kube-proxy's spelling, lower case."""

    CLUSTER_CIDR = "clustercidr"
    NODE_CIDR = "nodecidr"
    BRIDGE_INTERFACE = "bridgeinterface"
    INTERFACE_NAME_PREFIX = "interfacenameprefix"


class LocalDetector(msgspec.Struct, frozen=True):
    """
    The detector of pod traffic.

    Args:
        mode: see `DetectLocal`.
        prefixes: for the CIDR modes, at most one range a family counts (the first); a family without one has no
            detector (6.2).
        interface: for the interface modes, a name or a name prefix.
    """

    mode: DetectLocal = DetectLocal.CLUSTER_CIDR
    prefixes: tuple[Prefix, ...] = ()
    interface: str = ""

    def prefix(self, family: Family) -> Prefix | None:
        """Return the range of pod addresses of a family, None when the mode has none for it."""
        if self.by_interface:
            return None
        return next((p for p in self.prefixes if len(p.address) == (4 if family == Family.IPV4 else 16)), None)

    @property
    def by_interface(self) -> bool:
        """Tell whether the mode looks at the interface a packet came in by."""
        return self.mode in (DetectLocal.BRIDGE_INTERFACE, DetectLocal.INTERFACE_NAME_PREFIX)

    def is_of_pods(self, interface: str) -> bool:
        """Tell whether, in a mode that looks at interfaces, packets that come in by this one are of pods."""
        if self.mode is DetectLocal.INTERFACE_NAME_PREFIX:
            return interface.startswith(self.interface)
        return interface == self.interface

    def works_for(self, family: Family) -> bool:
        """Tell whether pod traffic of the family can be told from other traffic."""
        return self.by_interface or self.prefix(family) is not None


class NodeFacts(msgspec.Struct, frozen=True):
    """
    This node.

    Args:
        name: node name, lower case (16.4).
        zone: None when the Node has no zone label (T4).
        families: families to program, primary first.
        node_ips: primary address of each family, at most one a family (16.3).
        node_port_addresses: addresses that answer on node ports in the families not in `node_port_any`; ranges are
            already expanded to the addresses this host has (N2, N5). Where a data plane needs a row an address, it lists
            the addresses of the families in `node_port_any`, too, and changes with them (D10).
        node_port_any: families in which every local address but loopback answers (N1, N4).
        local_detector: see `LocalDetector`.
        masquerade_all: masquerade all ClusterIP traffic (6.4).
        external_ip_ranges: external IPs outside of them are not answered; None leaves no range out, () every address (V2).
        own_addresses, api_server_addresses: of this node and of the API server, as far as no external IP may be one of them;
            empty where the operator lets Services have them (decision 0021).
        answer_ping: pings to addresses of Services are answered by this host (R5).
        drop_invalid: packets of flows of Services that connection tracking finds invalid are dropped (section 17).
        scheduler: the IPVS scheduler of Services that name none.
        missing_schedulers: those this kernel was asked for and does not have.
        mark_bits: the two bits of packet marks that are ours, 1..0xffffffff; no other bit is ever changed.
        drain_timeout_s: how long an endpoint may drain at most, seconds. drain_grace_s: how long its connections live on after it
            left all slices (G6).
    """

    name: str
    zone: str | None = None
    families: tuple[Family, ...] = (Family.IPV4, Family.IPV6)
    node_ips: tuple[Address, ...] = ()
    node_port_addresses: frozenset[Address] = frozenset()
    node_port_any: frozenset[Family] = frozenset()
    local_detector: LocalDetector = LocalDetector()
    masquerade_all: bool = False
    external_ip_ranges: tuple[Prefix, ...] | None = None
    own_addresses: frozenset[Address] = frozenset()
    api_server_addresses: frozenset[Address] = frozenset()
    answer_ping: bool = False
    drop_invalid: bool = False
    scheduler: str = "rr"
    missing_schedulers: frozenset[str] = frozenset()
    mark_bits: int = 0x3000
    drain_timeout_s: float = 3600.0
    drain_grace_s: float = 60.0

    @property
    def steer_bit(self) -> int:
        """The lower of our mark bits: it makes a packet local, for a virtual server to take it."""
        return self.mark_bits & -self.mark_bits
