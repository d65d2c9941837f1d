"""
A scenario file: two YAML documents, the first written by people, the second by `pytest --accept` and read by people.

First document:

    story: what must hold and why, with contract tags
    node: facts of this node, where they differ from NODE below (optional)
    objects: manifests by a short name; several may be versions of one object
    steps: a list of {name, apply: [short names], delete: [short names], node: {facts}}; each gives a state

Second document: for each step, what this node forwards (`frontends`) and the rows in the kernel (`rows`, as commands).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from kpx.cluster.events import Object
from kpx.model.addresses import Family, parse_address, parse_prefix
from kpx.model.decode import decode_document
from kpx.model.facts import DetectLocal, LocalDetector, NodeFacts
from kpx.model.findings import Finding
from kpx.model.names import ObjectName

NODE: dict[str, Any] = {
    "name": "n1",
    "zone": None,
    "families": [4, 6],
    "node_ips": ["192.168.0.1", "fd00:192:168::1"],
    "node_port_addresses": ["192.168.0.1", "fd00:192:168::1"],
    "node_port_any": [],
    "detector": {"mode": "clustercidr", "prefixes": ["10.244.0.0/16", "fd00:10:244::/48"]},
    "masquerade_all": False,
}

Identity = tuple[type, ObjectName]


class State(NamedTuple):
    """
    Everything that holds after a step.

    Args:
        name: of the step.
        facts: this node.
        objects: what exists.
        findings: what decoding had to say.
    """

    name: str
    facts: NodeFacts
    objects: dict[Identity, Object]
    findings: tuple[Finding, ...]


class Scenario(NamedTuple):
    """One file."""

    path: Path
    states: tuple[State, ...]
    expected: dict[str, dict[str, str]]


def read_scenario(path: Path) -> Scenario:
    """Read a file; names that do not fit together raise KeyError or ValueError."""
    written, expected = (*yaml.safe_load_all(path.read_text()), None)[:2]
    if unknown := written.keys() - {"story", "node", "objects", "steps"}:
        raise ValueError(f"{path.name}: unknown sections {sorted(unknown)}")
    texts = {name: {section: text.rstrip("\n") for section, text in parts.items()} for name, parts in (expected or {}).items()}
    return Scenario(path, tuple(_states(path, written)), texts)


def accept(path: Path, results: dict[str, dict[str, str]]) -> None:
    """Write the second document, leaving the first as it is, byte for byte."""
    head = path.read_text().split("\n---\n")[0].rstrip("\n")
    lines = []
    for name, sections in results.items():
        lines.append(f"{name}:")
        for section, text in sections.items():
            lines.append(f"  {section}: |" if text else f"  {section}: ''")
            lines.extend(f"    {line}" for line in text.splitlines())
    path.write_text(f"{head}\n---\n" + "\n".join(lines) + "\n")


def _states(path: Path, written: dict[str, Any]) -> Iterator[State]:
    decoded = {name: _decode(f"{path.stem}/{name}", manifest) for name, manifest in written["objects"].items()}
    current: dict[tuple[str, str, str], str] = {}
    unused = set(decoded)
    facts = NODE | written.get("node", {})
    for step in written["steps"]:
        facts = facts | step.get("node", {})
        for name in step.get("delete", ()):
            del current[_object_key(written["objects"][name])]
        for name in step.get("apply", ()):
            current[_object_key(written["objects"][name])] = name
            unused.discard(name)
        objects = {identity: value for name in current.values() for identity, value in decoded[name][0].items()}
        findings = tuple(finding for name in current.values() for finding in decoded[name][1])
        yield State(step["name"], _facts(facts), objects, findings)
    if unused:
        raise ValueError(f"{path.name}: no step applies {sorted(unused)}")


def _object_key(manifest: dict[str, Any]) -> tuple[str, str, str]:
    return manifest["kind"], manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]


def _decode(where: str, manifest: dict[str, Any]) -> tuple[dict[Identity, Object], tuple[Finding, ...]]:
    decoded = decode_document(manifest, where)
    return {(type(value), value.name): value for one in decoded.objects for value in one.values}, decoded.findings


def _facts(facts: dict[str, Any]) -> NodeFacts:
    if unknown := facts.keys() - NODE.keys():
        raise ValueError(f"unknown facts {sorted(unknown)}")
    detector = facts["detector"]
    return NodeFacts(
        name=facts["name"],
        zone=facts["zone"],
        families=tuple(map(Family, facts["families"])),
        node_ips=tuple(map(parse_address, facts["node_ips"])),
        node_port_addresses=frozenset(map(parse_address, facts["node_port_addresses"])),
        node_port_any=frozenset(map(Family, facts["node_port_any"])),
        local_detector=LocalDetector(
            mode=DetectLocal(detector.get("mode", "clustercidr")),
            prefixes=tuple(map(parse_prefix, detector.get("prefixes", ()))),
            interface=detector.get("interface", ""),
        ),
        masquerade_all=facts["masquerade_all"],
    )


NODE_FACTS = _facts(NODE)
"""The node of every scenario that does not say otherwise."""
