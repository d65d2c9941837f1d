"""
Orders: the histories every scenario is put through unasked, all of which must end in the same rows.

Rows are a function of the current state, so any state may follow any other, events of one change may come in any order, one at
a time or all at once, and saying a thing twice says nothing new. An order is a list of rounds; a round is the node's facts,
events folded together, and the state that must hold after it (None in the middle of something).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from kpx.cluster.events import Delete, Event, Upsert
from kpx.model.facts import NodeFacts
from tests.scenarios.scenario_file import State


class Round(NamedTuple):
    """Events that are folded together, and what must hold once they are carried out."""

    facts: NodeFacts
    events: tuple[Event, ...]
    after: State | None


Order = Callable[[Sequence[State]], Iterator[Round]]


def nothing_in(state: State) -> State:
    """Return the state in which every object is deleted."""
    return State("nothing", state.facts, {}, ())


def changes(old: State, new: State) -> list[Event]:
    """Return the events that lead from one state to another, additions in the order of the file, then deletions."""
    events: list[Event] = [Upsert(value) for identity, value in new.objects.items() if old.objects.get(identity) != value]
    return events + [Delete(*identity) for identity in old.objects if identity not in new.objects]


def as_written(states: Sequence[State]) -> Iterator[Round]:
    """Each step is one round."""
    yield from _through(states, list)


def events_reversed(states: Sequence[State]) -> Iterator[Round]:
    """The events of a step come in the opposite order."""
    yield from _through(states, lambda events: events[::-1])


def events_doubled(states: Sequence[State]) -> Iterator[Round]:
    """Every event is said twice, and what has not changed is said again."""
    old = nothing_in(states[0])
    for new in _and_nothing(states):
        again = [Upsert(value) for value in new.objects.values()]
        yield Round(new.facts, (*again, *changes(old, new), *again), new)
        old = new


def one_event_a_round(states: Sequence[State]) -> Iterator[Round]:
    """Every event is carried out before the next comes."""
    old = nothing_in(states[0])
    for new in _and_nothing(states):
        for event in changes(old, new):
            yield Round(new.facts, (event,), None)
        yield Round(new.facts, (), new)
        old = new


def nothing_in_between(states: Sequence[State]) -> Iterator[Round]:
    """Everything goes before the next state comes."""
    yield from _through([one for state in states for one in (nothing_in(state), state)], list)


def states_reversed(states: Sequence[State]) -> Iterator[Round]:
    """The last state comes first."""
    yield from _through(states[::-1], list)


def all_at_once(states: Sequence[State]) -> Iterator[Round]:
    """The events of all steps are folded before anything is carried out."""
    old = nothing_in(states[0])
    events: list[Event] = []
    for new in states:
        events += changes(old, new)
        old = new
    yield Round(old.facts, tuple(events), old)
    yield Round(old.facts, tuple(changes(old, nothing_in(old))), nothing_in(old))


ORDERS: tuple[Order, ...] = (
    as_written,
    events_reversed,
    events_doubled,
    one_event_a_round,
    nothing_in_between,
    states_reversed,
    all_at_once,
)


def _and_nothing(states: Sequence[State]) -> list[State]:
    return [*states, nothing_in(states[-1])]


def _through(states: Sequence[State], arrange: Callable[[list[Event]], list[Event]]) -> Iterator[Round]:
    old = nothing_in(states[0])
    for new in _and_nothing(states):
        yield Round(new.facts, tuple(arrange(changes(old, new))), new)
        old = new
