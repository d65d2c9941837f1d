"""The state cases (tests/cases/state_cases.yaml): from manifests through decode, view and policy, without packets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from state_cases import CASES, INSIDES, Case, of_kind

from kpx.agent.localities import Localities
from kpx.cluster.events import Delete, Upsert
from kpx.cluster.view import ClusterView
from kpx.model.addresses import Family, format_address
from kpx.model.decode import decode_document
from kpx.model.facts import NodeFacts
from kpx.model.names import ObjectName, Protocol
from kpx.model.node import Node
from kpx.model.service import Service
from kpx.policy.claims import Claims
from kpx.policy.compile import compile_service
from kpx.policy.desired import FrontendKind, PortProgram, ServiceProgram
from kpx.policy.eligibility import choose, join
from kpx.policy.locality import locality

FAMILIES = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}


def test_every_kind_is_run_or_is_the_insides_of_one_program() -> None:
    """No case may lie here unread, and no reason outlive its kind."""
    run = {
        kind for path in Path(__file__).parent.glob("test_*.py") for kind in re.findall(r'@of_kind\("(\w+)"\)', path.read_text())
    }

    assert run | INSIDES.keys() == {case["kind"] for case in CASES}
    assert not run & INSIDES.keys()


def events(manifest: Case, *, gone: bool = False) -> Iterator[Upsert | Delete]:
    for decoded in decode_document(manifest, "").objects:
        for value in decoded.values:
            yield Delete(type(value), value.name) if gone else Upsert(value)


def named(text: str) -> ObjectName:
    return ObjectName(*text.split("/"))


def view_of(*manifests: Case) -> ClusterView:
    view = ClusterView()
    for manifest in manifests:
        for event in events(manifest):
            view.fold(event)
    return view


def program_of(service: Service, view: ClusterView, facts: NodeFacts) -> ServiceProgram:
    claims = Claims()
    claims.update(service.name, service)
    return compile_service(service, view.slices_of(service.name), facts, claims)


@of_kind("endpoint_selection")
def test_endpoint_selection(case: Case) -> None:
    """The sets themselves, and the pools that frontends of the Service really use."""
    view = view_of(*case["objects"])
    node: Node | None = view.nodes.get(case["node"]["name"])
    facts = NodeFacts(case["node"]["name"], zone=node.zone if node else None, node_port_any=frozenset(Family))
    wanted = case["service_port"]
    expected = case["expect"]
    service = view.services[ObjectName(wanted["namespace"], wanted["name"])]
    listed = join(view.slices_of(service.name), wanted["port"], Protocol[wanted["proto"]])
    eligible = choose(listed, facts, uses_cluster=expected["cluster"] is not None, uses_local=expected["local"] is not None)

    assert eligible.any == expected["has_any"]
    if expected["cluster"] is not None:
        assert [str(backend) for backend in eligible.cluster.backends] == expected["cluster"]
    assert [str(backend) for backend in eligible.local.backends] == (expected["local"] or [])
    assert sorted(used_backends(program_of(service, view, facts))) == sorted(expected["reachable"])


def used_backends(program: ServiceProgram) -> set[str]:
    return {
        str(backend)
        for _, frontend in program.frontends()
        for verdict in frontend.verdicts()
        if verdict.pool is not None
        for backend in verdict.pool.backends
    }


def endpoints_map(view: ClusterView, services: list[ObjectName], node: str) -> dict[str, list[Case]]:
    result: dict[str, list[Case]] = {}
    for service in services:
        slices = [one for one in view.slices_of(service) if not one.skipped]
        for port in sorted({(port.name, port.protocol) for one in slices for port in one.ports}):
            entries = [
                {
                    "endpoint": str(backend),
                    "local": endpoint.node_name == node,
                    "ready": endpoint.ready,
                    "serving": endpoint.serving,
                    "terminating": endpoint.terminating,
                }
                for backend, (endpoint, _) in sorted(join(slices, *port).items())
            ]
            if entries:
                result[f"{service}:{port[0]}/{port[1]}"] = entries
    return result


@of_kind("endpoints_map")
def test_endpoints_map(case: Case) -> None:
    """Slices come, change and go; the endpoints are always what the present slices say (E6)."""
    view, node, expected = ClusterView(), case["node"]["name"], case["expect"]
    everything = {named(labels_service(event)) for event in case["events"] if "sync" not in event}
    services = sorted([named(case["service"])] if case["service"] else everything)
    for event in case["events"]:
        if "sync" in event:
            if "endpoints_at_sync" in expected:
                assert endpoints_map(view, services, node) == sort(expected["endpoints_at_sync"])
            view.take_dirty()
            continue
        gone = "delete" in event
        for heard in events(event["delete" if gone else "add"], gone=gone):
            view.fold(heard)
    dirty = view.take_dirty()

    if "endpoints" in expected:
        assert endpoints_map(view, services, node) == sort(expected["endpoints"])
    if "changed" in expected:
        assert bool(dirty) == expected["changed"]
    if "changed_services" in expected:
        assert sorted(map(str, dirty.services)) == sorted(expected["changed_services"])
    if "local_ready_endpoints" in expected:
        assert ready_here(view, services, node) == expected["local_ready_endpoints"]


def ready_here(view: ClusterView, services: list[ObjectName], node: str) -> dict[str, int]:
    """What health-check node ports would count, each Service having every port that a slice of it has."""
    result = {}
    for name in services:
        ports = sorted({(p.name, p.protocol.name, p.port) for one in view.slices_of(name) for p in one.ports})
        manifest = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": name.namespace, "name": name.name},
            "spec": {
                "type": "LoadBalancer",
                "clusterIP": "172.30.1.1",
                "externalTrafficPolicy": "Local",
                "healthCheckNodePort": 30400,
                "ports": [{"name": n, "protocol": p, "port": number, "nodePort": 0} for n, p, number in ports],
            },
        }
        (service,) = view_of(manifest).services.values()
        here = locality(program_of(service, view, NodeFacts(node)))
        if count := sum(one.ready for one in here.values()):
            result[str(name)] = count
    return result


@of_kind("local_ready_endpoints")
def test_local_ready_endpoints(case: Case) -> None:
    """H2: addresses that are here and ready, once each."""
    view = view_of(*case["objects"])
    services = sorted({named(labels_service({"add": each})) for each in case["objects"]})

    assert ready_here(view, services, case["node"]["name"]) == case["expect"]["counts"]


@of_kind("slice_changed")
def test_slice_changed(case: Case) -> None:
    """S7, E7: what is heard again and says nothing new is nothing to do; another order is free to be a change or none."""
    view = view_of(case["before"])
    view.take_dirty()
    for event in events(case["after"]):
        view.fold(event)

    assert not view.take_dirty() or case["expect"]["changed"]


@of_kind("metrics")
def test_metrics(case: Case) -> None:
    """Section 18: Services with a Local policy that have endpoints, and none here."""
    view, localities = view_of(*case["objects"]), Localities()
    for name, service in view.services.items():
        localities.note(name, program_of(service, view, NodeFacts(case["node"]["name"])))
    (wanted,) = case["expect"].values()

    assert {policy: localities.lacking[policy, Family.IPV4] for policy in wanted} == wanted


def labels_service(event: Case) -> str:
    metadata = event["add" if "add" in event else "delete"]["metadata"]
    return f"{metadata['namespace']}/{metadata['labels']['kubernetes.io/service-name']}"


def sort(endpoints: dict[str, list[Case]]) -> dict[str, list[Case]]:
    def order(entry: Case) -> tuple[list[int], int]:
        address, _, port = entry["endpoint"].rpartition(":")
        return [int(number) for number in address.split(".")], int(port)

    return {name: sorted(entries, key=order) for name, entries in endpoints.items()}


@of_kind("service_map")
def test_service_map(case: Case) -> None:
    """What a service port answers on in one family, read from its compiled frontends."""
    family = FAMILIES[case["family"]]
    view = ClusterView()
    for event in case["events"]:
        for heard in events(event["add"]):
            view.fold(heard)
    facts = NodeFacts("n1", families=(family,), node_port_any=frozenset({family}))
    found = {}
    for service in view.services.values():
        for port in program_of(service, view, facts).ports:
            found[f"{service.name}:{port.name.port}/{port.name.protocol}"] = port_summary(service, port)

    assert found == {name: expected_summary(one) for name, one in case["expect"]["service_ports"].items()}


def port_summary(service: Service, port: PortProgram) -> Case:
    by_kind = {kind: [one for one in port.frontends if one.kind is kind] for kind in FrontendKind}
    restricted = {str(prefix) for one in port.frontends for prefix in one.source_ranges}
    return {
        "cluster_ip": [format_address(one.frontend.address) for one in by_kind[FrontendKind.CLUSTER_IP]],
        "external": sorted(
            format_address(one.frontend.address)
            for kind in (FrontendKind.EXTERNAL_IP, FrontendKind.LOAD_BALANCER_IP)
            for one in by_kind[kind]
        ),
        "ports": {(one.frontend.protocol.name, one.frontend.port) for one in port.frontends if one.frontend.address},
        "node_ports": [one.frontend.port for one in by_kind[FrontendKind.NODE_PORT]],
        "source_ranges": sorted(restricted),
        "health_check_node_port": service.health_check_node_port,
    }


def expected_summary(expected: Case) -> Case:
    return {
        "cluster_ip": [expected["cluster_ip"]],
        # An address that is external IP and load-balancer IP at once is one frontend.
        "external": sorted({*expected["external_ips"], *expected["load_balancer_vips"]}),
        "ports": {(expected["proto"], expected["port"])},
        "node_ports": [expected["node_port"]] if expected["node_port"] else [],
        "source_ranges": sorted(expected["source_ranges"]),
        "health_check_node_port": expected["health_check_node_port"],
    }


@of_kind("cluster_ip_by_family")
def test_cluster_ip_by_family(case: Case) -> None:
    """V1: also as frontends of a node that programs both families."""
    manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "one"},
        "spec": {**case["spec"], "ports": [{"port": 80}]},
    }
    (service,) = view_of(manifest).services.values()
    program = program_of(service, ClusterView(), NodeFacts("n1"))

    assert {str(port.family) for port in program.ports} == {family for family, address in case["expect"].items() if address}
    assert {format_address(one.frontend.address) for _, one in program.frontends()} == {*case["expect"].values()} - {""}


@of_kind("service_ignored")
def test_service_ignored(case: Case) -> None:
    """S4."""
    (service,) = view_of(case["service"]).services.values()

    assert bool(service.skipped) == case["expect"]["ignored"]
    assert (program_of(service, ClusterView(), NodeFacts("n1")).ports == ()) == case["expect"]["ignored"]
