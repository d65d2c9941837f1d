"""Faults to order of a stand-in API server: what goes wrong, for which requests, how often."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from tests.lab.apiserver_answers import Refusal

STATUS_MESSAGES = {
    410: "The resourceVersion for the provided watch is too old.",
    429: "too many requests",
    500: "Internal error occurred: etcdserver: request timed out",
    503: "the server is currently unable to handle the request",
}


@dataclass
class Fault:
    """
    One thing that goes wrong.

    Args:
        code: answer with this status; 0 answers as usual.
        verb, resource: which requests: "list", "watch", "create" ...; plural name. "" means any.
        times: how often; it ends then.
        retry_after_s: of the answer.
        message: of the Status; a usual one when empty.
        as_event: the Status comes as ERROR event inside a 200 stream.
        body: answer 200 with this instead, as a proxy in between may.
        cut: close the connection in the middle of the body.
        stall: say nothing at all until the client gives up or the server ends.
    """

    code: int = 0
    verb: str = ""
    resource: str = ""
    times: int = 1
    retry_after_s: int | None = None
    message: str = ""
    as_event: bool = False
    body: bytes | None = None
    cut: bool = False
    stall: bool = False

    def refusal(self) -> Refusal:
        """Return the answer."""
        return Refusal(self.code, self.message or STATUS_MESSAGES.get(self.code, "it is so"), retry_after_s=self.retry_after_s)


class Faults:
    """The faults ordered and not used up; each request gets the first that fits it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ordered: list[Fault] = []
        self._drops = 0

    def order(self, fault: Fault) -> None:
        """Let this go wrong, after what was ordered before."""
        with self._lock:
            self._ordered.append(fault)

    def drop(self, connections: int) -> None:
        """Close the next connections as soon as they come."""
        with self._lock:
            self._drops += connections

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self._ordered.clear()
            self._drops = 0

    def dropping(self) -> bool:
        """Tell whether a new connection is one to close."""
        with self._lock:
            dropped = self._drops > 0
            self._drops -= dropped
            return dropped

    def take(self, verb: str, resource: str) -> Fault | None:
        """Return what goes wrong with a request, if anything."""
        with self._lock:
            for fault in self._ordered:
                if fault.verb in ("", verb) and fault.resource in ("", resource):
                    fault.times -= 1
                    if fault.times <= 0:
                        self._ordered.remove(fault)
                    return fault
        return None
