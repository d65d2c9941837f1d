"""
A Service from its wire shape (contract section 4).

Mistakes that would change who is served (ports, ClusterIPs, source ranges, policies) reject the object, so that its last good
version stays in force. What Kubernetes itself ignores (an externalIP that is no address, V2) only warns.
"""

from __future__ import annotations

from collections.abc import Iterable
from sys import intern

from msgspec import UNSET

from kpx.model import wire
from kpx.model.addresses import Address, Family, Prefix, family_of, parse_address
from kpx.model.decode_health_check import read_health_check
from kpx.model.decode_scheduler import read_scheduler, read_scheduler_flags
from kpx.model.names import ObjectName, Protocol, is_port_name
from kpx.model.notes import Notes, read_choice, read_port, read_prefixes, read_protocol, read_time
from kpx.model.service import DEFAULT_AFFINITY_TIMEOUT_S, LEFT_TO_OTHERS, Service, ServicePort
from kpx.model.type_errors import quote

_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
_POLICIES = ("Cluster", "Local")
_FAMILIES = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}
_NO_SPEC = wire.ServiceSpec()
_LONGEST_AFFINITY_S = 86400


def decode_service(manifest: wire.Service, name: ObjectName, notes: Notes) -> tuple[Service, ...]:
    """Return the Service; when `notes.rejected` is set afterwards, it must not be used."""
    spec = manifest.spec or _NO_SPEC
    kind = read_choice(spec.type, _TYPES, "spec.type", notes)
    external_ips = _addresses(spec.external_ips or (), "spec.externalIPs[{}]", notes)
    external_local = read_choice(spec.external_traffic_policy, _POLICIES, "spec.externalTrafficPolicy", notes) == "Local"
    internal_local = read_choice(spec.internal_traffic_policy, _POLICIES, "spec.internalTrafficPolicy", notes) == "Local"
    skipped = _skipped(manifest, spec, kind, notes)
    check_port = read_port(spec.health_check_node_port, "spec.healthCheckNodePort", notes, zero=True)
    metadata = manifest.metadata
    ports = _ports(spec.ports or (), notes)
    service = Service(
        name=name,
        created=read_time(metadata.creation_timestamp, "metadata.creationTimestamp", notes) if metadata else "",
        type=intern(kind),
        skipped=skipped,
        cluster_ips=() if kind == "ExternalName" else _cluster_ips(spec, notes),
        ports=ports,
        external_ips=external_ips,
        load_balancer_ips=_load_balancer_ips(manifest.status, notes),
        source_ranges=_source_ranges(spec, notes),
        external_policy_local=external_local and (kind in ("NodePort", "LoadBalancer") or bool(external_ips)),  # V6
        internal_policy_local=internal_local,  # V7
        affinity_timeout_s=_affinity_timeout_s(spec, notes),
        health_check_node_port=check_port if kind == "LoadBalancer" and external_local else 0,  # V8
        scheduler=read_scheduler(metadata, notes),
        scheduler_flags=read_scheduler_flags(metadata, notes),
        proxy_name=_proxy_name(manifest),
        health_check=read_health_check(metadata, ports, notes),
    )
    return (service,)


def _skipped(manifest: wire.Service, spec: wire.ServiceSpec, kind: str, notes: Notes) -> str:
    """Return why no node forwards the Service (S1, S4), "" when it counts."""
    if kind == "ExternalName":
        return "type ExternalName"
    first = spec.cluster_ip or (spec.cluster_ips[0] if spec.cluster_ips else "")
    if first == "None":
        return "headless"
    if not first:
        notes.warn("spec.clusterIP", "no address, so the Service is not served; where no API server gives it one, write one here")
        return "no clusterIP"
    return "" if _proxy_name(manifest) is None else LEFT_TO_OTHERS


def _proxy_name(manifest: wire.Service) -> str | None:
    """Return the name of the proxy a Service is for, None without the label (S1); what is not text is nobody's name."""
    labels = manifest.metadata.labels if manifest.metadata else None
    if labels is None or labels.proxy_name is UNSET:
        return None
    return intern(labels.proxy_name) if isinstance(labels.proxy_name, str) else ""


def _cluster_ips(spec: wire.ServiceSpec, notes: Notes) -> tuple[Address, ...]:
    """
    Return at most one ClusterIP a family, in the object's order (V1).

    The position of a family in ipFamilies is the position of its address; old objects have no ipFamilies, and
    very old ones no clusterIPs.
    """
    texts = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    field = "spec.clusterIPs[{}]" if spec.cluster_ips else "spec.clusterIP"
    if spec.cluster_ips and spec.cluster_ip and spec.cluster_ip != texts[0]:
        notes.reject("spec.clusterIP", f"{spec.cluster_ip!r} is not clusterIPs[0], {texts[0]!r}; make them equal")
    families = _families(spec.ip_families, notes)
    chosen: dict[Family, Address] = {}
    for index, text in enumerate(texts):
        if not text or text == "None":
            continue
        path = field.format(index)
        try:
            address = parse_address(text)
        except ValueError as error:
            notes.reject(path, str(error))
            continue
        family = family_of(address)
        if index >= len(families) > 0:
            notes.warn(path, f"spec.ipFamilies has no entry for {text}; ignored")
        elif families and families[index] != family:
            notes.reject(path, f"{text} is {family}, but spec.ipFamilies[{index}] is {families[index]}")
        elif family in chosen:
            notes.reject(path, f"{text} is a second {family} ClusterIP; a Service has one a family")
        else:
            chosen[family] = address
    return tuple(chosen.values())


