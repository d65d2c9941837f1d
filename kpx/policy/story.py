"""What became of a packet, told: the question, the answer as values, and the answer as sentences."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from kpx.model.addresses import Address, format_endpoint
from kpx.model.names import PortName, Protocol
from kpx.policy.desired import Backend, Considered, Frontend, Source


class Packet(NamedTuple):
    """
    The first packet of a flow, as it arrives at this node.

    Args:
        source: None when it does not matter or is not known.
        interface: it comes in by, "" when it is not known or the packet is of this host.
    """

    destination: Address
    port: int
    protocol: Protocol
    source: Address | None = None
    interface: str = ""

    def __str__(self) -> str:
        return f"{format_endpoint(self.destination, self.port)}/{self.protocol}"


class Outcome(NamedTuple):
    """
    What may become of a packet.

    Args:
        verdict: "forward", "reject", "drop"; or kpx leaves it alone: "local" when it is for this host itself, else "pass".
        backend: with "forward", the endpoint it reaches.
        masquerade: it leaves with an address of this node as source; never for an endpoint that has an address of this host.
    """

    verdict: str
    backend: Backend | None = None
    masquerade: bool = False

    def __str__(self) -> str:
        if self.backend is None:
            return self.verdict
        return f"{self.verdict} to {self.backend}" + (", masqueraded" if self.masquerade else "")

    def to_json(self) -> dict[str, object]:
        """Return the outcome as plain values."""
        endpoint = None if self.backend is None else str(self.backend)
        return {"verdict": self.verdict, "endpoint": endpoint, "masquerade": self.masquerade if self.backend else None}


class Story(msgspec.Struct, frozen=True):
    """
    What happens to a packet and why.

    Args:
        steps: sentences, in the order things happen.
        verdict: "forward", "reject", "drop", or "pass": not kpx's business, it is routed as usual. When the kind of source is
            not known and it matters, the verdict is that for clients outside, and the steps tell all.
        service: the service port that catches the packet, None when none does.
        frontend: the frontend that catches it.
        pool: name of the pool it goes to, None when it goes to none.
        endpoints: every endpoint of the service port and why it is in that pool or not.
        masquerade: whether the endpoint sees an address of this node as source; None when it depends on what is not known.
        source_kind: None when it cannot be told.
        outcomes: everything that may become of the packet, the endpoint is chosen by chance; empty when `source_kind` is None.
    """

    steps: tuple[str, ...]
    verdict: str
    service: PortName | None = None
    frontend: Frontend | None = None
    pool: str | None = None
    endpoints: tuple[Considered, ...] = ()
    masquerade: bool | None = None
    source_kind: Source | None = None
    outcomes: frozenset[Outcome] = frozenset()

    def to_json(self) -> dict[str, object]:
        """Return the story as plain values, every key always present."""
        return {
            "verdict": self.verdict,
            "service": None if self.service is None else str(self.service),
            "frontend": None if self.frontend is None else str(self.frontend),
            "source": None if self.source_kind is None else self.source_kind.value,
            "pool": self.pool,
            "masquerade": self.masquerade,
            "endpoints": [
                {
                    "endpoint": str(fate.backend),
                    "chosen": fate.chosen,
                    "reason": fate.why,
                    "local": fate.local,
                    "slice": fate.slice_name,
                }
                for fate in self.endpoints
            ],
            "steps": list(self.steps),
        }
