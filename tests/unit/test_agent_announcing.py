"""What is announced on which object, and how often: deduplicated, rate-limited, and never what is over already."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from agent_builders import REFUSED_ERRNO, SYNCED, Clock, cluster, eps, front, started, svc
from policy_builders import FACTS, TCP, addresses, named

from kpx.agent import occasions, serving
from kpx.agent.allowance import Allowance
from kpx.agent.announcing import AGAIN_S, BURST, EVERY_S, FORGET_S, LONGEST_QUEUE, OBJECT_BURST, OBJECT_EVERY_S, Announcing
from kpx.agent.engine import Engine
from kpx.agent.status import Findings
from kpx.cluster.events import Delete, Upsert
from kpx.host.node import facts_warnings
from kpx.model.addresses import Family
from kpx.model.announcement import LONGEST_NOTE, About, note_of
from kpx.model.findings import Finding, Severity
from kpx.model.names import ObjectName
from kpx.model.service import Service, ServicePort
from kpx.policy.scheduling import SCHEDULER_FIELD
from tests.lab.memory_announcer import MemoryAnnouncer
from tests.lab.memory_dataplane import FRONTENDS, MemoryDataplane

WEB = ObjectName("shop", "web")


class World:
    """Announcing with a clock that is told what time it is."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.announcer = MemoryAnnouncer()
        self.findings = Findings()
        self.announcing = Announcing(self.announcer, "n1", self.findings, self.clock, self.clock)
        self.findings.witness = self.announcing

    def act(self, later_s: float = 0.0) -> None:
        self.clock.now += later_s
        self.announcing.act(self.clock.now)

    def flap(self, name: ObjectName = WEB) -> None:
        """Let a finding begin, and be over at once."""
        self.findings.replace(name, (conflict(name),))
        self.act()
        self.findings.replace(name, ())


def conflict(name: ObjectName = WEB) -> Finding:
    return Finding(f"Service {name}", "spec.externalIPs", "192.0.2.9:80/TCP belongs to older Service shop/old")


@pytest.fixture
def world() -> World:
    return World()


def test_finding_about_a_service_is_a_warning_on_it(world: World) -> None:
    """The note of what is the same everywhere names no node, so that all nodes say the same."""
    world.findings.replace(WEB, (conflict(),))
    world.act()

    ((what, times),) = world.announcer.told
    assert (what.about, what.reason, what.warning, what.shared, times) == (
        About("Service", WEB),
        "FrontendConflict",
        True,
        True,
        1,
    )
    assert what.note == "spec.externalIPs: 192.0.2.9:80/TCP belongs to older Service shop/old"


@pytest.mark.parametrize(
    ("owner", "finding", "about", "reason"),
    [
        (WEB, Finding("Service shop/web", SCHEDULER_FIELD, "x", Severity.WARNING), "Service shop/web", "SchedulerMissing"),
        (WEB, Finding("Service shop/web", "spec.newField", "x"), "Service shop/web", "NotAsAsked"),
        ("tuning", Finding("sysctl", "net.ipv4.ip_forward", "cannot be written"), "Node n1", "TuningFailed"),
        ("source", Finding("Service shop/web", "spec.ports[0].port", "0 is no port"), "Service shop/web", "InvalidObject"),
        ("source", Finding("EndpointSlice shop/web-1", "endpoints", "x"), "EndpointSlice shop/web-1", "InvalidObject"),
        ("source", Finding("Node n1", "", "there is no Node named n1"), "Node n1", "InvalidObject"),
        ("health-check ports", Finding("Service shop/web", "f", "taken"), "Service shop/web", "HealthCheckPortConflict"),
    ],
)
def test_owner_and_field_decide_object_and_reason(world: World, owner: object, finding: Finding, about: str, reason: str) -> None:
    world.findings.replace(owner, (finding,))  # type: ignore[arg-type]
    world.act()

    assert [(str(what.about), what.reason) for what, _ in world.announcer.told] == [(about, reason)]


@pytest.mark.parametrize(
    ("owner", "finding"),
    [
        ("node", Finding("node n1", "", "no IPv6 address of this node answers on node ports")),
        ("source", Finding("API server https://192.0.2.1", "", "does not answer")),
        ("source", Finding("/etc/kpx/web.yaml:3", "", "cannot be parsed")),
        ("events", Finding("events", "", "cannot be posted")),
        (("listening", ("0.0.0.0", 10256)), Finding("--healthz-bind-address", "", "cannot listen")),
    ],
)
def test_what_is_about_no_object_is_left_to_the_log(world: World, owner: object, finding: Finding) -> None:
    world.findings.replace(owner, (finding,))  # type: ignore[arg-type]
    world.act()

    assert world.announcer.told == []


