"""What the agent does though nobody asks: finish what drains, find what others touched in silence, let another data plane go."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest
from agent_builders import svc
from test_agent_loop import World

from kpx.agent.schedulers import Schedulers
from kpx.cluster.events import Upsert
from kpx.dataplanes.base import Draining
from kpx.model.addresses import Address, Family, parse_address
from kpx.model.facts import NodeFacts
from kpx.model.names import Protocol
from kpx.model.service import Service
from kpx.policy.desired import Backend, Frontend
from tests.lab.memory_dataplane import FRONTENDS

FRONTEND = Frontend(Family.IPV4, parse_address("10.96.0.1"), Protocol.TCP, 80)
NODE_PORT = Frontend(Family.IPV4, Address(b""), Protocol.TCP, 30080)


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


def with_scheduler(event: Upsert, name: str) -> Upsert:
    assert isinstance(event.object, Service)
    return Upsert(msgspec.structs.replace(event.object, scheduler=name))


def test_another_data_plane_goes_once_this_one_is_in_place(world: World) -> None:
    world.former.skeleton.add(Family.IPV4)
    world.agent.start()
    assert world.former.skeleton, "nothing is handed over before the agent is ready"

    world.step_until(lambda: not world.former.skeleton)
    assert world.backends() == ["10.244.2.1:8080"]


def test_an_empty_other_data_plane_is_left_alone(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kpx.agent.handover")
    world.agent.start()
    world.agent.step(0.05)

    assert not [record for record in caplog.records if record.name == "kpx.agent.handover"]


def test_endpoints_that_drain_are_tended_with_what_slices_still_list(world: World) -> None:
    """G6: listed or not is told by address, whatever the port and the conditions."""
    listed, gone = (Backend(parse_address(text), 9090) for text in ("10.244.2.1", "10.244.2.2"))
    world.agent.start()
    world.dataplane.drains = [Draining(FRONTEND, listed, 1.0, 1, 0), Draining(FRONTEND, gone, 1.0, 1, 0)]

    world.step_until(lambda: len(world.dataplane.drains) == 1)
    assert [drain.backend for drain in world.dataplane.drains] == [listed]


def test_a_node_port_on_an_address_of_the_host_has_its_service(world: World) -> None:
    """V12 the other way round: nobody has the exact frontend, so the number decides."""
    backend = Backend(parse_address("10.244.2.1"), 8080)
    world.agent.start()
    world.source.say(svc("shop/a", "10.96.0.1", node_port=30080))
    world.agent.step()
    mine = NODE_PORT._replace(address=parse_address("192.0.2.1"))
    other = NODE_PORT._replace(address=parse_address("192.0.2.2"))
    world.dataplane.drains = [Draining(mine, backend, 1.0, 1, 0), Draining(other, backend, 1.0, 1, 0)]

    world.step_until(lambda: len(world.dataplane.drains) == 1)
    assert [drain.frontend for drain in world.dataplane.drains] == [mine]


def test_what_others_touch_in_silence_is_found_by_an_audit(world: World) -> None:
    world.dataplane.audit_every_s = 0.05
    world.agent = type(world.agent)(world.engine, world.agent._around)
    world.agent.start()
    del world.dataplane.kernel[FRONTENDS[Family.IPV4]][FRONTEND]

    world.step_until(lambda: FRONTEND in world.dataplane.kernel[FRONTENDS[Family.IPV4]])
    world.agent.close()


def test_a_scheduler_the_kernel_lacks_is_replaced_and_said(world: World) -> None:
    world.dataplane.lacking = frozenset({"mh"})
    world.agent.start()
    world.source.say(with_scheduler(svc("shop/a", "10.96.0.1"), "mh"))
    world.step_until(lambda: world.engine.facts.missing_schedulers == {"mh"})

    (program,) = world.engine.programs.values()
    assert program.scheduler.name == "rr"
    assert any("'mh'" in finding.message for finding in program.findings)


def test_the_kernel_is_asked_once_for_each_scheduler_and_again_after_a_reload() -> None:
    asked: list[set[str]] = []
    lacking = {"mh"}

    def ask(names: object) -> frozenset[str]:
        assert isinstance(names, set)
        asked.append(set(names))
        return frozenset(names & lacking)

    schedulers = Schedulers(ask)
    facts = NodeFacts("n1")
    schedulers.hear([with_scheduler(svc("shop/a", "10.96.0.1"), "mh"), with_scheduler(svc("shop/b", "10.96.0.2"), "lc")])
    assert schedulers.missing(facts) == schedulers.missing(facts) == {"mh"}
    assert asked == [{"rr", "mh", "lc"}]

    lacking.clear()
    schedulers.ask_again()
    assert schedulers.missing(facts) == frozenset()
    assert asked[1:] == [{"mh"}]
