"""
What happens in one directory, from the kernel's inotify, reduced to what a reader of its files needs to know.

A file counts as written when its writer closes it or when it is moved into place, so a half-written file is never an
event. That is why inotify is used directly: portable watchers (watchfiles, watchdog's generic face) report a file as
soon as it exists or grows, and cannot tell closed from still open.
Source: inotify(7).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from inotify_simple import INotify, flags

from kpx.errors import SourceError

_MASK = (
    flags.CLOSE_WRITE
    | flags.MOVED_TO
    | flags.MOVED_FROM
    | flags.DELETE
    | flags.CREATE
    | flags.ATTRIB
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
)
_GONE = flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT | flags.IGNORED


class Changes(NamedTuple):
    """
    What happened to the names in a directory; the last word on each name counts.

    Args:
        written: complete files that are new or changed (closed, moved in, linked), and new directories.
        removed: names that are gone, perhaps only until an editor puts the new version there.
        touched: names whose permissions or times changed.
        renamed: the new names of those removed ones whose file was renamed within the directory.
        unsure: whether everything has to be looked at, since events were lost or the content was swapped as a whole
            (a Kubernetes volume does so by renaming `..data`).
        gone: whether the directory itself is no longer there.
    """

    written: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    touched: frozenset[str] = frozenset()
    renamed: Mapping[str, str] = MappingProxyType({})
    unsure: bool = False
    gone: bool = False


class DirectoryWatch:
    """A watch on a directory; the descriptor stays the same while the directory goes and comes."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._inotify: INotify | None = None
        self._watch = -1

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when something happened."""
        return int(self._open().fileno())

    def arm(self) -> None:
        """
        Watch the directory that has the path now.

        Raises:
            OSError: there is none, or it may not be read.
            SourceError: the kernel's limits on watches are used up.
        """
        inotify = self._open()
        self.disarm()
        try:
            self._watch = inotify.add_watch(self._directory, _MASK)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise SourceError("no inotify watch is left; raise the sysctl fs.inotify.max_user_watches") from error
            raise

    def disarm(self) -> None:
        """Stop watching; idempotent."""
        if self._inotify is not None and self._watch >= 0:
            try:
                self._inotify.rm_watch(self._watch)
            except OSError as error:
                if error.errno != errno.EINVAL:  # the kernel has dropped it already, with the directory
                    raise
        self._watch = -1

    def changes(self) -> Changes:
        """Return what happened since the last call, without waiting."""
        words: dict[str, str] = {}
        moved: dict[int, str] = {}
        renamed: dict[str, str] = {}
        unsure = gone = False
        for event in self._open().read(timeout=0):
            if event.mask & flags.Q_OVERFLOW or event.name.startswith(".."):
                unsure = True
            elif event.wd != self._watch:
                continue
            elif event.mask & _GONE:
                gone = True
            elif event.name:
                words[event.name] = self._word(event.mask, event.name, words.get(event.name, ""))
                renamed.pop(event.name, None)
                if event.mask & flags.MOVED_FROM:
                    moved[event.cookie] = event.name
                elif event.mask & flags.MOVED_TO and event.cookie in moved:
                    renamed[moved[event.cookie]] = event.name
        written, removed, touched = (
            frozenset(name for name in words if words[name] == word) for word in ("written", "removed", "touched")
        )
        return Changes(written, removed, touched, renamed, unsure, gone)

    def close(self) -> None:
        """Release the descriptor; idempotent."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
            self._watch = -1

    def _open(self) -> INotify:
        """Return the inotify instance, made on first use."""
        if self._inotify is None:
            try:
                self._inotify = INotify(nonblocking=True)
            except OSError as error:
                raise SourceError(f"inotify: {error.strerror}; raise the sysctl fs.inotify.max_user_instances") from error
        return self._inotify

    def _word(self, mask: int, name: str, before: str) -> str:
        """Return what an event makes of a name; `before` is what the events before it made of it, "" for nothing."""
        if mask & (flags.DELETE | flags.MOVED_FROM):
            return "removed"
        if mask & (flags.CLOSE_WRITE | flags.MOVED_TO):
            return "written"
        if mask & flags.ATTRIB:
            return before or "touched"
        # Created: a regular file will be closed by its writer, which is the event; links and directories will not
        return "written" if mask & flags.ISDIR or self._is_link(name) else before

    def _is_link(self, name: str) -> bool:
        """Tell whether a name is a symbolic link, or one of several names of a file."""
        try:
            status = os.lstat(os.path.join(self._directory, name))
        except OSError:
            return False
        return stat.S_ISLNK(status.st_mode) or status.st_nlink > 1
