"""One agent a network namespace."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

import pytest

from kpx.agent.lock import AgentLock, holder
from kpx.errors import AlreadyRunning

TAKE = """
import sys
from kpx.agent.lock import AgentLock
lock = AgentLock("\\0" + sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def name() -> str:
    return f"kpx-test-{uuid.uuid4().hex}"


def test_second_agent_is_told_who_holds_the_lock(name: str) -> None:
    with AgentLock("\0" + name), pytest.raises(AlreadyRunning, match=rf"another kpx agent \(pid {os.getpid()}\)"):
        AgentLock("\0" + name)


def test_lock_can_be_taken_again_once_given_back(name: str) -> None:
    AgentLock("\0" + name).close()

    with AgentLock("\0" + name):
        assert holder("\0" + name) == os.getpid()
    assert holder("\0" + name) is None


def test_many_may_ask_who_holds_it(name: str) -> None:
    """More than the queue of the listening socket holds, since the agent lets go of them now and then."""
    answers = set()
    with AgentLock("\0" + name) as lock:
        for _ in range(10):
            answers.update(holder("\0" + name) for _ in range(10))
            lock.drain()

    assert answers == {os.getpid()}


def test_lock_is_held_even_when_nobody_has_time_to_answer(name: str) -> None:
    with AgentLock("\0" + name):
        answers = [holder("\0" + name) for _ in range(50)]

    assert None not in answers


def test_killed_process_leaves_no_lock_behind(name: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", TAKE, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert holder("\0" + name) == child.pid
        child.kill()
        child.wait()

    with AgentLock("\0" + name):
        pass
