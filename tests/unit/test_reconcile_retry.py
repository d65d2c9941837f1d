"""Backoff: the clock is a number."""

from __future__ import annotations

import itertools

import pytest

from kpx.reconcile.retry import Backoff


def test_what_never_failed_is_due_and_nothing_waits() -> None:
    backoff: Backoff[str] = Backoff()

    assert backoff.due("row", now=0)
    assert backoff.next_due() is None
    assert len(backoff) == 0


def test_waits_double_up_to_the_limit() -> None:
    backoff: Backoff[str] = Backoff(first_s=1, limit_s=10)

    waits = [backoff.failed("row", now=100) - 100 for _ in range(7)]

    assert waits == [1, 2, 4, 8, 10, 10, 10]
    assert backoff.failures("row") == 7


def test_a_thousand_failures_wait_no_longer_than_the_limit() -> None:
    backoff: Backoff[str] = Backoff(first_s=0.1, limit_s=60)

    assert [backoff.failed("row", now=0) for _ in range(1100)][-1] == 60


def test_key_is_due_when_its_time_has_come_not_before() -> None:
    backoff: Backoff[str] = Backoff(first_s=2)
    backoff.failed("row", now=10)

    assert not backoff.due("row", now=11.99)
    assert backoff.due("row", now=12)
    assert backoff.due("other", now=10)


def test_next_due_is_the_earliest() -> None:
    backoff: Backoff[str] = Backoff(first_s=1)
    backoff.failed("early", now=0)
    backoff.failed("late", now=0)
    backoff.failed("late", now=1)

    assert backoff.next_due() == 1
    backoff.succeeded("early")
    assert backoff.next_due() == 3


def test_success_starts_over() -> None:
    backoff: Backoff[str] = Backoff(first_s=1)
    backoff.failed("row", now=0)
    backoff.failed("row", now=0)

    backoff.succeeded("row")
    backoff.succeeded("never failed")

    assert backoff.due("row", now=0)
    assert backoff.failures("row") == 0
    assert backoff.failed("row", now=0) == 1


def test_keys_nobody_tries_any_more_are_forgotten() -> None:
    """A row that is no longer desired can never succeed; it must not wake the agent for ever."""
    backoff: Backoff[str] = Backoff()
    backoff.failed("kept", now=0)
    backoff.failed("gone", now=0)

    backoff.retain(lambda key: key == "kept")

    assert len(backoff) == 1
    assert backoff.failures("gone") == 0
    assert not backoff.due("kept", now=0)


@pytest.mark.parametrize(("jitter", "expected"), [(0.0, [1, 2, 3, 3]), (0.5, [1.5, 3, 3, 3]), (1.0, [2, 3, 3, 3])])
def test_jitter_lengthens_the_wait_within_the_limit(jitter: float, expected: list[float]) -> None:
    backoff: Backoff[str] = Backoff(first_s=1, limit_s=3)

    assert expected == [backoff.failed("row", now=0, jitter=jitter) for _ in range(4)]


@pytest.mark.parametrize(("first_s", "limit_s"), [(0, 1), (-1, 1), (2, 1)])
def test_bounds_that_make_no_sense_are_refused(first_s: float, limit_s: float) -> None:
    with pytest.raises(ValueError, match="0 < first_s <= limit_s"):
        Backoff(first_s, limit_s)


def test_keys_do_not_touch_each_other() -> None:
    backoff: Backoff[tuple[str, int]] = Backoff(first_s=1)

    dues = [backoff.failed(key, now=5) for key in itertools.product("ab", range(2))]

    assert dues == [6, 6, 6, 6]
