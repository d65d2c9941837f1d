"""When rounds and repairs are due, told by numbers."""

from __future__ import annotations

import pytest

from kpx.agent.pacing import Pacing, RepairPace


def test_idle_agent_acts_at_once() -> None:
    pacing = Pacing(min_period_s=1.0)
    pacing.request()

    assert pacing.due(now=0.0)


def test_nothing_is_due_unless_asked_for() -> None:
    pacing = Pacing()

    assert not pacing.due(now=100.0)
    assert pacing.deadline() is None


def test_busy_agent_lets_requests_gather_until_the_period_is_over() -> None:
    """The period runs from the end of one round to the start of the next (B1)."""
    pacing = Pacing(min_period_s=1.0)
    pacing.request()
    pacing.began()
    pacing.ended(now=10.0)
    pacing.request()
    pacing.request()

    assert (pacing.due(now=10.9), pacing.deadline(), pacing.due(now=11.0)) == (False, 11.0, True)
    pacing.began()
    assert not pacing.due(now=12.0)


def test_request_during_a_round_is_not_lost() -> None:
    pacing = Pacing()
    pacing.request()
    pacing.began()
    pacing.request()
    pacing.ended(now=5.0)

    assert pacing.due(now=5.0)


def test_first_repair_is_immediate() -> None:
    repairs = RepairPace()
    repairs.notice()

    assert repairs.due(now=0.0)


def test_repairs_of_a_fight_are_spaced_but_never_later_than_a_second() -> None:
    repairs = RepairPace()
    now, pauses = 0.0, []
    for _ in range(8):
        repairs.notice()
        deadline = repairs.deadline()
        assert deadline is not None
        pauses.append(max(0.0, deadline - now))
        now = max(now, deadline)
        repairs.repaired(now)

    assert pauses == pytest.approx([0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 0.8, 0.8])


def test_quiet_time_makes_the_next_repair_a_first_one() -> None:
    repairs = RepairPace(quiet_s=10.0)
    for now in (0.0, 1.0, 2.0):
        repairs.notice()
        repairs.repaired(now)
    repairs.notice()
    assert repairs.due(now=20.0)
    repairs.repaired(now=20.0)
    repairs.notice()

    assert repairs.deadline() == 20.05
