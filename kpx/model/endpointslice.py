"""An EndpointSlice: which addresses stand behind a Service (contract sections 2 and 3)."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from kpx.model.addresses import Address, Family
from kpx.model.names import ObjectName, Protocol

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """
    One address of a slice: addresses[0] (J7) and its conditions with their defaults filled in (E1).

    Args:
        node_name: None when the slice does not say; then the endpoint is never local (E3).
        zone_hints, node_hints: where traffic should be kept (T2, T3).
    """

    address: Address
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node_name: str | None = None
    zone: str | None = None
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()


class SlicePort(NamedTuple):
    """A port of a slice; only ports with a name (possibly "") and a number reach this type (J3)."""

    name: str
    protocol: Protocol
    port: int


class EndpointSlice(msgspec.Struct, frozen=True, gc=False):
    """
    Part of the endpoints of one Service, one family.

    A v1 Endpoints object decodes to slices too; their names carry a suffix no real slice can have.

    Args:
        service: from the label kubernetes.io/service-name; None when it is missing (J2).
        family: None for addressType FQDN (J8).
        skipped: why it is ignored, "" when it counts (S2, J2, J8).
        trigger_time: annotation endpoints.kubernetes.io/last-change-trigger-time, RFC 3339, or None (E10).
    """

    name: ObjectName
    service: ObjectName | None
    family: Family | None
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    skipped: str = ""
    trigger_time: str | None = None
