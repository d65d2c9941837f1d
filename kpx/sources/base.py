"""The seam between the agent and a source: a file descriptor to wait on, and what has happened since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from kpx.cluster.events import Event
from kpx.model.addresses import Address
from kpx.model.findings import Finding


class News(NamedTuple):
    """
    What a source has to say at one moment.

    Args:
        events: in the order to fold them.
        findings: all findings in force now, not only new ones; the agent logs what appeared and what went away.
        read_at: monotonic seconds when the input of these events had been read, for the change-to-kernel latency.
        anew: the events are everything there is, and nothing that was said before counts.
        servers: where the source reaches an API server; nothing when there is none, or none was found yet.
    """

    events: tuple[Event, ...] = ()
    findings: tuple[Finding, ...] = ()
    read_at: float = 0.0
    anew: bool = False
    servers: frozenset[Address] = frozenset()


class Source(Protocol):
    """A source of events for one agent; used from one thread."""

    def start(self) -> News:
        """
        Read everything there is; the events end with `Synced`, or it comes with a later `poll` where reading takes its time.

        Raises:
            SourceError: nothing can be read.
        """

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when `poll` has something to say."""

    def poll(self) -> News:
        """Return what happened since the last call, without waiting; possibly nothing."""

    def deadline(self) -> float | None:
        """Return the monotonic time at which `poll` wants to be called even if the descriptor stays quiet, or None."""

    def heard_at(self) -> Mapping[str, float]:
        """
        Return when the source was last heard of, monotonic seconds, by kind of object; nothing where silence means nothing.

        May be called from other threads.
        """

    def close(self) -> None:
        """Release everything; idempotent."""
