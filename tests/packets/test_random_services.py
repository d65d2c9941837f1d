"""
Random Services, slices and nodes, with real packets: the kernel does what policy says, and a walk through rows comes to the same.

Properties without a kernel try many thousands (tests/properties/test_walk.py); here each world is laid out, and each of its
packets is sent as often as it takes to see every endpoint.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings

from kpx.dataplanes.way import outcomes
from kpx.model.addresses import Family, family_of, format_address
from kpx.model.endpointslice import EndpointSlice
from kpx.model.names import Protocol
from kpx.model.service import Service
from kpx.policy.story import Packet
from tests.lab import dataplane, features
from tests.lab.flows import Expected, Row
from tests.lab.walker import PaperNode, decoded, paper_node
from tests.lab.world import NodeConfig, World
from tests.properties.questions import LOOPBACK, NODE_OF, PODS, PODS_SIX, Question, questions

WORLDS = 16
PACKETS = 24
"""Of each world; of all of them some 200 can be sent, each several times."""
NODE = "n1"


@pytest.mark.dataplane
@settings(max_examples=WORLDS, phases=(Phase.generate,), deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(questions(asked=PACKETS))
def test_the_kernel_does_what_policy_and_a_walk_say(question: Question) -> None:
    """Each packet comes to one of the endpoints it may come to, all of them are seen, or it is refused, dropped, left alone."""
    config, objects = config_of(question), list(manifests(question))
    node = paper_node(config, [value for values in decoded(objects).values() for value in values])
    packets = [packet for packet in question.packets if can_be_sent(packet)]
    rows = [row for packet in packets if (row := row_of(node, packet)) is not None]
    assume(any(row.expected.verdict != "pass" for row in rows))
    for packet in packets:
        assert outcomes(node.ways(dataplane.CHOSEN, packet)) == node.story(packet).outcomes, str(packet)
    with tempfile.TemporaryDirectory() as directory, World(NodeConfig.from_case(config), objects, rows, Path(directory)) as world:
        world.agent.write(objects, mark=False)
        world.agent.start()
        for row in rows:
            world.check(row)


def can_be_sent(packet: Packet) -> bool:
    """Whether the lab can send it: pods are no destination, loopback is nobody's source, IPv6 is there, and there is no SCTP."""
    if packet.destination in (*PODS, *PODS_SIX, *LOOPBACK) or packet.source in LOOPBACK or packet.protocol is Protocol.SCTP:
        return False
    return family_of(packet.destination) is Family.IPV4 or not features.lacks("IPv6", "random Services")


def row_of(node: PaperNode, packet: Packet) -> Row | None:
    """
    The packet as a row of a flow table.

    None for a pod of another node that may be sent to itself with its own address, and gets no answer (M16 is for those of this).
    """
    assert packet.source is not None
    story = node.story(packet)
    expected = story.outcomes
    kind = "node" if packet.source in node.host else "pod" if NODE_OF.get(packet.source) == NODE else "external"
    frontends = (one for program in node.programs.values() for _, one in program.frontends())
    sticky = any(one.frontend == story.frontend and one.affinity_timeout_s is not None for one in frontends)
    if any(one.backend is not None and one.backend.address == packet.source and not one.masquerade for one in expected):
        return None
    verdict = {"forward": "dnat", "local": "pass"}.get(min(expected).verdict, min(expected).verdict)
    # What this node sends has an address of the node as source either way.
    seen = {} if kind == "node" else {str(one.backend): one.masquerade for one in expected if one.backend}
    endpoints = tuple(sorted(str(one.backend) for one in expected if one.backend))
    name, to, port = packet.protocol.name, format_address(packet.destination), packet.port
    return Row(
        str(packet), kind, format_address(packet.source), to, name, port, Expected(verdict, endpoints, seen), sticky=sticky
    )


