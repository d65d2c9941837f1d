"""
Reads tests/packets/tables: who asks whom, and what must come of it, written by hand. README.md there has the format.

One line stands for all combinations of what it lists, so that a table stays readable while every protocol and every kind
of frontend is asked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.lab.agent import Object
from tests.lab.flows import Expected, Row, endpoint_name, parse_endpoint
from tests.lab.topology import version
from tests.lab.world import NodeConfig
from tests.packets.case_files import load

TABLES = Path(__file__).parent / "tables"


class FlowTable(NamedTuple):
    """A table: the node, what is written for it, and the rows; `needs` names features of the kernel."""

    story: str
    config: NodeConfig
    objects: tuple[Object, ...]
    rows: tuple[Row, ...]
    needs: tuple[str, ...]


def names() -> list[str]:
    """Return the names of all tables."""
    return sorted(path.stem for path in TABLES.glob("*.yaml"))


def read(name: str) -> FlowTable:
    """Read one table."""
    content = load(TABLES / f"{name}.yaml")
    objects = tuple(content["objects"])
    rows = tuple(row for line in content["flows"] for row in _rows(line))
    return FlowTable(content["story"], _config(content["node"]), objects, rows, tuple(content.get("needs", ())))


def _config(node: Mapping[str, Any]) -> NodeConfig:
    return NodeConfig(
        name=node["name"],
        local_addresses=tuple(node["addresses"]),
        cluster_cidrs=tuple(node.get("cluster-cidr", ())),
        node_port_addresses=tuple(node.get("nodeport-addresses", ("primary",))),
        masquerade_all=node.get("masquerade-all", False),
        versions=tuple(sorted({version(each) for each in node["addresses"]})),
        pod_interfaces=node.get("pod-interfaces", ""),
        bridge=node.get("bridge", ""),
        options=tuple(node.get("options", ())),
    )


def _rows(line: Mapping[str, Any]) -> Iterator[Row]:
    """Every combination of the clients, destinations and protocols of a line that are of one family."""
    combinations = itertools.product(_list(line["from"]), _list(line["to"]), _list(line.get("protocol", "TCP")))
    for client, to, protocol in combinations:
        kind, source = client.split()
        destination, port = parse_endpoint(to)
        if (":" in source) != (":" in destination):
            continue
        expected = _expected(line["expected"], ipv6=":" in destination)
        yield Row(line["name"], kind, source, destination, protocol, port, expected, sticky=line.get("sticky", False))


def _expected(expected: str | Mapping[str, Any], ipv6: bool) -> Expected:
    if isinstance(expected, str):
        return Expected(expected)
    endpoints = [endpoint_name(*parse_endpoint(each)) for each in expected["endpoints"]]
    endpoints = [each for each in endpoints if each.startswith("[") == ipv6]
    assert endpoints, f"no endpoint of the right family in {expected}"
    return Expected("dnat", tuple(endpoints), dict.fromkeys(endpoints, expected["masq"]))


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
