"""
EndpointSlices, and v1 Endpoints turned into slices (contract sections 2 and 3).

This is the hot decode path: a cluster has ten times as many endpoints as Services, so the per-endpoint loop is kept small,
and names that repeat (nodes, zones, ports) are stored once.
"""

from __future__ import annotations

from collections.abc import Iterable
from sys import intern
from typing import Final, TypeVar

from msgspec import UNSET

from kpx.model import wire
from kpx.model.addresses import Family, family_of, parse_address
from kpx.model.endpointslice import HEADLESS_LABEL, SERVICE_NAME_LABEL, Endpoint, EndpointSlice, SlicePort
from kpx.model.names import ObjectName, is_port_name
from kpx.model.notes import Notes, read_address, read_instant, read_port, read_protocol
from kpx.model.type_errors import quote

MOST_ENDPOINTS: Final = 100_000
"""Endpoints of one slice; an API server takes 1,000 (pkg/apis/discovery/validation)."""
MOST_PORTS: Final = 20_000
"""Ports of one slice, as an API server takes them."""

_Item = TypeVar("_Item")
_FAMILIES = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}
_READY = wire.Conditions()
_TRIGGER_TIME_FIELD = f"metadata.annotations.{wire.TRIGGER_TIME_ANNOTATION}"


def decode_slice(manifest: wire.EndpointSlice, name: ObjectName, notes: Notes) -> tuple[EndpointSlice, ...]:
    """Return the slice; when `notes.rejected` is set afterwards, it must not be used."""
    labels = manifest.metadata.labels if manifest.metadata else None
    service = labels.service_name if labels else None
    family = _FAMILIES.get(manifest.address_type or "")
    skipped = _headless(labels)
    if family is None:
        if not manifest.address_type:
            notes.reject("addressType", "the address type is missing; write IPv4 or IPv6")
        elif manifest.address_type != "FQDN":
            notes.reject("addressType", f"{manifest.address_type!r} is not one of IPv4, IPv6, FQDN")
        skipped = "addressType FQDN"  # J8
    elif not service:
        skipped = f"label {SERVICE_NAME_LABEL} is missing"  # J2
        notes.warn("metadata.labels", f"label {SERVICE_NAME_LABEL} is missing, so the slice belongs to no Service; ignored")
    decoded = EndpointSlice(
        name=name,
        service=ObjectName(name.namespace, intern(service)) if service else None,
        family=family,
        ports=_ports(_bounded(manifest.ports, MOST_PORTS, "ports", notes), "ports[{}]", notes),
        endpoints=_endpoints(_bounded(manifest.endpoints, MOST_ENDPOINTS, "endpoints", notes), family, notes) if family else (),
        skipped=skipped,
        trigger_time=_trigger_time(manifest, notes),
    )
    return (decoded,)


def decode_endpoints(manifest: wire.Endpoints, name: ObjectName, notes: Notes) -> tuple[EndpointSlice, ...]:
    """
    Return one slice for each subset and family of a v1 Endpoints object; the Service has the object's name.

    The names of these slices carry a suffix no real slice can have. Addresses are ready or not, never terminating.
    """
    skipped = _headless(manifest.metadata.labels if manifest.metadata else None)
    trigger_time = _trigger_time(manifest, notes)
    slices = []
    for index, subset in enumerate(manifest.subsets or ()):
        path = f"subsets[{index}]"
        ports = _ports(_bounded(subset.ports, MOST_PORTS, path + ".ports", notes), path + ".ports[{}]", notes)
        listed = [
            *_subset_endpoints(subset.addresses, True, path + ".addresses", notes),
            *_subset_endpoints(subset.not_ready_addresses, False, path + ".notReadyAddresses", notes),
        ]
        for family in Family:
            members = tuple(endpoint for endpoint in listed if family_of(endpoint.address) == family)
            if members:
                full_name = ObjectName(name.namespace, f"{name.name} (Endpoints {index + 1} {family})")
                slices.append(EndpointSlice(full_name, name, family, ports, members, skipped, trigger_time))
    return tuple(slices)


def _headless(labels: wire.Labels | None) -> str:
    """Return why a labelled slice is ignored (S2), "" when it is not."""
    return f"label {HEADLESS_LABEL} is set" if labels is not None and labels.headless is not UNSET else ""


