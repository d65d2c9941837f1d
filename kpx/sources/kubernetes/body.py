"""The bytes of an answer as they come in, however they were cut: as a whole, or line by line. Pure."""

from __future__ import annotations

from typing import Final

LONGEST_LINE: Final = 16 << 20
"""Longest event of a watch, bytes; etcd holds no object over 1.5 MiB."""

LONGEST_PAGE: Final = 512 << 20
"""Longest answer to a list request, bytes; a server that does not page sends everything at once."""

LONGEST_COMPLAINT: Final = 1 << 16
"""Bytes of a refusal that are read."""


class Body:
    """What came in and was not taken yet."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._searched = 0

    def __len__(self) -> int:
        return len(self._bytes)

    def add(self, data: bytes, longest: int | None = None) -> None:
        """Take in a piece; what goes beyond `longest` bytes is forgotten."""
        self._bytes += data
        if longest is not None:
            del self._bytes[longest:]

    def lines(self) -> list[bytes]:
        """Return the complete lines that are not blank; half a line waits for its other half."""
        # What was searched before has no end of line in it, so a long line costs no more than its length.
        end = self._bytes.rfind(b"\n", self._searched)
        whole = bytes(self._bytes[: end + 1])
        del self._bytes[: end + 1]
        self._searched = len(self._bytes)
        return [line for line in whole.split(b"\n") if line.strip()]

    def take(self) -> bytes:
        """Return everything, and begin anew."""
        taken = bytes(self._bytes)
        self.clear()
        return taken

    def clear(self) -> None:
        """Forget everything."""
        self._bytes.clear()
        self._searched = 0