def test_scheduler_the_node_lacks_is_told_on_it(world: World) -> None:
    facts = msgspec.structs.replace(FACTS, scheduler="mh", missing_schedulers=frozenset({"mh"}))
    world.findings.replace("node", tuple(Finding("node n1", "", text) for text in facts_warnings(facts)))
    world.act()

    assert [(str(what.about), what.reason) for what, _ in world.announcer.told] == [("Node n1", "SchedulerMissing")]


def test_listener_that_fails_is_told_on_its_service_or_on_the_node(world: World) -> None:
    """H6, 15.1, with the reasons kube-proxy uses."""
    failed = Finding("Service shop/web", "spec.healthCheckNodePort", "cannot listen on 0.0.0.0:32000")
    world.announcing.cannot_listen("FailedToStartServiceHealthcheck", failed)
    world.announcing.cannot_listen("FailedToStartProxierHealthcheck", Finding("--healthz-bind-address", "", "cannot listen"))
    world.act()

    assert [(str(what.about), what.reason, what.action) for what, _ in world.announcer.told] == [
        ("Service shop/web", "FailedToStartServiceHealthcheck", "Listen"),
        ("Node n1", "FailedToStartProxierHealthcheck", "Listen"),
    ]


def test_what_happens_again_is_counted_and_told_after_a_while(world: World) -> None:
    for _ in range(4):
        world.flap()
    world.act(AGAIN_S - 1)
    early = list(world.announcer.told)
    world.act(1)

    assert [times for _, times in early] == [1]
    assert [times for _, times in world.announcer.told] == [1, 4]
    assert world.announcing.deadline() is None


def test_deadline_is_when_the_series_may_be_told(world: World) -> None:
    world.flap()
    world.flap()
    world.act()

    assert world.announcing.deadline() == world.clock.now + AGAIN_S


def test_what_stays_wrong_is_told_once(world: World) -> None:
    world.findings.replace(WEB, (conflict(),))
    for _ in range(10):
        world.findings.replace(WEB, (conflict(),))
        world.act(AGAIN_S)

    assert [times for _, times in world.announcer.told] == [1]


def test_what_is_over_before_its_turn_is_not_told(world: World) -> None:
    world.findings.replace(WEB, (conflict(),))
    world.findings.replace(WEB, ())
    world.act()

    assert world.announcer.told == []


def test_after_its_time_it_is_told_as_new(world: World) -> None:
    world.flap()
    world.act(FORGET_S)
    other = ObjectName("shop", "other")
    world.flap(other)
    world.flap()

    assert [times for _, times in world.announcer.told] == [1, 1, 1]


def test_one_object_gets_few_at_once_and_then_one_in_a_while(world: World) -> None:
    findings = tuple(Finding(f"Service {WEB}", "spec.ports", f"number {number}") for number in range(OBJECT_BURST + 2))
    world.findings.replace(WEB, findings)
    world.act()
    at_once = len(world.announcer.told)
    deadline = world.announcing.deadline()
    assert deadline is not None
    world.act(deadline - world.clock.now)

    assert at_once == OBJECT_BURST
    assert len(world.announcer.told) == OBJECT_BURST + 1
    assert deadline == 100.0 + OBJECT_EVERY_S


def test_many_objects_share_an_allowance(world: World) -> None:
    for number in range(BURST + 3):
        name = ObjectName("shop", f"s{number}")
        world.findings.replace(name, (conflict(name),))
    world.act()
    at_once = len(world.announcer.told)
    world.act(EVERY_S)
    later = len(world.announcer.told)
    world.act(100 * EVERY_S)

    assert (at_once, later, len(world.announcer.told)) == (BURST, BURST + 1, BURST + 3)


def test_more_than_anybody_reads_is_left_to_the_log(world: World) -> None:
    for number in range(LONGEST_QUEUE + 10):
        name = ObjectName("shop", f"s{number}")
        world.findings.replace(name, (conflict(name),))
    for _ in range(LONGEST_QUEUE + 10):
        world.act(EVERY_S)

    assert len(world.announcer.told) == LONGEST_QUEUE


def test_what_was_told_makes_room_for_what_is_new(world: World) -> None:
    for number in range(LONGEST_QUEUE + 1):
        world.flap(ObjectName("shop", f"s{number}"))
        world.act(EVERY_S)

    assert len(world.announcer.told) == LONGEST_QUEUE + 1
    assert len(world.announcing._stories) <= LONGEST_QUEUE


def test_trouble_with_posting_is_one_finding_until_it_is_over(world: World) -> None:
    world.announcer.trouble = "the API server answers 403: no"
    world.act()
    during = [str(finding) for finding in world.findings.every()]
    world.announcer.trouble = ""
    world.act()

    assert during == ["events: cannot be posted: the API server answers 403: no; what they would say is in the log"]
    assert world.findings.every() == []


