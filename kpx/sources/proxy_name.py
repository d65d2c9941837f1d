"""
Beside another proxy: what a source says, to an agent that forwards only the Services labelled with its name.

Every source is heard through this, whether or not it has asked an API server for these Services only: the re-check of S3.
ServiceCIDRs are left out, since what they promise does not hold beside another proxy: a ClusterIP that no Service of ours
has (R6) is then not nobody's but somebody else's, and dropping its packets would cut that one off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kpx.cluster.events import Delete, Event, Upsert
from kpx.model.node import ServiceCIDR
from kpx.model.service import Service, for_proxy
from kpx.sources.base import News, Source


def heard_as(events: Iterable[Event], name: str) -> tuple[Event, ...]:
    """
    Return events as an agent is to hear them that goes by a name; unchanged without one ("").

    Pure and per event, so an object that loses or gains the label is an event like any other.
    """
    if not name:
        return tuple(events)
    return tuple(_renamed(event, name) for event in events if not _of_everybody(event))


def _renamed(event: Event, name: str) -> Event:
    if isinstance(event, Upsert) and isinstance(event.object, Service):
        return Upsert(for_proxy(event.object, name))
    return event


def _of_everybody(event: Event) -> bool:
    kind = type(event.object) if isinstance(event, Upsert) else event.kind if isinstance(event, Delete) else None
    return kind is ServiceCIDR


class NamedSource:
    """
    A source as an agent hears it that goes by a name; implements `kpx.sources.base.Source`, and owns the source it is given.

    Args:
        source: any source.
        name: value of the label; not empty.
    """

    def __init__(self, source: Source, name: str) -> None:
        self._source = source
        self._name = name

    @property
    def inner(self) -> Source:
        """Return the source it was given."""
        return self._source

    def start(self) -> News:
        """Return all there is, see `Source.start`."""
        return self._news(self._source.start())

    def fileno(self) -> int:
        """Return the descriptor of the source."""
        return self._source.fileno()

    def poll(self) -> News:
        """Return what happened, see `Source.poll`."""
        return self._news(self._source.poll())

    def deadline(self) -> float | None:
        """Return when the source wants to be asked next."""
        return self._source.deadline()

    def heard_at(self) -> Mapping[str, float]:
        """Return when the source was last heard of."""
        return self._source.heard_at()

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _news(self, news: News) -> News:
        return news._replace(events=heard_as(news.events, self._name))
