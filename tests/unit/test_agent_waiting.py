"""An agent whose source takes its time, as an API server does that is not there yet: alive, harmless, and ready later."""

from __future__ import annotations

import errno
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from agent_builders import backends_of, eps, svc
from test_agent_loop import EVENTS, LONG_S, World

from kpx.agent.reading import read_all
from kpx.cluster.events import Synced
from kpx.errors import SourceError
from kpx.model.findings import Finding
from tests.lab.memory_source import MemorySource


@pytest.fixture
def waiting() -> Iterator[World]:
    """Return a world whose source has not said everything; what it says next is said during `start`."""
    with ExitStack() as stack:
        world = World(stack)
        # The agent has asked for its source already when it is made, so it is this very one that becomes slow.
        world.source.slow = True
        yield world


def test_ready_is_said_once_everything_was_heard(waiting: World) -> None:
    waiting.source.say(Synced())
    waiting.agent.start()
    heard = waiting.heard()
    assert [line for line in heard if line.startswith((b"READY", b"EXTEND"))][-1] == b"READY=1"
    assert any(line.startswith(b"EXTEND_TIMEOUT_USEC=") for line in heard)
    assert waiting.backends() == ["10.244.2.1:8080"]


def test_nothing_is_written_before(waiting: World) -> None:
    """S9, 16.6: SIGTERM ends the waiting, and the agent was never ready."""
    os.kill(os.getpid(), signal.SIGTERM)
    waiting.agent.start()
    assert not any(line.startswith(b"READY") for line in waiting.heard())
    assert waiting.dataplane.kernel == {}
    assert waiting.dataplane.observed == 0
    assert waiting.health.livez().status == 200
    waiting.agent.run()
    assert waiting.heard()[-1] == b"STOPPING=1"


def test_what_the_node_object_may_still_say_is_not_called_missing(waiting: World) -> None:
    """16.3: addresses and pod ranges of the node come with its object; what lacks is said once everything was heard."""
    waiting.host.change()
    os.kill(os.getpid(), signal.SIGTERM)
    waiting.agent.start()
    assert waiting.engine.findings.every() == []
    waiting.source.say(Synced())
    waiting.step_until(lambda: bool(waiting.engine.findings.every()))
    assert "answers on node ports" in str(waiting.engine.findings.every()[0])


def test_first_write_that_is_refused_is_tried_again(waiting: World, request: pytest.FixtureRequest) -> None:
    waiting.dataplane.broken = errno.ENOBUFS
    waiting.source.say(Synced())
    # `start` returns after the second try only, so the kernel has to be mended from outside of it.
    before = signal.signal(signal.SIGALRM, lambda *_: setattr(waiting.dataplane, "broken", 0))
    request.addfinalizer(lambda: signal.signal(signal.SIGALRM, before))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    waiting.agent.start()
    assert waiting.backends() == ["10.244.2.1:8080"]


def test_reload_keeps_what_is_known_until_the_new_source_has_said_everything() -> None:
    """16.5: the API server may be away just now."""
    with ExitStack() as stack:
        world = World(stack)
        world.agent.start()
        old, new = world.source, MemorySource(svc("shop/b", "10.96.0.2"), slow=True)
        world.next_sources = [new]
        os.kill(os.getpid(), signal.SIGHUP)
        world.step_until(lambda: world.source is new)
        assert not old.closed
        old.say(eps("shop/a", "10.244.2.7"))
        world.step_until(lambda: world.backends() == ["10.244.2.7:8080"])
        new.say(eps("shop/b", "10.244.2.5"), Synced())
        world.step_until(lambda: backends_of(world.dataplane, "10.96.0.2") == ["10.244.2.5:8080"])
        assert old.closed
        assert world.backends() == []
        new.say(eps("shop/b", "10.244.2.6"))
        world.step_until(lambda: backends_of(world.dataplane, "10.96.0.2") == ["10.244.2.6:8080"])


def test_what_keeps_the_new_source_from_being_used_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kpx.agent.status")
    refusing = Finding("API server x", "", "refuses connections")
    with ExitStack() as stack:
        world = World(stack)
        world.agent.start()
        new = MemorySource(slow=True, findings=(refusing,))
        world.next_sources = [new]
        os.kill(os.getpid(), signal.SIGHUP)
        world.step_until(lambda: world.source is new)
        new.say()
        world.step_until(lambda: refusing in world.engine.findings.every())
        new.findings = ()
        new.say(*EVENTS, Synced())
        world.step_until(lambda: refusing not in world.engine.findings.every())
    assert [record.message for record in caplog.records] == [str(refusing), f"no longer: {refusing}"]


def test_second_reload_lets_go_of_the_first() -> None:
    with ExitStack() as stack:
        world = World(stack)
        world.agent.start()
        first, second = MemorySource(slow=True), MemorySource(*EVENTS)
        world.next_sources = [first, second]
        os.kill(os.getpid(), signal.SIGHUP)
        world.step_until(lambda: world.source is first)
        os.kill(os.getpid(), signal.SIGHUP)
        world.step_until(lambda: world.source is second)
        assert first.closed
        assert world.backends() == ["10.244.2.1:8080"]


def test_successor_that_fails_leaves_the_source_in_use() -> None:
    with ExitStack() as stack:
        world = World(stack)
        world.agent.start()
        old, new = world.source, MemorySource(slow=True)
        world.next_sources = [new]
        os.kill(os.getpid(), signal.SIGHUP)
        world.step_until(lambda: world.source is new)
        new.failure = SourceError("gone")
        new.say()
        world.step_until(lambda: new.closed)
        old.say(eps("shop/a", "10.244.2.7"))
        world.step_until(lambda: world.backends() == ["10.244.2.7:8080"])


def test_agent_that_ends_closes_both_sources() -> None:
    with ExitStack() as stack:
        world = World(stack)
        world.agent.start()
        old, new = world.source, MemorySource(slow=True)
        world.next_sources = [new]
        os.kill(os.getpid(), signal.SIGHUP)
        world.agent.step(LONG_S)
        world.agent.close()
        assert (old.closed, new.closed) == (True, True)


def test_reading_once_waits_for_everything() -> None:
    with closing(MemorySource(svc("shop/a", "10.96.0.1"), slow=True)) as source:
        source.say(eps("shop/a", "10.244.2.1"), Synced())
        assert len(read_all(source).events) == 3


def test_reading_once_gives_up_with_the_reason() -> None:
    refusing = Finding("API server x", "", "refuses connections")
    with (
        closing(MemorySource(slow=True, findings=(refusing,))) as source,
        pytest.raises(SourceError, match="API server x: refuses connections; gave up after 0 s"),
    ):
        read_all(source, 0.05)
