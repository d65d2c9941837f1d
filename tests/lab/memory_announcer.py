"""Where events go in tests of what is announced, and when."""

from __future__ import annotations

from kpx.model.announcement import Announcement, Occurrences


class MemoryAnnouncer:
    """
    Implements `kpx.agent.announcing.Announcer`.

    Attributes:
        told: what was announced, and how often it had happened by then.
        trouble: set it to let posting fail.
    """

    def __init__(self) -> None:
        self.told: list[tuple[Announcement, int]] = []
        self.trouble = ""

    @property
    def reasons(self) -> list[str]:
        return [what.reason for what, _ in self.told]

    def announce(self, what: Announcement, occurrences: Occurrences) -> None:
        self.told.append((what, occurrences.times))

    def deadline(self) -> float | None:
        return None

    def act(self, now: float) -> None:
        """There is nothing to do."""
