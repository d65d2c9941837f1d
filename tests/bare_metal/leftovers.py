"""What two looks at a machine (guest/state.py) differ in: what an installation left behind, in lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leftovers(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """
    Tell what is there now and was not, and what is gone or other than it was.

    A whole new directory is one line.
    """
    return [*_files(before["files"], after["files"]), *_kernel(before["kernel"], after["kernel"]), *_processes(before, after)]


def _files(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    new = {path for path in after if path not in before}
    for path in sorted(new):
        if path.rpartition("/")[0] not in new:
            yield f"file {path} is left"
    for path, what in sorted(before.items()):
        if path not in after:
            yield f"file {path} is gone"
        elif after[path] != what:
            yield f"file {path} was changed"


def _kernel(before: Mapping[str, list[str]], after: Mapping[str, list[str]]) -> Iterator[str]:
    for name, lines in after.items():
        were = before.get(name, [])
        yield from (f"{name}: {line} is left" for line in lines if line not in were)
        yield from (f"{name}: {line} is gone" for line in were if line not in lines)


def _processes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"process {text} is left" for text in after["processes"] if text not in before["processes"])
