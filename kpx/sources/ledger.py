"""
Which file says what: many files, one truth, and the events that lead from one truth to the next.

When two files (or two documents of a file) speak of the same object, the file whose name sorts first is right, then the
first document; the other one gets a finding and takes over when the first goes. The truth therefore depends on
what the files say now, not on the order in which they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from kpx.cluster.events import Delete, Event, Object, Upsert
from kpx.model.findings import Finding
from kpx.model.names import ObjectName
from kpx.sources.documents import Content, Held

Key = tuple[str, ObjectName]


class Shelf(NamedTuple):
    """
    What one file says that is in force.

    Args:
        objects: each kind and name once.
        findings: what is wrong with the file itself.
    """

    objects: tuple[Held, ...] = ()
    findings: tuple[Finding, ...] = ()


def shelve(path: str, content: Content, before: Shelf) -> Shelf:
    """
    Return what is in force of a file after it was read.

    An object that fails keeps its last good version from this file; a file that cannot be parsed keeps everything.
    """
    if not content.whole:
        return Shelf(before.objects, content.findings)
    chosen: dict[Key, Held] = {}
    findings = list(content.findings)
    for held in content.objects:
        first = chosen.setdefault((held.kind, held.name), held)
        if first is not held:
            findings.append(_repeated(held, path, f"{path}:{first.line}", "comes first"))
    for held in before.objects if content.failed else ():
        if (held.kind, held.name) in content.failed:
            chosen.setdefault((held.kind, held.name), held)
    return Shelf(tuple(chosen.values()), tuple(findings))


class Ledger:
    """The shelves of all files, by path; paths sort as their names do, since all are in one directory."""

    def __init__(self) -> None:
        self._shelves: dict[str, Shelf] = {}
        self._holders: dict[Key, tuple[str, ...]] = {}
        self._contested: set[Key] = set()
        self._faulty: set[str] = set()

    def shelf(self, path: str) -> Shelf:
        """Return what is in force of a file, an empty shelf for an unknown one."""
        return self._shelves.get(path, _EMPTY)

    def apply(self, changes: Mapping[str, Shelf | None]) -> list[Event]:
        """
        Replace shelves, None for a file that is gone, and return the events that tell the difference.

        All changes count as one: an object that moves from one file to another unchanged is no event. The cost
        depends on the changed files only.
        """
        news: list[Event] = []
        others = changes
        if not self._shelves:
            others = {path: shelf for path, shelf in changes.items() if not self._is_all_new(path, shelf, news)}
        affected = {
            (held.kind, held.name): None
            for path, shelf in others.items()
            for held in (*self.shelf(path).objects, *(shelf.objects if shelf else ()))
        }
        before = self._values(affected)
        for path, shelf in others.items():
            self._replace(path, shelf)
        after = self._values(affected)
        news += [event for key in affected for event in _difference(before.get(key, ()), after.get(key, ()))]
        return news

    def findings(self) -> Iterator[Finding]:
        """Yield everything that is wrong: per file, in order of path, then the repeated objects."""
        for path in sorted(self._faulty):
            yield from self._shelves[path].findings
        indexes = _Indexes(self._shelves)
        for key in sorted(self._contested):
            winner, *losers = self._holders[key]
            for loser in losers:
                yield _repeated(indexes[loser][key], loser, f"{winner}:{indexes[winner][key].line}", "sorts first")

    def _is_all_new(self, path: str, shelf: Shelf | None, news: list[Event]) -> bool:
        """Take in a file of objects nobody spoke of so far, as nearly all are at start, without comparing; else return False."""
        if shelf is None:
            return False
        keys = [(held.kind, held.name) for held in shelf.objects]
        if not self._holders.keys().isdisjoint(keys):
            return False
        self._holders.update(dict.fromkeys(keys, (path,)))
        self._shelves[path] = shelf
        if shelf.findings:
            self._faulty.add(path)
        news += [Upsert(value) for held in shelf.objects for value in held.values]
        return True

    def _replace(self, path: str, shelf: Shelf | None) -> None:
        """Put a shelf in the place of a file's former one."""
        old = {(held.kind, held.name) for held in self.shelf(path).objects}
        new = {(held.kind, held.name) for held in shelf.objects} if shelf else set()
        for key in old - new:
            self._set_holders(key, (holder for holder in self._holders[key] if holder != path))
        for key in new - old:
            self._set_holders(key, (*self._holders.get(key, ()), path))
        if shelf is None:
            self._shelves.pop(path, None)
        else:
            self._shelves[path] = shelf
        (self._faulty.add if shelf and shelf.findings else self._faulty.discard)(path)

    def _set_holders(self, key: Key, paths: Iterable[str]) -> None:
        """Note which files hold an object, the one that is right first."""
        holders = tuple(sorted(paths))
        if holders:
            self._holders[key] = holders
        else:
            self._holders.pop(key, None)
        (self._contested.add if len(holders) > 1 else self._contested.discard)(key)

    def _values(self, keys: Iterable[Key]) -> dict[Key, tuple[Object, ...]]:
        """Return the values in force of those objects that exist."""
        indexes = _Indexes(self._shelves)
        return {key: indexes[self._holders[key][0]][key].values for key in keys if key in self._holders}


class _Indexes(dict[str, dict[Key, Held]]):
    """The objects of files by kind and name; made when asked for and not kept, for most files hold a single object."""

    def __init__(self, shelves: Mapping[str, Shelf]) -> None:
        super().__init__()
        self._shelves = shelves

    def __missing__(self, path: str) -> dict[Key, Held]:
        self[path] = {(held.kind, held.name): held for held in self._shelves[path].objects}
        return self[path]


_EMPTY = Shelf()


def _repeated(held: Held, path: str, winner: str, why: str) -> Finding:
    """Return the finding for an object that is said twice."""
    message = f"{held.kind} {held.name} is also in {winner}, which {why} and is used; remove one of them"
    return Finding(f"{path}:{held.line}", "", message)


def _difference(before: tuple[Object, ...], after: tuple[Object, ...]) -> Iterator[Event]:
    """Yield what turns the former values of one object into the present ones."""
    if before == after:
        return
    old = {(type(value), value.name): value for value in before}
    new = {(type(value), value.name): value for value in after}
    for kind, name in old.keys() - new.keys():
        yield Delete(kind, name)
    for key, value in new.items():
        if old.get(key) != value:
            yield Upsert(value)
