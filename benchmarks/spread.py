"""What many measurements of one thing say together. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """Median, 99th percentile, the quartiles beside the median, and how many values there were."""

    median: float
    p99: float
    low: float
    high: float
    count: int


def percentile(values: Sequence[float], share: float) -> float:
    """
    Return the smallest value that at least this share of all values does not exceed.

    Args:
        values: at least one. share: above 0, at most 1.
    """
    ordered = sorted(values)
    rank = -int(-share * len(ordered) // 1)  # rounded up
    return ordered[max(rank, 1) - 1]


def spread(values: Sequence[float]) -> Spread:
    """Return what at least one value says."""
    return Spread(
        statistics.median(values), percentile(values, 0.99), percentile(values, 0.25), percentile(values, 0.75), len(values)
    )


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Divide each value by the one that was measured next to it, so that a busy moment, which hits both, cancels out."""
    return [value / other for value, other in zip(values, others, strict=True)]


def growth(values: Sequence[float]) -> float:
    """
    Return how many times the median of the first fifth the median of the last fifth is: 1 where nothing grows.

    Args:
        values: at least five, in the order they came.
    """
    part = len(values) // 5
    return statistics.median(values[-part:]) / statistics.median(values[:part])


def uncertainty(values: Sequence[float]) -> float:
    """
    Return how far the median may be off: half of a 95 % interval.

    It is 1.57 times the range between the quartiles, divided by the root of the count.

    Source: McGill, Tukey, Larsen, Variations of Box Plots, The American Statistician 32 (1978): the notches.
    """
    found = spread(values)
    return 1.57 * (found.high - found.low) / found.count**0.5
