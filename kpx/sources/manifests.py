"""
The source that needs no API server: a directory of manifests, watched.

Time enters in two places only. A file that vanishes is believed after `SETTLE_S`, since many editors take the old file away
before they put the new one there, and since a directory that is deleted loses its files first. A directory that vanishes
is looked for again every `RETRY_S`; until it is back, the last state stays in force.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from kpx.cluster.events import Event, Synced
from kpx.errors import SourceError
from kpx.model.findings import Finding
from kpx.sources.base import News
from kpx.sources.directory import ManifestDirectory, directory_error, is_manifest
from kpx.sources.inotify import Changes, DirectoryWatch

SETTLE_S = 0.1
"""A file has to be away this long before its objects go, and no other file may have gone meanwhile."""
SETTLE_AT_MOST_S = 1.0
"""Files that keep vanishing one after the other are not waited for longer than this."""
RETRY_S = 1.0
"""How often a directory that has vanished is looked for."""


def read_directory(directory: str) -> News:
    """
    Read all manifests of a directory once; the events end with `Synced`.

    Raises:
        SourceError: the directory is not there or may not be read.
    """
    files = ManifestDirectory(directory)
    events, _ = files.update(files.names())
    return News((*events, Synced()), files.findings(), time.monotonic())


class ManifestSource:
    """
    Manifests of one directory, not of those below it: *.yaml, *.yml and *.json, save names that start with a dot.

    Implements `kpx.sources.base.Source`. A change of one file costs the reading of that file, however many there are. Links are
    read when they appear or are replaced; a change of a link's target elsewhere is not seen.
    """

    def __init__(self, directory: str) -> None:
        self._files = ManifestDirectory(directory)
        self._watch = DirectoryWatch(directory)
        self._leaving: set[str] = set()
        self._leaving_since = 0.0
        self._settle_at: float | None = None
        self._retry_at: float | None = None
        self._findings: tuple[Finding, ...] = ()

    def start(self) -> News:
        """
        Read everything there is.

        Raises:
            SourceError: the directory is not there or may not be read, or inotify is used up; the message says what to do.
        """
        try:
            self._watch.arm()
        except OSError as error:
            raise directory_error(self._files.directory, error) from error
        news = self._look_at_all()
        return news._replace(events=(*news.events, Synced()))

    def fileno(self) -> int:
        """Return the inotify descriptor, the same from start to close."""
        return self._watch.fileno()

    def poll(self) -> News:
        """Return what happened since the last call, without waiting."""
        changes = self._watch.changes()
        if changes.gone or (changes.unsure and self._retry_at is None):
            self._lose_track()
        if self._retry_at is not None:
            return self._find_directory()
        return self._look_at(changes)

    def deadline(self) -> float | None:
        """Return when `poll` wants to be called next even if nothing happens."""
        return self._settle_at if self._retry_at is None else self._retry_at

    def heard_at(self) -> Mapping[str, float]:
        """Return nothing: a directory nobody writes to is silent, and well."""
        return {}

    def close(self) -> None:
        """Release the descriptor; idempotent."""
        self._watch.close()

    def _look_at(self, changes: Changes) -> News:
        """Read the files that changed, and forget those that have been away long enough."""
        files = self._files
        read = {name for name in changes.written if is_manifest(name)}
        read |= {name for name in changes.touched if files.is_unreadable(name)}
        moved = {old for old, new in changes.renamed.items() if is_manifest(old) and is_manifest(new)}
        self._wait_for({name for name in changes.removed if is_manifest(name)} - moved)
        gone = self._settled()
        if not (read or moved or gone):
            return News((), self._findings, time.monotonic())
        events, missing = files.update(read, moved | gone)
        read_at = time.monotonic()
        self._wait_for(set(missing))
        return self._news(events, read_at)

    def _look_at_all(self) -> News:
        """Look at every file there is."""
        names = self._files.names()
        events, missing = self._files.update(names)
        read_at = time.monotonic()
        self._leaving.clear()
        self._wait_for(set(self._files.known().difference(names) | missing))
        return self._news(events, read_at)

    def _wait_for(self, names: set[str]) -> None:
        """Begin to wait whether names that are gone come back."""
        if not names:
            return
        now = time.monotonic()
        if not self._leaving:
            self._leaving_since = now
        self._leaving |= names
        self._settle_at = min(now + SETTLE_S, self._leaving_since + SETTLE_AT_MOST_S)

    def _settled(self) -> set[str]:
        """Return the names that are gone for good; one that is back is not read, for its writer has yet to close it."""
        if self._settle_at is None or time.monotonic() < self._settle_at:
            return set()
        gone = {name for name in self._leaving if not self._files.exists(name)}
        self._leaving.clear()
        self._settle_at = None
        return gone

    def _lose_track(self) -> None:
        """Begin to look for the directory, at once and then from time to time; what is in force stays."""
        self._watch.disarm()
        self._leaving.clear()
        self._settle_at = None
        self._retry_at = time.monotonic()

    def _find_directory(self) -> News:
        """Watch and read the directory again if it is back."""
        now = time.monotonic()
        if self._retry_at is not None and now < self._retry_at:
            return News((), self._findings, now)
        try:
            self._watch.arm()
            news = self._look_at_all()
        except (OSError, SourceError) as error:
            self._retry_at = now + RETRY_S
            wrong = directory_error(self._files.directory, error) if isinstance(error, OSError) else error
            message = f"{wrong}; until then the last state stays in force"
            self._findings = (Finding(self._files.directory, "", message), *self._files.findings())
            return News((), self._findings, now)
        self._retry_at = None
        return news

    def _news(self, events: list[Event], read_at: float) -> News:
        """Return news after files have been looked at."""
        self._findings = self._files.findings()
        return News(tuple(events), self._findings, read_at)
