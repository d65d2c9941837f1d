"""
A node on paper: Services and slices, what policy makes of them, and the rows of each data plane, for packets to walk through.

Nothing of a kernel is here, so thousands of nodes can be tried.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from kpx import api
from kpx.cluster.events import Upsert
from kpx.cluster.view import ClusterView
from kpx.dataplanes import way
from kpx.dataplanes.base import Dataplane
from kpx.dataplanes.way import NOTHING_REMEMBERED, Memory, Way
from kpx.host.addresses import HostAddresses, LocalAddress
from kpx.host.node import NodeSettings, node_facts
from kpx.model.addresses import Address, Family, parse_address, parse_prefix
from kpx.model.decode import Object, decode_document
from kpx.model.facts import LocalDetector, NodeFacts
from kpx.model.names import ObjectName
from kpx.model.node import Node
from kpx.policy.story import Packet, Story

PLANES = ("nftables", "ipvs")


@functools.cache
def plane(name: str) -> Dataplane:
    """The pure half of a data plane."""
    return api.open_dataplane(name, kernel=False)


class PaperNode:
    """
    One node.

    Args:
        host: all addresses of it.
    """

    def __init__(self, objects: Iterable[Object], facts: NodeFacts, host: Collection[Address]) -> None:
        self.facts, self.host = facts, frozenset(host)
        self.view = ClusterView()
        for each in objects:
            self.view.fold(Upsert(each))
        self.programs = api.compile(self.view, facts)
        cidrs = self.view.service_cidrs.values()
        self.rows = {name: api.render(plane(name), self.programs, facts, cidrs) for name in PLANES}

    def story(self, packet: Packet) -> Story:
        """What policy says of a packet."""
        return api.explain(packet, self.view, self.facts, self.programs, self.host)

    def ways(self, name: str, packet: Packet, memory: Memory = NOTHING_REMEMBERED) -> tuple[Way, ...]:
        """Every way of a packet through the rows of a data plane."""
        hooks = plane(name).hooks(self.rows[name], self.facts, self.host)
        return way.walk(hooks, packet, self.host, self.facts.steer_bit, memory)


Cluster = dict[tuple[str, ObjectName], tuple[Object, ...]]


def decoded(documents: Iterable[Mapping[str, Any]]) -> Cluster:
    """What objects of a case are to kpx, by kind and name."""
    found = (one for each in documents for one in decode_document(json.loads(json.dumps(each)), "case").objects)
    return {(one.kind, one.name): one.values for one in found}


def paper_node(config: Mapping[str, Any], objects: Iterable[Object], vips: Iterable[Address] = ()) -> PaperNode:
    """The node of a case (tests/cases/README.md); `vips` are addresses of Services that it has on the side (node-as-vip)."""
    present = list(objects)
    host = HostAddresses(
        (
            LocalAddress("lo", parse_address("127.0.0.1"), 8, 254),
            LocalAddress("lo", parse_address("::1"), 128, 254),
            *(LocalAddress("uplink", parse_address(text), 128 if ":" in text else 32) for text in config["localAddresses"]),
        )
    )
    clusters = config["clusterCIDRs"] if config["detectLocalMode"] == "ClusterCIDR" else ()
    settings = NodeSettings(
        name=config["nodeName"],
        detector=LocalDetector(prefixes=tuple(map(parse_prefix, clusters))),
        node_port_ranges=tuple(map(parse_prefix, config["nodePortAddresses"] or ("0.0.0.0/0", "::/0"))),
        families=tuple(Family(int(text[-1])) for text in config["ipFamilies"]),
        masquerade_all=config["masqueradeAll"],
        own_external_ips=True,
        per_address=True,
    )
    mine = next((each for each in present if isinstance(each, Node) and each.name.name == config["nodeName"]), None)
    facts = node_facts(settings, mine, host)
    return PaperNode(present, facts, {*host.every(), *vips})