def test_without_an_announcer_nothing_is_kept() -> None:
    findings = Findings()
    announcing = Announcing(None, "n1", findings)
    findings.witness = announcing
    findings.replace(WEB, (conflict(),))
    announcing.act(1e9)

    assert announcing.deadline() is None
    assert announcing._stories == {}


def test_external_ip_that_is_not_allowed_is_told_with_a_reason_of_its_own(world: World) -> None:
    """V2: nobody else has it, so it is no conflict; every node with these settings would say the same."""
    port = ServicePort("p", TCP, 80, 0)
    asks = Service(named("shop/asks"), cluster_ips=addresses("10.96.0.11"), external_ips=addresses("192.0.2.9"), ports=(port,))
    facts = msgspec.structs.replace(FACTS, external_ip_ranges=())
    engine = Engine(MemoryDataplane(), facts)
    engine.findings.witness = world.announcing
    engine.fold([Upsert(asks), SYNCED])
    engine.round()
    world.act()

    ((what, _),) = world.announcer.told
    assert (str(what.about), what.reason, what.shared) == ("Service shop/asks", "AddressNotAllowed", True)
    assert what.note.startswith("spec.externalIPs[0]: 192.0.2.9 is outside of --external-ip-ranges")


def test_younger_service_that_asks_for_the_same_address_is_told(world: World) -> None:
    """V11, through the engine; when the older one leaves and comes back, that is the same happening again."""

    def claiming(name: str, created: str, ip: str) -> Upsert:
        port = ServicePort("p", TCP, 80, 0)
        external = addresses("192.0.2.9")
        return Upsert(Service(named(name), cluster_ips=addresses(ip), external_ips=external, ports=(port,), created=created))

    old = claiming("shop/old", "2026-01-01T00:00:00Z", "10.96.0.11")
    young = claiming("shop/young", "2026-02-01T00:00:00Z", "10.96.0.12")
    engine = started(MemoryDataplane(), *cluster("shop/a"))
    engine.findings.witness = world.announcing
    for events in ([old, young], [Delete(Service, ObjectName("shop", "old"))], [old]):
        engine.fold(events)
        engine.round()
        world.act()
    world.act(AGAIN_S)

    assert [(str(what.about), what.reason, times) for what, times in world.announcer.told] == [
        ("Service shop/young", "FrontendConflict", 1),
        ("Service shop/young", "FrontendConflict", 2),
    ]


def test_row_the_kernel_refuses_is_told_on_its_service(world: World) -> None:
    """16.11; the note says which node and which row."""
    dataplane = MemoryDataplane()
    engine = started(dataplane, *cluster("shop/a"))
    engine.refusals.witness = world.announcing
    dataplane.refused[FRONTENDS[Family.IPV4].name, front("10.96.0.2")] = REFUSED_ERRNO
    engine.fold([svc("shop/b", "10.96.0.2"), eps("shop/b", "10.244.2.9")])
    engine.round()
    world.act()

    assert {(str(what.about), what.reason) for what, _ in world.announcer.told} == {("Service shop/b", "KernelRefused")}
    assert world.announcer.told[0][0].note.startswith("node n1 refuses rows (")


def test_note_is_one_line_that_a_server_takes() -> None:
    assert note_of("a\n  b") == "a b"
    assert len(note_of("ü" * 1000).encode()) <= LONGEST_NOTE


def test_allowance_fills_up_again_to_what_it_holds() -> None:
    allowance = Allowance(2, 10.0, now=0.0)
    assert allowance.next_at(0.0) == 0.0
    allowance.take(0.0)
    allowance.take(0.0)

    assert allowance.next_at(0.0) == 10.0
    assert allowance.next_at(15.0) == 15.0
    assert [allowance.is_full(19.9), allowance.is_full(20.0)] == [False, True]
    allowance.take(1000.0)
    allowance.take(1000.0)
    assert allowance.next_at(1000.0) == 1010.0


def test_reasons_are_those_of_the_manual() -> None:
    """docs/events.md is what people write alerts by."""
    manual = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    told = {line.split("`")[1] for line in manual.splitlines() if line.startswith("| `")}
    of_findings = {*occasions._REASONS.values(), *occasions._NODE_REASONS.values(), *occasions._OBJECT_REASONS.values()}
    of_listeners = {*serving._EVENTS.values(), serving._SERVICE_EVENT}
    of_the_node = {"Starting", "SyncFailed", "KubeProxyFound"}

    assert told == of_findings | of_listeners | of_the_node | {"NotAsAsked", "KernelRefused"}
    assert all(re.fullmatch(r"([A-Z][a-z]+)+", reason) for reason in told)
