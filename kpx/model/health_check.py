"""
What a Service says about checking its endpoints, and what checking them found.

On bare metal nobody tells which endpoints are alive, so a Service may ask the agent to look. What it asks for and what was
found are values like all others: the agent is heard like a source, and policy decides from what was heard.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import msgspec

from kpx.model.addresses import Address, format_endpoint
from kpx.model.names import ObjectName


class CheckKind(enum.Enum):
    """How an endpoint is asked; the value is how people write it."""

    TCP = "tcp"
    HTTP = "http"
    HTTPS = "https"


class HealthCheck(msgspec.Struct, frozen=True, gc=False):
    """
    How the endpoints of a Service are checked; Services with equal wishes have equal values.

    With the defaults an endpoint that went silent is out at the latest after fall * interval + timeout = 2 * 1 s + 0.5 s: it may
    die right after a check, so the first that fails begins up to one interval later, and the second fails one interval and one
    timeout after that began. One that refuses is out a timeout earlier.

    Args:
        kind: a TCP connection, or a GET over HTTP or HTTPS.
        port: where it asks, 0 for each endpoint's own port.
        path: for HTTP, with "/" in front and the query behind. host: the Host header, "" for the endpoint's address.
        interval_s: from the start of one check to the start of the next, seconds, 0.1..3600.
        timeout_s: how long an endpoint may take to answer, seconds, 0.01..interval_s.
        rise, fall: so many checks in a row must pass (fail) until an endpoint is used again (left out), 1..100.
        panic_percent: when fewer of the endpoints than this pass, all are used as if none were checked; 0 for never.
    """

    kind: CheckKind
    port: int = 0
    path: str = ""
    host: str = ""
    interval_s: float = 1.0
    timeout_s: float = 0.5
    rise: int = 2
    fall: int = 2
    panic_percent: int = 0


class Failing(NamedTuple):
    """An endpoint of a Service that is to be left out, and what is wrong with it: part of a sentence."""

    address: Address
    port: int
    why: str

    def __str__(self) -> str:
        return f"{format_endpoint(self.address, self.port)}: {self.why}"


class EndpointHealth(msgspec.Struct, frozen=True, gc=False):
    """
    What checking found out about one Service; the whole of it each time, so that the last word counts.

    Args:
        name: the Service.
        failing: sorted, each endpoint once. All others pass, or were not asked yet.
    """

    name: ObjectName
    failing: tuple[Failing, ...] = ()
