"""
Which external IPs a Service gets: those the operator lets Services have (V2).

Whoever may write a Service may name any address as its external IP, and every node would send that address's traffic to the
Service's endpoints (CVE-2020-8554). `--external-ip-ranges` says which addresses may be taken that way; one of this node or of
the API server is in no range unless the operator says so (decision 0021), and a loopback address is never one. What is not
admitted is as if the Service had not asked for it: it is not forwarded, and it is no claim that could keep others out.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from kpx.model.addresses import Address, format_address, is_loopback
from kpx.model.facts import NodeFacts
from kpx.model.findings import Finding, Severity
from kpx.model.names import ObjectName
from kpx.model.service import Service


class Refused(enum.Enum):
    """Why an external IP is not admitted."""

    LOOPBACK = "loopback"
    OWN = "own"
    API_SERVER = "api-server"
    OUTSIDE = "outside"


def admitted(service: Service, facts: NodeFacts) -> Service:
    """Return the Service with the external IPs it may have; the same object when that is all of them."""
    turned_away = _turned_away(service, facts)
    if not turned_away:
        return service
    kept = tuple(address for address in service.external_ips if address not in turned_away)
    return msgspec.structs.replace(service, external_ips=kept)


def turned_away(service: Service, facts: NodeFacts) -> list[Finding]:
    """Return a finding for each external IP that is not admitted."""
    refused = _turned_away(service, facts)
    return [
        Finding(
            f"Service {service.name}",
            f"spec.externalIPs[{number}]",
            f"{format_address(address)} {_sentence(refused[address], facts)}",
            Severity.WARNING,
        )
        for number, address in enumerate(service.external_ips)
        if address in refused
    ]


def why_not(address: Address, facts: NodeFacts) -> Refused | None:
    """Return why an address may be nobody's external IP at this node, None when it may be."""
    if is_loopback(address):
        return Refused.LOOPBACK
    if address in facts.own_addresses:
        return Refused.OWN
    if address in facts.api_server_addresses:
        return Refused.API_SERVER
    ranges = facts.external_ip_ranges
    if ranges is not None and not any(address in prefix for prefix in ranges):
        return Refused.OUTSIDE
    return None


def same_but_for_admission(before: NodeFacts, after: NodeFacts) -> bool:
    """
    Tell whether facts are the same but for addresses that no external IP may be.

    Such addresses come and go, where each pod has one on the host; then only the Services that are `concerned` matter.
    """
    if before is after:
        return True
    own, api_server = before.own_addresses, before.api_server_addresses
    return msgspec.structs.replace(after, own_addresses=own, api_server_addresses=api_server) == before


def concerned(services: Mapping[ObjectName, Service], before: NodeFacts, after: NodeFacts) -> set[ObjectName]:
    """Return the Services some external IP of which was admitted and is not any more, or the other way round."""
    moved = (before.own_addresses ^ after.own_addresses) | (before.api_server_addresses ^ after.api_server_addresses)
    return {name for name, service in services.items() if not moved.isdisjoint(service.external_ips)} if moved else set()


def _turned_away(service: Service, facts: NodeFacts) -> dict[Address, Refused]:
    if not service.external_ips or service.skipped:
        return {}
    # A load-balancer IP is written by controllers only, so one that is an external IP too stays as what controllers made it.
    found = ((address, why_not(address, facts)) for address in service.external_ips)
    return {address: why for address, why in found if why is not None}


def _sentence(why: Refused, facts: NodeFacts) -> str:
    if why is Refused.LOOPBACK:
        return "is a loopback address and is not answered; remove it"
    if why is Refused.OUTSIDE:
        return "is outside of --external-ip-ranges and is not answered; remove it, or let Services have it"
    whose, word = (f"node {facts.name}", "node") if why is Refused.OWN else ("the API server", "api-server")
    return f"is an address of {whose} and is not answered; remove it, or add the word {word} to --external-ip-ranges"
