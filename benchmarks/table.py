"""Numbers as a person reads them: rows of a table in line, durations and sizes with three digits that matter. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """
    Return rows as lines: the first column flush left, all others flush right, two spaces between.

    Args:
        rows: the first is the heading; short ones end early.
    """
    columns = max(map(len, rows), default=0)
    widths = [max((len(row[column]) for row in rows if column < len(row)), default=0) for column in range(columns)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join(cells).rstrip())
    if len(lines) > 1:
        lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, of which the first is the heading and the longest, as a table of Markdown."""
    columns = len(rows[0])
    full = [[*row, *[""] * (columns - len(row))] for row in rows]
    full.insert(1, ["---", *["---:"] * (columns - 1)])
    return "\n".join(f"| {' | '.join(row)} |" for row in full)


def seconds(value: float | None) -> str:
    """Spell a duration; nothing for None."""
    if value is None:
        return ""
    if value >= 0.9995:
        return f"{value:.3g} s"
    return f"{value * 1e3:.3g} ms" if value >= 0.9995e-3 else f"{value * 1e6:.3g} us"


def megabytes(size: float | None) -> str:
    """Spell a size in bytes; nothing for None."""
    return "" if size is None else f"{size / 1e6:,.0f} MB"


def times(value: float | None) -> str:
    """Spell a ratio; nothing for None."""
    return "" if value is None else f"{value:.2f} x"
