"""What many files say together depends on what they say now, not on the order in which they came to say it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kpx.cluster.view import ClusterView
from kpx.model.names import ObjectName
from kpx.model.service import Service
from kpx.sources.documents import Held
from kpx.sources.ledger import Ledger, Shelf

HELD = st.builds(
    lambda name, kind: Held("Service", ObjectName("shop", name), 1, (Service(ObjectName("shop", name), type=kind),)),
    st.sampled_from(["tomcat", "web", "dns"]),
    st.sampled_from(["ClusterIP", "NodePort"]),
)
SHELVES = st.lists(HELD, max_size=3, unique_by=lambda held: held.name).map(lambda objects: Shelf(tuple(objects)))
CHANGES = st.dictionaries(st.sampled_from(["a.yaml", "b.yaml", "c.yaml"]), st.none() | SHELVES, max_size=3)


@given(st.lists(CHANGES, max_size=10))
def test_any_history_of_files_ends_where_a_fresh_start_begins(history: list[dict[str, Shelf | None]]) -> None:
    ledger, view = Ledger(), ClusterView()
    files: dict[str, Shelf | None] = {}
    for changes in history:
        for event in ledger.apply(changes):
            view.fold(event)
        files |= changes
    fresh, expected = Ledger(), ClusterView()
    for event in fresh.apply(files):
        expected.fold(event)

    assert view.services == expected.services
    assert list(ledger.findings()) == list(fresh.findings())


@given(st.lists(CHANGES, max_size=10))
def test_every_event_tells_a_difference(history: list[dict[str, Shelf | None]]) -> None:
    """No event is said that changes nothing, so nothing is compiled for nothing (S7)."""
    ledger, view = Ledger(), ClusterView()
    for changes in history:
        for event in ledger.apply(changes):
            view.fold(event)
            assert view.take_dirty()
