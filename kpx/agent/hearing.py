"""
Listening to a source that may fail, and to another one in its place after a reload.

What a source said stays in force while it is silent (16.5), so a failure here is a line in the log and another try.
"""

from __future__ import annotations

import logging
import selectors
import time
from collections.abc import Callable
from typing import Final

from kpx import log
from kpx.errors import SourceError
from kpx.sources.base import News, Source

logger = logging.getLogger(__name__)

RETRY_S: Final = 1.0
"""Pause before a source that failed is asked again, seconds."""


class Hearing:
    """
    The source in use, registered with the selector while it is well.

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

    def start(self) -> News:
        """Return all there is and listen from now on; raises SourceError when nothing can be read."""
        news = self._source.start()
        self._listen()
        return news

    def poll(self) -> News:
        """Return what happened; nothing while the source fails."""
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

    def deadline(self) -> float | None:
        """Return when `poll` is to be called though nothing is readable, monotonic seconds, or None."""
        return self._source.deadline() if self._retry_at is None else self._retry_at

    def reopen(self) -> News | None:
        """Open the source anew and return all there is, None when that fails; then the old one stays."""
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
        self.close()
        self._source, self._retry_at = source, None
        self._listen()
        return news

    def close(self) -> None:
        """Stop listening and close the source; idempotent."""
        self._quit()
        self._source.close()

    def _listen(self) -> None:
        self._selector.register(self._source.fileno(), selectors.EVENT_READ, self._readable)
        self._listening = True

    def _quit(self) -> None:
        if self._listening:
            self._selector.unregister(self._source.fileno())
            self._listening = False
