"""
How long to wait before another try: full jitter, so that a thousand agents do not come back as one. Pure.

Source: Marc Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from typing import Final

FIRST_S: Final = 0.8
"""Longest pause after the first failure, seconds; it doubles with each further one."""

SHORTEST_S: Final = 0.1
"""Shortest pause, seconds."""

LIMIT_S: Final = 30.0
"""Longest pause whatever happened, seconds."""

ASKED_LIMIT_S: Final = 120.0
"""Longest pause a server may ask for, seconds; some proxies ask for an hour."""


def pause_s(failures: int, chance: float, asked_s: float = 0.0) -> float:
    """
    Return a pause, seconds.

    Args:
        failures: how many tries failed in a row, from 1.
        chance: a random number, 0 <= chance < 1.
        asked_s: what the server asked for (Retry-After); it is never come back earlier than that, nor all at once.
    """
    longest = min(FIRST_S * 2.0 ** min(failures - 1, 16), LIMIT_S)
    return max(SHORTEST_S, chance * longest) + min(asked_s, ASKED_LIMIT_S)
