"""Reading a source once, for verbs that do one thing and end: wait until everything was said, but not for ever."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Iterable
from typing import Final

from kpx.agent.assemble import open_source
from kpx.cluster.events import Event, Synced
from kpx.errors import SourceError
from kpx.model.findings import Finding, Severity
from kpx.settings.config import Config
from kpx.sources.base import News, Source
from kpx.sources.manifests import read_directory
from kpx.sources.proxy_name import heard_as

READ_S: Final = 30.0
"""How long a source may take to say everything, seconds."""


def read_source(config: Config) -> News:
    """
    Return everything the source of these settings says now.

    Raises:
        ConfigError: they name none. SourceError: it cannot be read, or takes too long.
    """
    if config.manifests:
        # Nobody waits for a change, so the directory need not be watched.
        news = read_directory(config.manifests)
        return news._replace(events=heard_as(news.events, config.service_proxy_name))
    with contextlib.closing(open_source(config, once=True)) as source:
        return read_all(source)


def read_all(source: Source, longest_s: float = READ_S) -> News:
    """
    Start a source and return what it says up to `Synced`.

    Raises:
        SourceError: it cannot be read, or takes longer than `longest_s` seconds; then the message says what it waits for.
    """
    give_up_at = time.monotonic() + longest_s
    news = source.start()
    events: list[Event] = list(news.events)
    while not any(isinstance(event, Synced) for event in news.events):
        now = time.monotonic()
        if now >= give_up_at:
            raise SourceError(_waiting_for(news.findings, longest_s))
        due = source.deadline()
        wake_at = give_up_at if due is None else min(due, give_up_at)
        select.select([source], [], [], max(0.0, wake_at - now))
        news = source.poll()
        events += news.events
    return news._replace(events=tuple(events))


def _waiting_for(findings: Iterable[Finding], longest_s: float) -> str:
    reason = next((str(finding) for finding in findings if finding.severity is Severity.ERROR), "it has not said everything yet")
    return f"{reason}; gave up after {longest_s:.0f} s"
