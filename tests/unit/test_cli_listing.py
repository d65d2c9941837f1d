"""What the kernel holds as JSON and as tables."""

from __future__ import annotations

import msgspec

from kpx.cli.failing import FailingEndpoint, failing_here, failing_somewhere
from kpx.cli.listing import Filter, show_affinity, show_endpoints, show_frontends, show_services
from kpx.dataplanes.base import AffinityEntry, Draining, KernelFrontend, KernelVerdict
from kpx.model.addresses import Address, Family, parse_address
from kpx.model.health_check import EndpointHealth, Failing
from kpx.model.names import ObjectName, PortName, Protocol
from kpx.model.service import Service, ServicePort
from kpx.policy.desired import (
    Action,
    Backend,
    Fate,
    Frontend,
    FrontendKind,
    FrontendProgram,
    PortProgram,
    Reason,
    ServiceProgram,
    Verdict,
)

WEB = ObjectName("shop", "web")
PORT = PortName(WEB, "http", Protocol.TCP)
CLUSTER = Frontend(Family.IPV4, parse_address("10.96.0.10"), Protocol.TCP, 80)
NODE_PORT = Frontend(Family.IPV4, Address(b""), Protocol.TCP, 30080)
FOREIGN = Frontend(Family.IPV6, parse_address("fd00::1"), Protocol.UDP, 53)
A, B = Backend(parse_address("10.1.0.7"), 8080), Backend(parse_address("10.1.0.8"), 8080)
OWNERS = {CLUSTER: PORT, NODE_PORT: PORT}
KEPT, SEEN = KernelVerdict("forward", (A, B)), KernelVerdict("forward", (A, B), masquerade=True)
REFUSED = KernelVerdict("reject")
HELD = [
    KernelFrontend(NODE_PORT, FrontendKind.NODE_PORT, SEEN, SEEN, SEEN, 60),
    KernelFrontend(CLUSTER, FrontendKind.CLUSTER_IP, KEPT, SEEN, SEEN, 60),
    KernelFrontend(FOREIGN, None, REFUSED, REFUSED, REFUSED),
]
REJECT = Verdict(Action.REJECT, None, False)
SERVICE = Service(WEB, type="NodePort", cluster_ips=(CLUSTER.address,), ports=(ServicePort("http", Protocol.TCP, 80, 30080),))
PROGRAM = ServiceProgram(
    WEB,
    (
        PortProgram(
            PORT,
            Family.IPV4,
            tuple(FrontendProgram(f, FrontendKind.CLUSTER_IP, REJECT, REJECT, REJECT) for f in (NODE_PORT, CLUSTER)),
            (),
            (),
            (),
            (),
        ),
    ),
)


def test_frontends_carry_the_names_the_manifests_give() -> None:
    shown = show_frontends(HELD, OWNERS, Filter())

    assert [(item["frontend"], item["service"], item["portName"]) for item in shown.data] == [
        ("nodePort:30080/TCP (IPv4)", "shop/web", "http"),
        ("10.96.0.10:80/TCP", "shop/web", "http"),
        ("[fd00::1]:53/UDP", None, None),
    ]
    assert shown.data[0]["address"] is None
    assert shown.data[2] == {
        "frontend": "[fd00::1]:53/UDP", "family": "IPv6", "address": "fd00::1", "protocol": "UDP", "port": 53, "kind": None,
        "action": "reject", "endpoints": [], "masquerade": "", "affinityTimeoutSeconds": None, "sourceRanges": [],
        "bySource": {each: {"action": "reject", "endpoints": [], "masquerade": False} for each in ("pod", "host", "outside")},
        "service": None, "portName": None,
    }  # fmt: skip


def test_wide_table_has_more_columns() -> None:
    shown = show_frontends(HELD, OWNERS, Filter())

    narrow, wide = shown.text(wide=False).splitlines(), shown.text(wide=True).splitlines()
    assert narrow[0].split() == ["FRONTEND", "KIND", "ACTION", "ENDPOINTS", "SERVICE"]
    assert "10.1.0.7:8080,10.1.0.8:8080" in wide[1]
    assert "10.1.0.7" not in narrow[1]
    assert len({line.index(word) for line, word in zip(narrow, ("ACTION", "forward", "forward", "reject"), strict=True)}) == 1


def test_names_narrow_the_answer() -> None:
    def left(**given: object) -> list[str]:
        return [item["frontend"] for item in show_frontends(HELD, OWNERS, Filter(**given)).data]  # type: ignore[arg-type]

    both = ["nodePort:30080/TCP (IPv4)", "10.96.0.10:80/TCP"]
    assert left(names=("shop/web",)) == left(names=("web",)) == left(namespace="shop") == both
    assert left(names=("fd00::1",)) == left(names=("/UDP",)) == ["[fd00::1]:53/UDP"]
    assert left(names=("30080", ":53")) == ["nodePort:30080/TCP (IPv4)", "[fd00::1]:53/UDP"]
    assert left(names=("we",)) == left(namespace="other") == []


def test_endpoints_are_listed_by_slot() -> None:
    data = show_endpoints(HELD, [], OWNERS, Filter(("10.96.0.10",))).data

    assert [(item["endpoint"], item["slot"]) for item in data] == [("10.1.0.7:8080", 0), ("10.1.0.8:8080", 1)]


