"""What a source says of manifests."""

from __future__ import annotations

from collections.abc import Iterable

from kpx.cluster.events import Delete, Event, Upsert
from kpx.model.decode import decode_document
from tests.lab.agent import Object


def said(*objects: Object) -> list[Event]:
    """That these are there, and what they are."""
    found = (one for document in objects for one in decode_document(document, "test").objects)
    return [Upsert(value) for one in found for value in one.values]


def unsaid(old: Iterable[Event], new: Iterable[Event]) -> list[Event]:
    """That those of the old ones which are not among the new ones are gone."""
    left = {_identity(event) for event in new}
    gone = dict.fromkeys(_identity(event) for event in old)
    return [Delete(*identity) for identity in gone if identity not in left]


def _identity(event: Event) -> tuple:
    assert isinstance(event, Upsert)
    return type(event.object), event.object.name
