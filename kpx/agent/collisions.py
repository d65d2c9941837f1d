"""Addresses that a Service and this host both have: legal for external addresses, rarely meant, and worth a line."""

from __future__ import annotations

from collections.abc import Iterator

from kpx.model.addresses import Address, format_address
from kpx.model.findings import Finding, Severity
from kpx.policy.desired import ServiceProgram


def collisions(program: ServiceProgram, host: frozenset[Address]) -> Iterator[Finding]:
    """
    Yield a finding for each address of a Service that is one of `host`, all addresses of the host.

    The Service has its ports there and nothing else: no data plane refuses or takes any other port of an address of the host.
    """
    shared: dict[Address, set[str]] = {}
    for _, frontend in program.frontends():
        _, address, protocol, port = frontend.frontend
        if address in host:
            shared.setdefault(address, set()).add(f"{port}/{protocol}")
    for address, ports in sorted(shared.items()):
        kind = "ClusterIP" if address in program.cluster_ips else "external address"
        text = (
            f"its {kind} {format_address(address)} is an address of this host: there {', '.join(sorted(ports))} is answered "
            "by the Service and not by a process of the host; all other ports stay the host's"
        )
        yield Finding(f"Service {program.service}", "", text, Severity.WARNING)
