"""Read the connections IPVS knows from /proc (see `kpx.kernel.wire.ip_vs_conn`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kpx.kernel.wire.ip_vs_conn import Connection, read_connections

CONNECTIONS: Final = Path("/proc/thread-self/net/ip_vs_conn")
"""Of the network namespace of the calling thread."""


def connections(path: Path = CONNECTIONS) -> Iterator[Connection]:
    """Yield what IPVS knows; nothing where there is no IPVS."""
    try:
        with path.open(encoding="ascii", errors="replace") as lines:
            yield from read_connections(lines)
    except FileNotFoundError:
        return
