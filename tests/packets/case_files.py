"""Reads tests/cases: which cases there are, and whether all they say is carried out."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CASES = Path(__file__).resolve().parents[1] / "cases"
NO_PACKETS = frozenset(("state_cases.yaml",))
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


KEYS: dict[str, frozenset[str]] = {
    kind: frozenset(keys.split())
    for kind, keys in {
        "case": "name origin note requires config objects flows http steps",
        "config": "nodeName nodeIPs localAddresses ipFamilies zone "
        "detectLocalMode clusterCIDRs serviceCIDRs nodePortAddresses masqueradeAll",
        "step": "name note proxy apply delete wait_seconds rounds flows http",
        "flow": "name note from src dst proto port expect repeat sticky sticky_group conn src_port established max_wait_seconds",
        "verdict": "verdict endpoints masq",
        "request": "from url expect",
        "answer": "status json headers refused",
    }.items()
}
"""Every key that is carried out, or is prose (`name`, `origin`, `note`), by the kind of mapping it stands in."""
WORDS: dict[str, frozenset[Any]] = {
    "proxy": frozenset(("stop", "start", "restart")),
    "from": frozenset(("pod", "node", "external", "loopback", "node-as-vip")),
    "verdict": frozenset(("dnat", "reject", "drop", "pass", "accept")),
    "detectLocalMode": frozenset(("ClusterCIDR", "none")),
    "requires": frozenset(("remote-endpoint", "multi-node", "ipv6", "sctp", "file-source")),
}
"""Every word that is understood where there is a choice."""


@functools.cache
def load(path: Path) -> Any:
    """Read one YAML file, once: on an emulated processor all of them take seconds. Nobody changes what is returned."""
    with path.open() as file:
        return yaml.load(file, Loader=_Loader)


def all_cases() -> dict[str, dict[str, Any]]:
    """Return every packet case by name; names are unique over all files."""
    cases: dict[str, dict[str, Any]] = {}
    for path in sorted(CASES.glob("*.yaml")):
        if path.name in NO_PACKETS:
            continue
        for case in load(path)["cases"]:
            assert case["name"] not in cases, f"{path.name}: case {case['name']} stands twice"
            cases[case["name"]] = case
    return cases


def parts_of(case: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the case itself and its steps: whatever has flows and requests."""
    yield case
    yield from case.get("steps", ())


def not_understood(case: Mapping[str, Any]) -> list[str]:
    """Return what of a case would be ignored: keys and words nobody knows, and words without effect where they stand."""
    ignored = [f"{kind}: {key}" for kind, mapping in _mappings(case) for key in sorted(mapping.keys() - KEYS[kind])]
    for _, mapping in _mappings(case):
        for key in WORDS.keys() & mapping.keys():
            said = mapping[key] if isinstance(mapping[key], list) else [mapping[key]]
            ignored += [f"{key}: {word}" for word in said if word not in WORDS[key]]
    for kind, mapping in _mappings(case):
        if kind == "flow" and mapping.get("established") and "conn" not in mapping:
            ignored.append(f"flow {mapping['name']}: established without conn")
        if kind == "flow" and "conn" in mapping and mapping.keys() & {"sticky", "sticky_group", "repeat"}:
            ignored.append(f"flow {mapping['name']}: one connection cannot be sticky or repeated")
    return ignored + _said_twice(case)


def _mappings(case: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every mapping of a case with its kind."""
    yield "config", case["config"]
    for part in parts_of(case):
        yield "case" if part is case else "step", part
        for flow in part.get("flows", ()):
            yield from (("flow", flow), ("verdict", flow["expect"]))
        for request in part.get("http", ()):
            yield from (("request", request), ("answer", request["expect"]))


def _said_twice(case: Mapping[str, Any]) -> list[str]:
    """Return where `config` says of the node and the ServiceCIDRs what the objects, which kpx reads, do not say."""
    config, objects = case["config"], case["objects"]
    (node,) = (each for each in objects if each["kind"] == "Node" and each["metadata"]["name"] == config["nodeName"])
    addresses = [each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP"]
    said = {
        "nodeIPs": addresses,
        "zone": node["metadata"].get("labels", {}).get("topology.kubernetes.io/zone"),
        "serviceCIDRs": [cidr for each in objects if each["kind"] == "ServiceCIDR" for cidr in each["spec"]["cidrs"]],
    }
    return [f"config: {key} is {config[key]}, the objects have {value}" for key, value in said.items() if config[key] != value]
