"""The way of a packet through rows, told: which rules it meets, where it comes to, and whether that is what the manifests say."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from kpx.cli.output import Json
from kpx.dataplanes.base import Dataplane
from kpx.dataplanes.way import Met, Way, outcomes, walk
from kpx.model.addresses import Address, Prefix, family_of, format_address
from kpx.model.facts import NodeFacts
from kpx.policy.desired import Source
from kpx.policy.stand_ins import stand_ins
from kpx.policy.story import Outcome, Packet, Story
from kpx.reconcile.rows import Rows

_FROM = {Source.POD: "a pod", Source.HOST: "this node", Source.OUTSIDE: "outside"}
_ENDS = {
    "reject": "refused at once (port unreachable)",
    "drop": "dropped without an answer",
    "pass": "left alone by kpx, routed as usual",
    "local": "left alone by kpx, for this host itself",
}


class Walked(NamedTuple):
    """
    The packet as one kind of source sends it, and all ways it may go.

    Args:
        expected: what the manifests say may become of it; None without manifests.
    """

    kind: Source
    packet: Packet
    ways: tuple[Way, ...]
    expected: frozenset[Outcome] | None

    @property
    def agrees(self) -> bool | None:
        """Tell whether rows lead where the manifests say; None without manifests."""
        return None if self.expected is None else outcomes(self.ways) == self.expected

    @property
    def sender(self) -> str:
        """Who sends the packet, in words."""
        assert self.packet.source is not None
        return f"{_FROM[self.kind]} ({format_address(self.packet.source)})"


def walk_all(
    dataplane: Dataplane,
    rows: Rows,
    packet: Packet,
    facts: NodeFacts,
    host: Collection[Address],
    ranges: Sequence[Prefix],
    tell: Callable[[Packet], Story] | None,
) -> tuple[Walked, ...]:
    """
    Send the packet through rows, once for each kind of source it may have.

    Args:
        ranges: source ranges of the frontend that catches it.
        tell: what the manifests say of a packet; None without manifests.
    """
    hooks = tuple(dataplane.hooks(rows, facts, host))
    if packet.source is not None and family_of(packet.source) != family_of(packet.destination):
        return ()
    found = []
    for kind, one in stand_ins(packet, facts, host, ranges):
        ways = walk(hooks, one, host, facts.steer_bit)
        found.append(Walked(kind, one, ways, tell(one).outcomes if tell else None))
    return tuple(found)


def walk_differences(walked: Iterable[Walked]) -> list[str]:
    """Return a sentence for each kind of source that rows treat otherwise than the manifests say."""
    return [
        f"so packets from {one.sender} come to: {_ends(outcomes(one.ways))}; by the manifests: {_ends(one.expected)}"
        for one in walked
        if one.expected is not None and not one.agrees
    ]


def walk_text(walked: Iterable[Walked]) -> list[str]:
    """Tell the ways as indented lines."""
    lines = []
    for one in walked:
        lines.append(f"From {one.sender}:")
        for path in _paths(one.ways):
            lines += [f"  {met}" for met in path.met]
            lines.append(f"  => {_ends(path.ends)}")
    return lines


def walk_json(walked: Iterable[Walked]) -> list[Json]:
    """Return the ways as plain values."""
    return [
        {
            "source": one.kind.value,
            "from": format_address(one.packet.source or b""),
            "agrees": one.agrees,
            "expected": None if one.expected is None else [each.to_json() for each in _sorted(one.expected)],
            "paths": [
                {
                    "steps": [{"hook": m.place, "chain": m.chain, "rule": m.words, "row": m.row or None} for m in path.met],
                    "outcomes": [each.to_json() for each in _sorted(path.ends)],
                }
                for path in _paths(one.ways)
            ],
        }
        for one in walked
    ]


class _Path(NamedTuple):
    """Ways that meet the same rules: what they met, the rows left out that are not the same for all, and where they end."""

    met: tuple[Met, ...]
    ends: frozenset[Outcome]


def _paths(ways: Iterable[Way]) -> list[_Path]:
    alike: dict[tuple[tuple[str, str, str], ...], list[Way]] = {}
    for way in ways:
        alike.setdefault(tuple(met[:3] for met in way.met), []).append(way)
    return [_Path(tuple(map(_common, zip(*(w.met for w in group), strict=True))), outcomes(group)) for group in alike.values()]


def _common(steps: tuple[Met, ...]) -> Met:
    return steps[0] if len(set(steps)) == 1 else steps[0]._replace(row="")


def _ends(ends: Iterable[Outcome]) -> str:
    """Say where ways end."""
    return ", ".join(_end(each) for each in _sorted(ends))


def _end(outcome: Outcome) -> str:
    if outcome.backend is None:
        return _ENDS.get(outcome.verdict, outcome.verdict)
    return f"{outcome.backend} ({'masqueraded' if outcome.masquerade else 'source kept'})"


def _sorted(ends: Iterable[Outcome]) -> list[Outcome]:
    return sorted(ends, key=lambda each: (each.verdict, each.backend or (b"", 0), each.masquerade))
