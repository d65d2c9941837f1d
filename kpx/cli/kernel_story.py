"""What the kernel's rows say about a packet: which frontend catches it, and the client's entry there. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from kpx.cli.walking import Walked
from kpx.dataplanes.base import AffinityEntry, KernelFrontend, KernelVerdict, Refusal
from kpx.model.addresses import Address, family_of, format_address
from kpx.model.facts import NodeFacts
from kpx.model.names import PortName
from kpx.policy import wording
from kpx.policy.desired import Frontend, Source
from kpx.policy.explain import answers_on_node_ports
from kpx.policy.story import Packet

REFUSED = {
    "reject": "New flows are refused at once (port unreachable).",
    "drop": "New flows are dropped without an answer.",
}


class Held(NamedTuple):
    """
    What the kernel says about a packet.

    Args:
        source_kind: None when it cannot be told.
        frontend: the one that catches the packet, None when none does.
        affinity: the client's entry there, if it has one.
        refusal: what becomes of the packet when no frontend catches it, None when kpx leaves it alone.
        differences: sentences about where the kernel is not as the manifests want it; None without manifests.
        walked: the way of the packet through the kernel's rows.
    """

    source_kind: Source | None
    frontend: KernelFrontend | None
    affinity: AffinityEntry | None
    refusal: Refusal | None
    differences: tuple[str, ...] | None
    walked: tuple[Walked, ...] = ()


def catching(
    packet: Packet, frontends: Iterable[KernelFrontend], facts: NodeFacts, host: Collection[Address]
) -> KernelFrontend | None:
    """Return the frontend in the kernel that catches a packet: the exact one, else the node port (V12)."""
    family = family_of(packet.destination)
    held = {f.frontend: f for f in frontends}
    exact = held.get(Frontend(family, packet.destination, packet.protocol, packet.port))
    if exact is not None or not answers_on_node_ports(packet.destination, facts, host):
        return exact
    return held.get(Frontend(family, Address(b""), packet.protocol, packet.port))


def client_entry(
    client: Address, frontend: Frontend, entries: Iterable[AffinityEntry], names: Mapping[Frontend, PortName]
) -> AffinityEntry | None:
    """Return the entry of a client; any frontend of the same service port shares it (A1), the asked one first."""
    mine = [entry for entry in entries if entry.client == client]
    owner = names.get(frontend)
    shared = [entry for entry in mine if owner is not None and names.get(entry.frontend) == owner]
    return next((entry for entry in mine if entry.frontend == frontend), shared[0] if shared else None)


def kernel_steps(packet: Packet, held: Held) -> list[str]:
    """Tell what the kernel's rows do with the packet, as sentences."""
    frontend = held.frontend
    if frontend is None:
        caught = f"No frontend of kpx in the kernel catches {packet}."
        return [caught, f"{held.refusal.why}.", REFUSED[held.refusal.action]] if held.refusal else [caught]
    steps = [f"{packet} is caught by the frontend {frontend.frontend} in the kernel."]
    if _is_kept_out(packet, frontend):
        return [*steps, f"Only {', '.join(map(str, frontend.source_ranges))} may use it.", REFUSED["drop"]]
    kinds = tuple(Source) if held.source_kind is None else (held.source_kind,)
    steps += wording.per_source(kinds, lambda kind: _becomes(frontend.verdict(kind)))
    if frontend.affinity_timeout_s is not None:
        steps.append(f"A client stays on its endpoint until {frontend.affinity_timeout_s} s after its last new flow.")
    return steps


def _becomes(verdict: KernelVerdict) -> str:
    """Say what becomes of the new flows of a kind of source."""
    if verdict.action != "forward":
        return REFUSED.get(verdict.action, verdict.action)
    seen = "an address of this node" if verdict.masquerade else "the client's own address"
    endpoints = ", ".join(map(str, verdict.backends))
    return f"New flows go to one of {len(verdict.backends)} endpoints: {endpoints}. It sees {seen} as source."


def _is_kept_out(packet: Packet, frontend: KernelFrontend) -> bool:
    """Tell whether source ranges keep the packet out (F3); never when its source is not given."""
    ranges = frontend.source_ranges
    return bool(ranges) and packet.source is not None and not any(packet.source in each for each in ranges)


def affinity_steps(packet: Packet, held: Held) -> list[str]:
    """Tell which endpoint the client is kept on, if session affinity has a say."""
    if held.affinity is not None:
        entry = held.affinity
        left = f"for {entry.expires_in_s:.0f} s more unless it asks again"
        return [f"The kernel keeps {format_address(entry.client)} on {entry.backend} {left} (entry of {entry.frontend})."]
    if packet.source is not None and held.frontend is not None and held.frontend.affinity_timeout_s is not None:
        return [f"The kernel keeps {format_address(packet.source)} on no endpoint yet."]
    return []


def kernel_verdict(packet: Packet, held: Held | None) -> str:
    """
    Return what the kernel does with the packet; "pass" when no frontend catches it and nothing refuses it.

    When the kind of source is not known, the verdict is that for clients outside.
    """
    if held is None:
        return "pass"
    if held.frontend is not None:
        kept_out = _is_kept_out(packet, held.frontend)
        return "drop" if kept_out else held.frontend.verdict(held.source_kind or Source.OUTSIDE).action
    return held.refusal.action if held.refusal else "pass"
