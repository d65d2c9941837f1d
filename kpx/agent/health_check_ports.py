"""
Health-check node ports: where a load balancer outside asks a node whether it has endpoints of one Service (contract section 14).

Each family listens and answers for itself, as its rules are written for themselves. What is told follows the kernel: a count is
shown after the round that programmed it, and a family whose round failed goes on telling what it told before (H8).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping

from kpx.agent.localities import HealthCheck, Localities
from kpx.model.addresses import Family, family_of, format_address
from kpx.model.facts import NodeFacts
from kpx.model.findings import Finding
from kpx.model.names import ObjectName
from kpx.web.listening import Listening, Wanted
from kpx.web.server import Answer, Handler, Place

GROUP = "health-check node ports"
FIELD = "spec.healthCheckNodePort"

_ANY = {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}  # noqa: S104 (H1; other addresses on request, like node ports)

_Told = dict[tuple[ObjectName, Family], int]


class HealthCheckPorts:
    """
    What this node tells load balancers.

    Args:
        listening: where addresses are opened.
        healthy: tells whether all families keep up (H3); called from HTTP threads.
    """

    def __init__(self, listening: Listening, healthy: Callable[[], bool]) -> None:
        self._listening = listening
        self._healthy = healthy
        self._ready: _Told = {}
        self._wanted: dict[Family, dict[Place, Wanted]] = {}
        self._made_of: tuple[int, NodeFacts] | None = None
        self._findings: tuple[Finding, ...] = ()

    def programmed(self, localities: Localities, facts: NodeFacts, failed: Collection[Family] = ()) -> tuple[Finding, ...]:
        """
        Tell of this from now on; return the findings about ports that two Services want.

        Args:
            localities: what a round made true. failed: the families of which it made nothing true.
        """
        if self._made_of == (localities.version, facts):
            return self._findings
        ours, self._findings = _first_come(localities.checks)
        wanted, ready = {}, {}
        for family in facts.families:
            if family in failed:
                wanted[family] = self._wanted.get(family, {})
                ready.update({key: count for key, count in self._ready.items() if key[1] == family})
            else:
                wanted[family] = self._places(family, ours, facts)
                ready.update({(name, family): check.ready[family] for name, check in ours.items() if family in check.ready})
        self._wanted, self._ready = wanted, ready
        self._made_of = None if failed else (localities.version, facts)
        self._listening.want(GROUP, {place: one for places in wanted.values() for place, one in places.items()})
        return self._findings

    def _places(self, family: Family, checks: Mapping[ObjectName, HealthCheck], facts: NodeFacts) -> dict[Place, Wanted]:
        """Return where the Services of a family are told of: on every address, or on those of node ports (H1)."""
        addresses = [_ANY[family]]
        if family not in facts.node_port_any:
            addresses = [format_address(a) for a in sorted(facts.node_port_addresses) if family_of(a) == family]
        return {
            (address, check.port): Wanted(f"Service {name}", self._handler(name, family))
            for name, check in checks.items()
            if family in check.ready
            for address in addresses
        }

    def _handler(self, name: ObjectName, family: Family) -> Handler:
        return lambda _request: answer(name, self._ready.get((name, family), 0), self._healthy())


def answer(service: ObjectName, ready: int, healthy: bool) -> Answer:
    """Return what a load balancer is told, whatever it asked for (H2, H4)."""
    body = {
        "service": {"namespace": service.namespace, "name": service.name},
        "localEndpoints": ready,
        "serviceProxyHealthy": healthy,
    }
    status = 200 if ready and healthy else 503
    return Answer(json.dumps(body) + "\n", status, "application/json", (("X-Load-Balancing-Endpoint-Weight", str(ready)),))


def _first_come(checks: Mapping[ObjectName, HealthCheck]) -> tuple[dict[ObjectName, HealthCheck], tuple[Finding, ...]]:
    """Give each port to one Service, the first by name; no API server lets two have it, but a file may say so."""
    owners: dict[int, ObjectName] = {}
    findings = []
    for name in sorted(checks):
        owner = owners.setdefault(checks[name].port, name)
        if owner != name:
            message = f"{checks[name].port} belongs to Service {owner}; give this one a port of its own"
            findings.append(Finding(f"Service {name}", FIELD, message))
    return {name: checks[name] for name in owners.values()}, tuple(findings)
