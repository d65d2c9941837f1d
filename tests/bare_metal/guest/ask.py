"""
Ask a Service over and over: new connections, and one that stays. Run in the client's namespace.

usage: ask.py ADDRESS PORT RECORD [SECONDS]

Prints nothing. RECORD is replaced, a few times a second, by what was seen so far, as JSON: `answers` by server, `failures` of
new connections with their time, `kept` lines answered on the connection that stays, and `broken` when that was lost. Stops after
SECONDS if given, else when told to with SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from typing import Any

BETWEEN_S = 0.1
PATIENCE_S = 10.0


def ask(connection: socket.socket) -> str:
    """Return the answer to one line."""
    connection.sendall(b"who\n")
    answer = b""
    while not answer.endswith(b"\n"):
        piece = connection.recv(100)
        if not piece:
            raise ConnectionError("closed")
        answer += piece
    return answer.decode().split()[0]


class Asking:
    """What was seen, and where it is written."""

    def __init__(self, address: tuple[str, int], record: str) -> None:
        self.address = address
        self.record = record
        self.seen: dict[str, Any] = {"answers": {}, "failures": [], "kept": 0, "broken": None, "slowest_ms": 0}
        self._began = time.monotonic()
        self._stays: socket.socket | None = None

    def once(self) -> None:
        """Ask by a new connection, and by the one that stays."""
        began = time.monotonic()
        try:
            with socket.create_connection(self.address, timeout=PATIENCE_S) as connection:
                server = ask(connection)
            self.seen["answers"][server] = self.seen["answers"].get(server, 0) + 1
            self.seen["slowest_ms"] = max(self.seen["slowest_ms"], int((time.monotonic() - began) * 1000))
        except OSError as error:
            self.seen["failures"].append(f"after {began - self._began:.1f} s: {error}")
        self._ask_the_one_that_stays()
        self.write()

    def write(self) -> None:
        """Replace the record."""
        with open(f"{self.record}.new", "w") as file:
            json.dump(self.seen, file)
        os.replace(f"{self.record}.new", self.record)

    def _ask_the_one_that_stays(self) -> None:
        if self.seen["broken"]:
            return
        try:
            if self._stays is None:
                self._stays = socket.create_connection(self.address, timeout=PATIENCE_S)
            ask(self._stays)
            self.seen["kept"] += 1
        except OSError as error:
            self.seen["broken"] = f"after {time.monotonic() - self._began:.1f} s: {error}"


def main() -> None:
    """Ask until it is enough."""
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    asking = Asking((sys.argv[1], int(sys.argv[2])), sys.argv[3])
    until = time.monotonic() + float(sys.argv[4]) if len(sys.argv) > 4 else float("inf")
    while not ended and time.monotonic() < until:
        asking.once()
        time.sleep(BETWEEN_S)
    asking.write()


if __name__ == "__main__":
    main()
