"""What may become of a packet, by the verdict on it: all its outcomes as values, to compare with what rows make of it. Pure."""

from __future__ import annotations

from collections.abc import Collection

from kpx.model.addresses import Address, is_loopback
from kpx.policy.desired import PortProgram, Verdict
from kpx.policy.story import Outcome, Packet


def of_verdict(packet: Packet, verdict: Verdict, port: PortProgram, host: Collection[Address]) -> frozenset[Outcome]:
    """
    Return the outcomes of a packet that a frontend catches.

    Args:
        host: all addresses of this host. An endpoint that has one of them is reached without leaving, so nobody replaces the
            source of what comes in for it.
    """
    if verdict.pool is None:
        return frozenset({Outcome(verdict.action.value)})
    hairpin = packet.source if packet.source in port.hairpin else None
    return frozenset(
        Outcome("forward", backend, backend.address not in host and (verdict.masquerade or backend.address == hairpin))
        for backend in verdict.pool.backends
    )


def left_alone(packet: Packet, host: Collection[Address]) -> frozenset[Outcome]:
    """Return the outcome of a packet that kpx leaves alone."""
    is_here = packet.destination in host or is_loopback(packet.destination)
    return frozenset({Outcome("local" if is_here else "pass")})
