"""
Listening to a source that may fail, and to another one in its place after a reload.

What a source said stays in force while it is silent (16.5), so a failure here is a line in the log and another try. After a
reload the former source is listened to until the new one has said everything, which may take as long as the API server is away.
"""

from __future__ import annotations

import logging
import selectors
import time
from collections.abc import Callable, Mapping
from typing import Final

from kpx import log
from kpx.cluster.events import Event, Synced
from kpx.errors import SourceError
from kpx.model.findings import Finding, Severity
from kpx.sources.base import News, Source

logger = logging.getLogger(__name__)

RETRY_S: Final = 1.0
"""Pause before a source that failed is asked again, seconds."""


class Hearing:
    """
    The source in use, registered with the selector while it is well, and the one that is to take its place, if any.

    Args:
        open_source: opens the source, now and for each reload.
        selector: where it is waited for.
        readable: what the selector is to call; expected to call `poll`.
    """

    def __init__(self, open_source: Callable[[], Source], selector: selectors.BaseSelector, readable: Callable[[], None]) -> None:
        self._open_source = open_source
        self._selector = selector
        self._readable = readable
        self._retry_at: float | None = None
        self._listening = False
        self._source = open_source()
        self._successor: Source | None = None
        self._gathered: list[Event] = []
        self._obstacles: tuple[Finding, ...] = ()

    @property
    def source(self) -> Source:
        """Return the source in use; another one after a reload."""
        return self._source

    def start(self) -> News:
        """Return all there is so far and listen from now on; raises SourceError when nothing can be read."""
        news = self._source.start()
        self._listen()
        return news

    def poll(self) -> News:
        """Return what happened; nothing while the source fails, everything anew once the successor has said it."""
        if self._successor is not None:
            news = self._ask_successor(self._successor)
            if news is not None:
                return news
        news = self._ask_source()
        # Two sources would say twice that one API server is away; what only the successor has to say is worth a line.
        if not any(finding.severity is Severity.ERROR for finding in news.findings):
            news = news._replace(findings=(*news.findings, *self._obstacles))
        return news

    def deadline(self) -> float | None:
        """Return when `poll` is to be called though nothing is readable, monotonic seconds, or None."""
        mine = self._source.deadline() if self._retry_at is None else self._retry_at
        other = None if self._successor is None else self._successor.deadline()
        return min((at for at in (mine, other) if at is not None), default=None)

    def heard_at(self) -> Mapping[str, float]:
        """Return when the source in use was last heard of, see `Source.heard_at`; may be called from other threads."""
        return self._source.heard_at()

    def reopen(self) -> News | None:
        """
        Open the source anew and return all there is.

        Returns:
            None when that fails, and the old one stays; or when it takes its time: then `poll` returns it later, and until then
            what the old one says.
        """
        try:
            source = self._open_source()
        except SourceError as error:
            log.event(logger, logging.ERROR, "reload failed, everything stays as it was", error=error)
            return None
        try:
            news = source.start()
        except SourceError as error:
            source.close()
            log.event(logger, logging.ERROR, "reload failed, everything stays as it was", error=error)
            return None
        self._dismiss()
        self._gathered = list(news.events)
        if _is_whole(news):
            return self._replace(source, news)
        self._successor = source
        self._selector.register(source.fileno(), selectors.EVENT_READ, self._readable)
        log.event(logger, logging.INFO, "reload: reading everything again; what is known stays in force until that is done")
        return None

    def close(self) -> None:
        """Stop listening and close the source; idempotent."""
        self._dismiss()
        self._quit()
        self._source.close()

    def _ask_source(self) -> News:
        if self._retry_at is not None and time.monotonic() < self._retry_at:
            return News()
        try:
            news = self._source.poll()
        except SourceError as error:
            if self._retry_at is None:
                self._quit()
                log.event(logger, logging.ERROR, "the source failed; what it said stays in force", error=error)
            self._retry_at = time.monotonic() + RETRY_S
            return News()
        if self._retry_at is not None:
            self._retry_at = None
            self._listen()
            log.event(logger, logging.INFO, "the source is back")
        return news

    def _ask_successor(self, source: Source) -> News | None:
        """Gather what the successor says; return all of it once it is everything."""
        try:
            news = source.poll()
        except SourceError as error:
            self._dismiss()
            log.event(logger, logging.ERROR, "reload failed, everything stays as it was", error=error)
            return None
        self._gathered += news.events
        self._obstacles = tuple(finding for finding in news.findings if finding.severity is Severity.ERROR)
        if not _is_whole(news):
            return None
        self._selector.unregister(source.fileno())
        self._successor = None
        return self._replace(source, news)

    def _replace(self, source: Source, news: News) -> News:
        """Let a source that has said everything take the place of the one in use."""
        self._quit()
        self._source.close()
        self._source, self._retry_at = source, None
        self._obstacles = ()
        self._listen()
        gathered, self._gathered = tuple(self._gathered), []
        return news._replace(events=gathered, anew=True)

    def _dismiss(self) -> None:
        """Let go of a successor that has not said everything."""
        source, self._successor = self._successor, None
        self._gathered, self._obstacles = [], ()
        if source is not None:
            self._selector.unregister(source.fileno())
            source.close()

    def _listen(self) -> None:
        self._selector.register(self._source.fileno(), selectors.EVENT_READ, self._readable)
        self._listening = True

    def _quit(self) -> None:
        if self._listening:
            self._selector.unregister(self._source.fileno())
            self._listening = False


def _is_whole(news: News) -> bool:
    """Tell whether everything has been said (S9)."""
    return any(isinstance(event, Synced) for event in news.events)
