"""
Which external IPs a Service gets: those the operator lets Services have (V2).

Whoever may write a Service may name any address as its external IP, and every node would send that address's traffic to the
Service's endpoints (CVE-2020-8554). `--external-ip-ranges` says which addresses may be taken that way. What is not admitted is
as if the Service had not asked for it: it is not forwarded, and it is no claim that could keep others out.
"""

from __future__ import annotations

import msgspec

from kpx.model.addresses import Address, format_address
from kpx.model.facts import NodeFacts
from kpx.model.findings import Finding, Severity
from kpx.model.service import Service


def admitted(service: Service, facts: NodeFacts) -> Service:
    """Return the Service with the external IPs it may have; the same object when that is all of them."""
    turned_away = _turned_away(service, facts)
    if not turned_away:
        return service
    kept = tuple(address for address in service.external_ips if address not in turned_away)
    return msgspec.structs.replace(service, external_ips=kept)


def turned_away(service: Service, facts: NodeFacts) -> list[Finding]:
    """Return a finding for each external IP that is not admitted."""
    outside = _turned_away(service, facts)
    return [
        Finding(
            f"Service {service.name}",
            f"spec.externalIPs[{number}]",
            f"{format_address(address)} is outside of --external-ip-ranges and is not answered; "
            "remove it, or let Services have it",
            Severity.WARNING,
        )
        for number, address in enumerate(service.external_ips)
        if address in outside
    ]


def _turned_away(service: Service, facts: NodeFacts) -> tuple[Address, ...]:
    ranges = facts.external_ip_ranges
    if ranges is None or not service.external_ips or service.skipped:
        return ()
    # A load-balancer IP is written by controllers only, so one that is an external IP too stays as what controllers made it.
    return tuple(address for address in service.external_ips if not any(address in prefix for prefix in ranges))
