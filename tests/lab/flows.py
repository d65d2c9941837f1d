"""
One line of a flow table: who asks whom, and what must come of it; asked with real packets and judged.

    verdict   what must be seen
    dnat      exactly the listed endpoints answer, each of them, over many new connections; `masq` says whether they see
              the client or an address of the node
    reject    refused at once
    drop      silence
    pass      kpx keeps out of it: the lab's own server behind the address answers and sees the client; where the lab may not
              have one, as kpx itself listens there at times, the host refuses
    accept    kpx itself answers, in HTTP (health-check node ports)
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, NamedTuple

from tests.lab.http_client import ask
from tests.lab.netns import PATIENCE, Namespace
from tests.lab.probes import ANSWER_S, SILENCE_S, Flow, Outcome, probe

TRIES_PER_ENDPOINT = (12, 40) if PATIENCE == 1 else (6, 20)
"""
At least and at most so many connections. With 12 an endpoint that must not be there stays unseen once in 10^5 times, with 40
any endpoint once in 10^17 times; that many it takes once a row is asked over and over, since chance gets a chance each time.
Where machines are slow, half as many: once in 400 and once in 10^8 times.
"""


class Expected(NamedTuple):
    """What must come of a flow; `masquerade` is by endpoint."""

    verdict: str
    endpoints: tuple[str, ...] = ()
    masquerade: Mapping[str, bool] = {}


class Row(NamedTuple):
    """
    One row.

    Args:
        kind: pod, node, external, loopback or node-as-vip.
        connection: a name under which the flow is kept open and asked again; "" opens new ones.
        sticky: all new connections must reach one endpoint; `sticky_group`: and rows of a group the same.
        max_wait_s: how long the row may take to become true; 0 means it must be true now.
    """

    name: str
    kind: str
    source: str
    destination: str
    protocol: str
    port: int
    expected: Expected
    repeat: int = 0
    sticky: bool = False
    sticky_group: str = ""
    connection: str = ""
    source_port: int = 0
    established: bool = False
    max_wait_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.name}: {self.kind} {self.source} -> {endpoint_name(self.destination, self.port)}/{self.protocol}"


def endpoint_name(address: str, port: int) -> str:
    """Write an endpoint in one way only; servers are named so."""
    parsed = ipaddress.ip_address(address)
    return f"[{parsed}]:{port}" if parsed.version == 6 else f"{parsed}:{port}"


def parse_endpoint(text: str) -> tuple[str, int]:
    """Split `address:port`."""
    address, _, port = text.rpartition(":")
    return str(ipaddress.ip_address(address.strip("[]"))), int(port)


def row_from_case(flow: Mapping[str, Any]) -> Row:
    """Read a flow as tests/cases/README.md describes it."""
    expect = flow["expect"]
    endpoints = tuple(endpoint_name(*parse_endpoint(each)) for each in expect.get("endpoints", ()))
    masq = expect.get("masq")
    if isinstance(masq, Mapping):
        masquerade = {endpoint_name(*parse_endpoint(key)): bool(value) for key, value in masq.items()}
    else:
        masquerade = {each: bool(masq) for each in endpoints if masq is not None}
    return Row(
        name=flow["name"], kind=flow["from"], source=flow["src"], destination=flow["dst"], protocol=flow["proto"],
        port=flow["port"], expected=Expected(expect["verdict"], endpoints, masquerade), repeat=flow.get("repeat", 0),
        sticky=flow.get("sticky", "sticky_group" in flow), sticky_group=flow.get("sticky_group", ""),
        connection=flow.get("conn", ""), source_port=flow.get("src_port", 0), established=flow.get("established", False),
        max_wait_s=flow.get("max_wait_seconds", 0.0),
    )  # fmt: skip


class Judge:
    """
    Asks rows and judges the answers; remembers open connections and where sticky groups went.

    Args:
        node_addresses: what a masqueraded source may be.
        bystanders: the names of the lab's own servers that answer what kpx keeps out of.
        vacant: addresses and ports of the node that have none, since kpx may want to listen there.
    """

    def __init__(self, node_addresses: frozenset[str], bystanders: frozenset[str], vacant: frozenset[tuple[str, int]]) -> None:
        self._node_addresses = node_addresses
        self._bystanders = bystanders
        self._vacant = vacant
        self._connections: dict[str, Flow] = {}
        self._groups: dict[str, str] = {}

    def close(self) -> None:
        """End all open connections."""
        for each in self._connections.values():
            each.close()

    def eventually(self, namespace: Namespace, row: Row) -> str:
        """Ask until the row is true or its time is over; return "" or what was wrong the last time."""
        deadline = time.monotonic() + row.max_wait_s
        complaint = self.ask(namespace, row)
        while complaint and time.monotonic() < deadline:
            time.sleep(0.01)
            complaint = self.ask(namespace, row, again=True)
        return complaint

    def ask(self, namespace: Namespace, row: Row, again: bool = False) -> str:
        """Ask with as many connections as the row needs, more of them when `again`; return "" or what is wrong."""
        if row.connection:
            return self._complaint(row, self._keep_open(namespace, row))
        if row.expected.verdict == "accept":
            return self._deafness(namespace, row)
        servers: set[str] = set()
        at_least, at_most = self._tries(row, again)
        for attempt in range(1, at_most + 1):
            wait_s = SILENCE_S if row.expected.verdict == "drop" else ANSWER_S
            outcome = probe(namespace, row.protocol, row.source, row.destination, row.port, row.source_port, wait_s)
            if complaint := self._complaint(row, outcome):
                return complaint
            servers.add(outcome.server)
            if attempt >= at_least and (row.sticky or row.expected.verdict != "dnat" or servers == set(row.expected.endpoints)):
                break
        return self._set_complaint(row, servers)

    def _tries(self, row: Row, again: bool) -> tuple[int, int]:
        if row.expected.verdict != "dnat":
            return row.repeat or 1, row.repeat or 1
        if row.sticky:
            return row.repeat or 20, row.repeat or 20
        at_least, at_most = TRIES_PER_ENDPOINT
        at_least, at_most = (each * len(row.expected.endpoints) for each in (at_most if again else at_least, at_most))
        return max(at_least, row.repeat), max(at_most, row.repeat)

    def _keep_open(self, namespace: Namespace, row: Row) -> Outcome:
        flow = self._connections.get(row.connection)
        if flow is None:
            assert not row.established, f"{row}: connection {row.connection} was never opened"
            flow = Flow(namespace, row.protocol, row.source, row.destination, row.port, row.source_port)
            self._connections[row.connection] = flow
        return flow.ask()

    def _deafness(self, namespace: Namespace, row: Row) -> str:
        """Return "" when something that speaks HTTP listens: no server of the lab does."""
        try:
            with namespace.entered():
                ask((row.destination, row.port), source=row.source, timeout_s=ANSWER_S)
        except (OSError, HTTPException) as error:
            return f"{row}: kpx must listen, but {error!r}"
        return ""

    def _complaint(self, row: Row, outcome: Outcome) -> str:
        """Judge one answer."""
        wanted = row.expected
        if wanted.verdict != "dnat":
            refused = outcome.verdict == "refused"
            good = {"reject": refused, "drop": outcome.verdict == "silence"}
            good["pass"] = outcome.server in self._bystanders and same(outcome.seen, row.source)
            good["pass"] |= refused and (str(ipaddress.ip_address(row.destination)), row.port) in self._vacant
            return "" if good[wanted.verdict] else f"{row}: expected {wanted.verdict}, but {outcome}"
        if outcome.server not in wanted.endpoints:
            return f"{row}: expected one of {', '.join(wanted.endpoints)}, but {outcome}"
        masquerade = wanted.masquerade.get(outcome.server)
        if masquerade is False and not same(outcome.seen, row.source):
            return f"{row}: the source must be kept, but {outcome}"
        if masquerade and not any(same(outcome.seen, each) for each in self._node_addresses):
            return f"{row}: must be masqueraded, but {outcome}"
        return ""

    def _set_complaint(self, row: Row, servers: set[str]) -> str:
        """Judge who answered over all connections."""
        if row.expected.verdict != "dnat":
            return ""
        if not row.sticky:
            missing = set(row.expected.endpoints) - servers
            return f"{row}: never reached {', '.join(sorted(missing))}" if missing else ""
        if len(servers) != 1:
            return f"{row}: must stay with one endpoint, but reached {', '.join(sorted(servers))}"
        server = servers.pop()
        if row.sticky_group and self._groups.setdefault(row.sticky_group, server) != server:
            return f"{row}: must stay with {self._groups[row.sticky_group]} as the others of its group, but reached {server}"
        return ""


def same(one: str, other: str) -> bool:
    """Tell whether two texts are the same address."""
    return bool(one) and ipaddress.ip_address(one) == ipaddress.ip_address(other)
