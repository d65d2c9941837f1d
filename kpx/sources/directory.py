"""
A directory of manifests: which of its names are manifests, how one is read, and what all of them say together.

Every file is read as a whole, and only parsed when its bytes differ from last time. A file that cannot be read keeps
its last good content in force, like one that cannot be parsed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable
from typing import Final

from kpx.cluster.events import Event
from kpx.errors import SourceError
from kpx.model.findings import Finding
from kpx.sources.documents import read_content
from kpx.sources.ledger import Ledger, Shelf, shelve

LONGEST_FILE: Final = 256 << 20
"""Bytes of a file that are read; a hundred thousand Services of ten endpoints are half of it."""

_PIECE: Final = 1 << 20

_ENDINGS = (".yaml", ".yml", ".json")
_REMEDIES = {
    PermissionError: "kpx may not read it; give the agent's user read permission",
    IsADirectoryError: "it is a directory; kpx does not look into directories, move its files up",
}


def is_manifest(name: str) -> bool:
    """Tell whether a name in the directory is one kpx reads."""
    return name.endswith(_ENDINGS) and not name.startswith(".")


class ManifestDirectory:
    """
    The files of one directory and what they say.

    Names are looked at when asked for only; nobody is asked what changed.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._ledger = Ledger()
        self._digests: dict[str, bytes] = {}
        self._unreadable: set[str] = set()

    def names(self) -> list[str]:
        """
        Return the names of all manifests there are, sorted.

        Raises:
            SourceError: the directory is not there or may not be read; the message says what to do.
        """
        try:
            return sorted(name for name in os.listdir(self.directory) if is_manifest(name))
        except OSError as error:
            raise directory_error(self.directory, error) from error

    def known(self) -> frozenset[str]:
        """Return the names that have been read, or tried."""
        return frozenset(self._digests) | self._unreadable

    def is_unreadable(self, name: str) -> bool:
        """Tell whether a file could not be read last time."""
        return name in self._unreadable

    def exists(self, name: str) -> bool:
        """Tell whether a name is there; a link to nowhere is not, what cannot be looked at is."""
        try:
            os.stat(self._path(name))
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def update(self, read: Iterable[str], remove: Iterable[str] = ()) -> tuple[list[Event], frozenset[str]]:
        """
        Read and forget files, all as one change.

        Returns:
            the events, and those names of `read` that are not there.
        """
        changes: dict[str, Shelf | None] = {}
        missing = set()
        for name in remove:
            changes[self._path(name)] = None
            self._digests.pop(name, None)
            self._unreadable.discard(name)
        for name in sorted(set(read)):
            try:
                shelf = self._read(name)
            except FileNotFoundError:
                missing.add(name)
                continue
            if shelf is not None:
                changes[self._path(name)] = shelf
        return self._ledger.apply(changes), frozenset(missing)

    def findings(self) -> tuple[Finding, ...]:
        """Return everything that is wrong with the files."""
        return tuple(self._ledger.findings())

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _read(self, name: str) -> Shelf | None:
        """Return what is in force of a file now, None when nothing has changed."""
        path = self._path(name)
        before = self._ledger.shelf(path)
        try:
            data = read_bytes(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            self._unreadable.add(name)
            self._digests.pop(name, None)
            remedy = _REMEDIES.get(type(error), error.strerror or "it cannot be read")
            kept = "; what the file said before stays in force" if before.objects else ""
            return Shelf(before.objects, (Finding(path, "", remedy + kept),))
        self._unreadable.discard(name)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if self._digests.get(name) == digest:
            return None
        self._digests[name] = digest
        return shelve(path, read_content(path, data), before)


def read_bytes(path: str) -> bytes:
    """
    Return a file's bytes.

    Raises:
        OSError: it cannot be read, is too long or is no regular file; a FIFO is not waited for.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        state = os.fstat(descriptor)
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(path)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(0, "it is not a regular file")
        if state.st_size > LONGEST_FILE:
            raise _too_long()
        data = file.read(state.st_size + 1)
        while more := file.read(_PIECE):  # it grows
            data += more
            if len(data) > LONGEST_FILE:
                raise _too_long()
        return data


def _too_long() -> OSError:
    return OSError(errno.EFBIG, f"it is longer than {LONGEST_FILE >> 20} MiB; split it")


def directory_error(directory: str, error: OSError) -> SourceError:
    """Return the error for a manifests directory that cannot be used."""
    if isinstance(error, FileNotFoundError):
        return SourceError(f"directory {directory} does not exist; create it or give another one with --manifests")
    if isinstance(error, NotADirectoryError):
        return SourceError(f"{directory} is not a directory; --manifests takes the directory the files are in")
    if isinstance(error, PermissionError):
        return SourceError(f"directory {directory} may not be read; give the agent's user read and search permission")
    return SourceError(f"directory {directory}: {error.strerror}")