def _trigger_time(manifest: wire.Manifest, notes: Notes) -> str | None:
    """Return the last change trigger time (E10)."""
    if manifest.metadata is None or manifest.metadata.annotations is None:
        return None
    return read_instant(manifest.metadata.annotations.trigger_time, _TRIGGER_TIME_FIELD, notes)


def _bounded(listed: list[_Item] | None, most: int, field: str, notes: Notes) -> list[_Item]:
    """Return the members of a list, none of one so long that nobody meant it."""
    if listed is not None and len(listed) > most:
        notes.reject(field, f"{len(listed):,} members; at most {most:,} are taken, split the object")
        return []
    return listed or []


def _ports(ports: Iterable[wire.EndpointPort], path: str, notes: Notes) -> tuple[SlicePort, ...]:
    """
    Return the ports that can be joined with a service port (J3).

    A name that is null is ignored, as kube-proxy does; one that is absent is "", which is what the API server would have
    written. A port without a number means "all ports" and is ignored too.
    """
    decoded = []
    for index, port in enumerate(ports):
        place = path.format(index)
        protocol = read_protocol(port.protocol, place + ".protocol", notes)
        number = read_port(port.port, place + ".port", notes, zero=True)
        if port.name is None or not port.port:
            missing = "name" if port.name is None else "port"
            notes.warn(f"{place}.{missing}", f"the port has no {missing if missing == 'name' else 'number'}; ignored")
            continue
        if port.name is not UNSET and not is_port_name(port.name):
            notes.drop(place + ".name", f"{quote(port.name)} is not a name of a port; ignored")
            continue
        decoded.append(SlicePort("" if port.name is UNSET else intern(port.name), protocol, number))
    return tuple(decoded)


def _endpoints(endpoints: Iterable[wire.Endpoint], family: Family, notes: Notes) -> tuple[Endpoint, ...]:
    """Return the endpoints of a slice: first address only (J7), conditions with their defaults (E1)."""
    decoded = []
    length = 4 if family == Family.IPV4 else 16
    for index, endpoint in enumerate(endpoints):
        try:
            address = parse_address(endpoint.addresses[0]) if endpoint.addresses else None
        except ValueError:
            address = None
        if address is None or len(address) != length:
            _complain_of_address(endpoint.addresses, index, family, notes)
            continue
        conditions = endpoint.conditions or _READY
        node, zone, hints = endpoint.node_name, endpoint.zone, endpoint.hints
        if endpoint.topology is not None:
            node, zone = node or endpoint.topology.node, zone or endpoint.topology.zone
        decoded.append(
            Endpoint(
                address,
                conditions.ready is not False,
                conditions.serving is not False,
                conditions.terminating is True,
                intern(node) if node else None,
                intern(zone) if zone else None,
                _names(hints.for_zones) if hints else (),
                _names(hints.for_nodes) if hints else (),
            )
        )
    return tuple(decoded)


def _complain_of_address(texts: list[str] | None, index: int, family: Family, notes: Notes) -> None:
    """Say why an endpoint of a slice is ignored: it has no address, or none of the slice's family."""
    field = f"endpoints[{index}].addresses"
    if not texts:
        notes.warn(field, "no address; the endpoint is ignored")
        return
    address = read_address(texts[0], field + "[0]", notes)
    if address is not None:
        found = family_of(address)
        notes.drop(field + "[0]", f"{texts[0]} is {found}, but addressType is {family}; the endpoint is ignored")


def _names(hints: list[wire.Named] | None) -> tuple[str, ...]:
    """Return the zones or nodes of a topology hint."""
    return tuple(intern(hint.name) for hint in hints or () if hint.name)


def _subset_endpoints(addresses: list[wire.EndpointAddress] | None, ready: bool, path: str, notes: Notes) -> list[Endpoint]:
    """Return the endpoints of one list of a subset."""
    decoded = []
    for index, listed in enumerate(_bounded(addresses, MOST_ENDPOINTS, path, notes)):
        address = read_address(listed.ip or "", f"{path}[{index}].ip", notes)
        if address is not None:
            node = intern(listed.node_name) if listed.node_name else None
            decoded.append(Endpoint(address, ready=ready, serving=ready, node_name=node))
    return decoded
