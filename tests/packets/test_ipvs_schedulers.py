"""Schedulers of IPVS: one for all, another for a Service, any the kernel has; changed while connections go on (D14, G7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.lab import features
from tests.lab.holdings import virtual_servers
from tests.lab.objects import node, service, slice_of
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, REMOTE, ask, assert_served_by, begin, names, shop, who, write
from tests.lab.world import World

pytestmark = pytest.mark.dataplane("ipvs")
ANNOTATION, ALIAS = "kpx.io/scheduler", "kube-router.io/service.scheduler"
VIP = {name: f"10.96.1.{number}" for number, name in enumerate(features.SCHEDULERS, 1)}
LIVE, UNKNOWN, ALIASED, DEFAULT, MH = "10.96.0.10", "10.96.0.20", "10.96.0.30", "10.96.0.40", "10.96.0.50"


def annotated(name: str, vip: str, scheduler: str, flags: str = "", key: str = ANNOTATION) -> dict[str, object]:
    """A Service that asks for a scheduler."""
    annotations = {key: scheduler} | ({f"{ANNOTATION}-flags": flags} if flags else {})
    return service(name, vip, annotations=annotations)


OBJECTS = [
    node(NODE[4]),
    *(annotated(f"by-{name}", vip, name) for name, vip in VIP.items()),
    *(slice_of(f"by-{name}", *ENDPOINTS[4], remote=REMOTE) for name in VIP),
    annotated("live", LIVE, "rr"), slice_of("live", *ENDPOINTS[4], remote=REMOTE),
    annotated("unknown", UNKNOWN, "nonsense"), slice_of("unknown", *ENDPOINTS[4], remote=REMOTE),
    annotated("aliased", ALIASED, "lc", key=ALIAS), slice_of("aliased", *ENDPOINTS[4], remote=REMOTE),
    service("default", DEFAULT), slice_of("default", *ENDPOINTS[4], remote=REMOTE),
    annotated("maglev", MH, "mh"), slice_of("maglev", *ENDPOINTS[4], remote=REMOTE),
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A Service for every scheduler there is."""
    with shop(OBJECTS, tmp_path_factory.mktemp("schedulers"), options=("--ipvs-scheduler", "wrr")) as world:
        yield begin(world, OBJECTS)
        world.wind_up()


def server_line(world: World, vip: str) -> str:
    """The virtual server as ipvsadm lists it."""
    (line,) = (line for line in virtual_servers(world.node.namespace) if line.startswith(f"-A -t {vip}:80 "))
    return line


@pytest.mark.parametrize("name", features.SCHEDULERS)
def test_every_scheduler_of_the_kernel_can_be_had(world: World, name: str) -> None:
    """It is the one asked for, and connections reach endpoints: all of them unless it prefers one on purpose."""
    if features.lacks(f"scheduler {name}", f"test_every_scheduler_of_the_kernel_can_be_had[{name}]"):
        assert " -s rr" in server_line(world, VIP[name])
        pytest.skip(f"this kernel has no scheduler {name}; the Service is served by rr")
    assert f" -s {name}" in server_line(world, VIP[name])

    reached = Counter(ask(world, POD[4], VIP[name]).server for _ in range(12))
    assert reached.keys() <= names(*ENDPOINTS[4])
    if name in ("rr", "wrr"):
        assert set(reached.values()) == {4}
    elif name == "mh":
        assert len(reached) > 1, "with the source port in the hash one client is spread"


def test_the_default_is_a_setting_and_the_alias_an_annotation_too(world: World) -> None:
    assert " -s wrr" in server_line(world, DEFAULT)
    assert " -s lc" in server_line(world, ALIASED)


def test_an_unknown_scheduler_is_rr_and_somebody_is_told(world: World) -> None:
    """The Service is served, and the log names it and what it asked for."""
    assert " -s rr" in server_line(world, UNKNOWN)
    assert_served_by(world, names(*ENDPOINTS[4]), POD[4], UNKNOWN)
    said = [line for line in world.agent.log.read_text().splitlines() if "shop/unknown" in line]
    assert any("nonsense" in line and "warning" in line for line in said), said


@pytest.mark.needs("scheduler mh")
def test_mh_looks_at_ports_and_goes_round_what_drains(world: World) -> None:
    """
    An endpoint with open connections that was taken away keeps its place in the table of mh, with weight 0: whoever is hashed to
    it goes to another one instead of being refused (D14).
    """
    line = server_line(world, MH)
    assert "mh-port" in line or "flag-2" in line
    assert "mh-fallback" in line or "flag-1" in line

    flows = [world.flow("TCP", POD[4], MH, 80) for _ in range(12)]
    held = [flow.ask().server for flow in flows]
    gone = held[0]
    left = [each for each in ENDPOINTS[4] if not gone.startswith(f"{each}:")]
    write(world, slice_of("maglev", *left, remote=REMOTE))
    try:
        assert f"-a -t {MH}:80 -r {gone} -m -w 0" in virtual_servers(world.node.namespace)
        assert_served_by(world, names(*left), POD[4], MH, times=40)
        assert_served_by(world, names(*left), CLIENT[4], MH, times=20)
        assert [flow.ask().server for flow in flows] == held
    finally:
        for flow in flows:
            flow.close()


@pytest.mark.needs("scheduler sh")
def test_flags_can_be_asked_for(world: World) -> None:
    """`kpx.io/scheduler-flags` says what of a client sh and mh look at."""
    for flags, wanted, unwanted in (("port", "flag-2|sh-port", "flag-1|sh-fallback"), ("none", "", "flag-|sh-")):
        write(world, annotated("by-sh", VIP["sh"], "sh", flags))
        line = server_line(world, VIP["sh"])
        assert not wanted or any(each in line for each in wanted.split("|"))
        assert not any(each in line for each in unwanted.split("|"))


@pytest.mark.needs("scheduler lc")
def test_another_scheduler_for_a_live_service_cuts_nobody(world: World) -> None:
    """The virtual server is changed in place: open connections stay where they are."""
    flow = world.flow("TCP", CLIENT[4], LIVE, 80)
    server = flow.ask().server
    for scheduler in ("lc", "wlc", "rr"):
        write(world, annotated("live", LIVE, scheduler))
        assert f" -s {scheduler}" in server_line(world, LIVE)
        assert flow.ask().server == server
        assert who(world, CLIENT[4], LIVE) <= names(*ENDPOINTS[4])
    flow.close()


def test_without_an_annotation_again_it_is_the_default(world: World) -> None:
    write(world, service("live", LIVE))
    assert " -s wrr" in server_line(world, LIVE)