def failing(backend: Backend, frontend: Frontend | None = CLUSTER, used: bool = False) -> FailingEndpoint:
    return FailingEndpoint(backend, frontend, WEB, PORT if frontend else None, "connection refused, 2 in a row", used)


def test_endpoints_that_fail_their_check_are_listed_with_what_is_wrong() -> None:
    """One that is used for want of better ones keeps its slot; one whose frontend nobody knows is listed once."""
    away = Backend(parse_address("10.1.0.9"), 8080)
    told = [failing(A, used=True), failing(away), failing(away, frontend=None)]

    shown = show_endpoints(HELD[1:2], [], OWNERS, Filter(), told)

    assert [(item["endpoint"], item["state"], item["why"], item["slot"], item["frontend"]) for item in shown.data] == [
        ("10.1.0.7:8080", "serving", "connection refused, 2 in a row", 0, "10.96.0.10:80/TCP"),
        ("10.1.0.8:8080", "serving", None, 1, "10.96.0.10:80/TCP"),
        ("10.1.0.9:8080", "failing", "connection refused, 2 in a row", None, "10.96.0.10:80/TCP"),
        ("10.1.0.9:8080", "failing", "connection refused, 2 in a row", None, None),
    ]
    text = shown.text(wide=False)
    assert "serving, but failing: connection refused, 2 in a row" in text
    assert "failing: connection refused, 2 in a row" in text
    assert not show_endpoints([], [], OWNERS, Filter(("other",)), told).data


def test_endpoints_that_fail_are_found_in_programs_and_without_manifests() -> None:
    why = "connection refused, 2 in a row"
    fates = (
        Fate(False, Reason.FAILED, False, "s", why),
        Fate(True, Reason.PANIC, False, "s", why),
        Fate(True, Reason.READY, False, "s"),
    )
    other = Backend(parse_address("10.1.0.9"), 8080)
    (port,) = PROGRAM.ports
    port = msgspec.structs.replace(port, frontends=port.frontends[:1], listed=(A, B, other), fates=fates)

    assert list(failing_here({WEB: ServiceProgram(WEB, (port,))})) == [failing(A, NODE_PORT), failing(B, NODE_PORT, used=True)]
    assert list(failing_somewhere([EndpointHealth(WEB, (Failing(*A, why),))])) == [failing(A, None)]


def test_endpoints_that_drain_are_listed_with_their_age_and_connections() -> None:
    asked = NODE_PORT._replace(address=parse_address("192.0.2.1"))
    drains = [Draining(CLUSTER, B, 61.04, 2, 1), Draining(asked, A, 3.0, 1, 0)]

    shown = show_endpoints([], drains, OWNERS, Filter())

    assert [(item["state"], item["drainingSeconds"], item["activeConnections"]) for item in shown.data] == [
        ("draining", 61.0, 2),
        ("draining", 3.0, 1),
    ]
    assert [item["service"] for item in shown.data] == ["shop/web", "shop/web"], "a node port is recognised by its number"
    assert "draining for 61s, 3 connections" in shown.text(wide=False)
    assert "draining for 3s, 1 connection " in shown.text(wide=False)


def test_affinity_names_client_and_endpoint() -> None:
    entry = AffinityEntry(parse_address("10.244.1.7"), CLUSTER, B, 59.9996, 60.0)

    shown = show_affinity([entry], OWNERS, Filter())

    assert shown.data == [
        {
            "client": "10.244.1.7",
            "frontend": "10.96.0.10:80/TCP",
            "endpoint": "10.1.0.8:8080",
            "expiresInSeconds": 60.0,
            "timeoutSeconds": 60.0,
            "service": "shop/web",
            "portName": "http",
        }
    ]
    assert "60s" in shown.text(wide=False)


def test_service_tells_how_much_of_it_the_kernel_holds() -> None:
    def state(held: list[KernelFrontend], service: Service = SERVICE) -> tuple[object, ...]:
        (item,) = show_services(held, {WEB: service}, {WEB: PROGRAM}, Filter()).data
        return item["frontendsHeld"], item["frontendsWanted"], item["endpoints"], item["state"]

    assert state(HELD) == (2, 2, 2, "forwarded")
    assert state(HELD[1:]) == (1, 2, 2, "partly missing")
    assert state([]) == (0, 2, 0, "missing")
    assert state([f._replace(pod=REFUSED, host=REFUSED, outside=REFUSED) for f in HELD]) == (2, 2, 0, "refused: no endpoints")
    assert state([], Service(WEB, skipped="headless"))[3] == "skipped: headless"


def test_service_without_frontends_here_says_so() -> None:
    (item,) = show_services(HELD, {WEB: SERVICE}, {WEB: ServiceProgram(WEB)}, Filter()).data

    assert item["state"] == "nothing to forward here"
    assert item["ports"] == ["80:30080/TCP"]


def test_services_are_found_by_frontend_too() -> None:
    assert show_services(HELD, {WEB: SERVICE}, {WEB: PROGRAM}, Filter(("10.96.0.10",))).data
    assert not show_services(HELD, {WEB: SERVICE}, {WEB: PROGRAM}, Filter(("10.96.0.11",))).data
