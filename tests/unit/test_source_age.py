"""When a source was last heard of: what the age on a dashboard is counted from."""

from __future__ import annotations

from contextlib import ExitStack

from test_agent_loop import World

from kpx.sources.kubernetes.kinds import kinds_for
from kpx.sources.kubernetes.machine import ListWatch
from tests.lab.memory_source import MemorySource


def test_every_word_of_the_server_counts_be_it_a_piece_of_nothing_new() -> None:
    machine = ListWatch(kinds_for("n1", "")[0])
    machine.begin(0.0, 0.5)
    assert machine.heard_at is None
    machine.head(200, "", 5.0)
    assert machine.heard_at == 5.0
    machine.body(b"{", 7.0, 0.5)
    machine.tick(8.0, 0.5)

    assert machine.heard_at == 7.0


def test_agent_tells_of_the_source_in_use() -> None:
    with ExitStack() as stack:
        world = World(stack)
        world.source.heard = {"Service": 3.0}
        world.agent.start()
        assert world.agent.heard_at() == {"Service": 3.0}
        other = MemorySource()
        other.heard = {"Service": 9.0}
        world.next_sources = [other]
        world.agent._reload()

        assert world.agent.heard_at() == {"Service": 9.0}