def config_of(question: Question) -> dict[str, Any]:
    """The node as cases say it; pods are told by their addresses, or not at all."""
    facts = question.facts
    clusters = [str(prefix) for prefix in facts.local_detector.prefixes]
    answering = [a for a in sorted(facts.node_port_addresses) if family_of(a) not in facts.node_port_any]
    everywhere = ["0.0.0.0/0" if family is Family.IPV4 else "::/0" for family in sorted(facts.node_port_any)]
    return {
        "nodeName": NODE,
        "localAddresses": [format_address(a) for a in sorted(question.host) if a not in LOOPBACK],
        "ipFamilies": ["IPv4", "IPv6"],
        "detectLocalMode": "ClusterCIDR" if clusters else "none",
        "clusterCIDRs": clusters,
        "nodePortAddresses": [*map(format_address, answering), *everywhere],
        "masqueradeAll": facts.masquerade_all,
    }


def manifests(question: Question) -> Iterable[dict[str, Any]]:
    """What the cluster holds, as an API server would say it; of objects with one name the last one."""
    labels = {"topology.kubernetes.io/zone": question.facts.zone} if question.facts.zone else {}
    addresses = [{"type": "InternalIP", "address": format_address(a)} for a in question.facts.node_ips]
    metadata = {"name": NODE, "labels": labels}
    yield {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}, "status": {"addresses": addresses}}
    found: dict[tuple[str, object], dict[str, Any]] = {}
    for each in question.objects:
        if isinstance(each, Service):
            found["Service", each.name] = service_manifest(each)
        elif isinstance(each, EndpointSlice):
            found["EndpointSlice", (each.service.namespace, each.name.name)] = slice_manifest(each)
        else:
            cidrs = [str(prefix) for prefix in each.prefixes]
            found["ServiceCIDR", each.name] = {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "ServiceCIDR",
                "metadata": {"name": each.name.name},
                "spec": {"cidrs": cidrs},
            }
    yield from found.values()


def service_manifest(service: Service) -> dict[str, Any]:
    ips = [format_address(address) for address in service.cluster_ips]
    ports = [
        {"name": p.name, "protocol": p.protocol.name, "port": p.port} | ({"nodePort": p.node_port} if p.node_port else {})
        for p in service.ports
    ]
    spec: dict[str, Any] = {
        "type": "LoadBalancer",
        "clusterIP": ips[0],
        "clusterIPs": ips,
        "ipFamilies": [str(family_of(address)) for address in service.cluster_ips],
        "ports": ports,
        "externalIPs": [format_address(address) for address in service.external_ips],
        "loadBalancerSourceRanges": [str(prefix) for prefix in service.source_ranges],
        "externalTrafficPolicy": "Local" if service.external_policy_local else "Cluster",
        "internalTrafficPolicy": "Local" if service.internal_policy_local else "Cluster",
    }
    if service.affinity_timeout_s is not None:
        config = {"clientIP": {"timeoutSeconds": service.affinity_timeout_s}}
        spec |= {"sessionAffinity": "ClientIP", "sessionAffinityConfig": config}
    ingress = [{"ip": format_address(address)} for address in service.load_balancer_ips]
    metadata: dict[str, Any] = {"namespace": service.name.namespace, "name": service.name.name}
    if service.created:
        metadata["creationTimestamp"] = service.created
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    }


def slice_manifest(each: EndpointSlice) -> dict[str, Any]:
    endpoints = [
        {
            "addresses": [format_address(one.address)],
            "conditions": {"ready": one.ready, "serving": one.serving, "terminating": one.terminating},
            "hints": {
                "forZones": [{"name": zone} for zone in one.zone_hints],
                "forNodes": [{"name": node} for node in one.node_hints],
            },
        }
        | ({"nodeName": one.node_name} if one.node_name else {})
        for one in each.endpoints
    ]
    labels = {"kubernetes.io/service-name": each.service.name}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": each.service.namespace, "name": each.name.name, "labels": labels},
        "addressType": str(each.family),
        "ports": [{"name": port.name, "protocol": port.protocol.name, "port": port.port} for port in each.ports],
        "endpoints": endpoints,
    }
