"""
How answers look: aligned plain text, or JSON or YAML with documented keys.

Text is never cut to the width of a terminal, since half an IPv6 address helps nobody and pipes have no width. Colour is
for terminals only and NO_COLOR switches it off. Answers go to stdout, everything else to stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import click

Json = Any
"""What json.dumps takes; the keys of each verb's answer are in docs/cli.md."""

FORMATS = ("json", "yaml", "wide")

SLOW_S = 1.0
"""Seconds after which a terminal is told what is being waited for."""

output_option = click.option(
    "-o", "--output", "output", type=click.Choice(FORMATS),
    help="Print JSON or YAML (stable keys, see docs/cli.md), or a table with all columns; default: a table.",
)  # fmt: skip


def emit(output: str | None, data: Json, text: Callable[[], str]) -> None:
    """Print an answer: `data` as JSON or YAML if asked, else the text that `text` makes."""
    if output == "json":
        click.echo(json.dumps(data, indent=2))
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=False), nl=False)
    else:
        shown = text()
        if shown:
            click.echo(shown)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows below their headers in aligned columns, two spaces apart, without trailing spaces; never cut."""
    cells = [tuple(cell or "-" for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    lines = [_line(headers, widths)] + [_line(row, widths) for row in cells]
    return "\n".join([bold(lines[0]), *lines[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def bold(text: str) -> str:
    """Return the text in bold, on a terminal that may show it."""
    return click.style(text, bold=True) if coloured() else text


def coloured() -> bool:
    """Tell whether stdout is a terminal whose owner has nothing against colour (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def note(message: str) -> None:
    """Say something on stderr that is not the answer."""
    click.echo(f"kpx: {message}", err=True)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Tell a terminal on stderr what is taking longer than a second; wipe the line when it is over."""
    if not sys.stderr.isatty():
        yield
        return
    shown = threading.Event()

    def show() -> None:
        shown.set()
        sys.stderr.write(f"{what} ...")
        sys.stderr.flush()

    timer = threading.Timer(SLOW_S, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if shown.is_set():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