def _families(texts: list[str] | None, notes: Notes) -> list[Family]:
    """Return spec.ipFamilies."""
    families = []
    for index, text in enumerate(texts or ()):
        family = _FAMILIES.get(text)
        if family is None:
            notes.reject(f"spec.ipFamilies[{index}]", f"{text!r} is not one of IPv4, IPv6")
        else:
            families.append(family)
    return families


def _ports(ports: Iterable[wire.ServicePort], notes: Notes) -> tuple[ServicePort, ...]:
    """Return the ports; names, (port, protocol) and (nodePort, protocol) are unique within a Service."""
    decoded = []
    names: set[str] = set()
    numbers: set[tuple[str, int, Protocol]] = set()
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        protocol = read_protocol(port.protocol, path + ".protocol", notes)
        number = read_port(port.port, path + ".port", notes)
        node_port = read_port(port.node_port, path + ".nodePort", notes, zero=True)
        name = intern(port.name or "")
        if not is_port_name(name):
            notes.reject(path + ".name", f"{quote(name)} is not a name of a port; use letters, digits and '-', at most 63")
        if name in names:
            notes.reject(path + ".name", f"{name!r} is the name of an earlier port; ports need different names")
        names.add(name)
        for field, value in (("port", number), ("nodePort", node_port)):
            if value and (field, value, protocol) in numbers:
                notes.reject(f"{path}.{field}", f"{value}/{protocol} is in use by an earlier port of this Service")
            numbers.add((field, value, protocol))
        decoded.append(ServicePort(name, protocol, number, node_port))
    return tuple(decoded)


def _addresses(texts: Iterable[str], field: str, notes: Notes) -> tuple[Address, ...]:
    """Return addresses without repetitions; text that is no address is skipped with a warning (V2)."""
    addresses: dict[Address, None] = {}
    for index, text in enumerate(texts):
        try:
            addresses[parse_address(text)] = None
        except ValueError as error:
            notes.warn(field.format(index), f"{error}; skipped")
    return tuple(addresses)


def _load_balancer_ips(status: wire.ServiceStatus | None, notes: Notes) -> tuple[Address, ...]:
    """Return the ingress addresses nodes capture: ipMode VIP, or none given (V3)."""
    if status is None or status.load_balancer is None or not status.load_balancer.ingress:
        return ()
    captured = []
    for index, ingress in enumerate(status.load_balancer.ingress):
        if ingress.ip_mode not in (None, "", "VIP", "Proxy"):
            path = f"status.loadBalancer.ingress[{index}].ipMode"
            notes.warn(path, f"{ingress.ip_mode!r} is not one of VIP, Proxy; the address is left alone")
        captured.append(ingress.ip if ingress.ip and ingress.ip_mode in (None, "", "VIP") else "")
    path = "status.loadBalancer.ingress[{}].ip"
    addresses: dict[Address, None] = {}
    for index, text in enumerate(captured):
        if text:
            addresses.update(dict.fromkeys(_addresses((text,), path.format(index), notes)))
    return tuple(addresses)


def _source_ranges(spec: wire.ServiceSpec, notes: Notes) -> tuple[Prefix, ...]:
    """
    Return the ranges clients may come from (V4); a zero-length range lifts the restriction of its family.

    A range that cannot be read rejects the object: without it the Service would be open to more than was asked for.
    """
    ranges = read_prefixes(spec.load_balancer_source_ranges, "spec.loadBalancerSourceRanges", notes)
    open_families = {len(prefix.address) for prefix in ranges if not prefix.length}
    return tuple(prefix for prefix in ranges if len(prefix.address) not in open_families)


def _affinity_timeout_s(spec: wire.ServiceSpec, notes: Notes) -> int | None:
    """Return the session affinity timeout in seconds, None without affinity (V9)."""
    if read_choice(spec.session_affinity, ("None", "ClientIP"), "spec.sessionAffinity", notes) == "None":
        return None
    config = spec.session_affinity_config
    timeout_s = config.client_ip.timeout_seconds if config and config.client_ip else None
    if timeout_s is None:
        return DEFAULT_AFFINITY_TIMEOUT_S
    if not 1 <= timeout_s <= _LONGEST_AFFINITY_S:
        path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        notes.reject(path, f"{timeout_s} is not a session affinity timeout; use 1 to {_LONGEST_AFFINITY_S} seconds")
    return timeout_s
