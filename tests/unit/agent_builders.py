"""Short ways to write events and to read the memory kernel in tests of the agent."""

from __future__ import annotations

from collections.abc import Iterable
from errno import ENOSPC

from policy_builders import FACTS, TCP, UDP, addresses, endpoint, named

from kpx.agent.engine import Engine
from kpx.cluster.events import Delete, Event, Synced, Upsert
from kpx.kernel.wire.conntrack import Flow
from kpx.model.addresses import Family, parse_address
from kpx.model.endpointslice import EndpointSlice, SlicePort
from kpx.model.names import ObjectName
from kpx.model.service import Service, ServicePort
from kpx.policy.desired import Frontend
from tests.lab.memory_dataplane import ENDPOINTS, MemoryDataplane

SYNCED = Synced()
REFUSED_ERRNO = ENOSPC


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class MemoryFlows:
    """A conntrack table in memory, which counts how often it was listed."""

    def __init__(self, *flows: Flow) -> None:
        self.flows = list(flows)
        self.listed = 0
        self.missed = False

    def udp(self, family: int) -> list[Flow]:
        self.listed += 1
        return [flow for flow in self.flows if flow.family == family]

    def delete(self, flows: Iterable[Flow]) -> int:
        gone = list(flows)
        self.flows = [flow for flow in self.flows if flow not in gone]
        return len(gone)


def svc(name: str, ip: str, affinity: int | None = None, udp: bool = False, node_port: int = 0, created: str = "") -> Upsert:
    port = ServicePort("p", UDP if udp else TCP, 80, node_port)
    return Upsert(Service(named(name), cluster_ips=addresses(ip), ports=(port,), affinity_timeout_s=affinity, created=created))


def eps(name: str, *backends: str, udp: bool = False, trigger: str | None = None) -> Upsert:
    service = named(name)
    ports = (SlicePort("p", UDP if udp else TCP, 8080),)
    endpoints = tuple(endpoint(address) for address in backends)
    slice_name = ObjectName(service.namespace, f"{service.name}-1")
    return Upsert(EndpointSlice(slice_name, service, Family.IPV4, ports, endpoints, trigger_time=trigger))


def gone(name: str) -> Delete:
    return Delete(Service, named(name))


def cluster(*names: str, backends: tuple[str, ...] = ("10.244.2.1", "10.244.2.2")) -> list[Event]:
    """Write Services with addresses 10.96.0.1, .2 ... and the same endpoints, all heard."""
    events: list[Event] = []
    for number, name in enumerate(names, 1):
        events += [svc(name, f"10.96.0.{number}"), eps(name, *backends)]
    return [*events, SYNCED]


def started(dataplane: MemoryDataplane, *events: Event, flows: MemoryFlows | None = None, clock: Clock | None = None) -> Engine:
    """Make an engine that has heard these events and made its first round."""
    engine = Engine(dataplane, FACTS, flows, clock=clock or Clock())
    engine.fold(events)
    engine.round("start")
    return engine


def front(ip: str, port: int = 80, udp: bool = False) -> Frontend:
    return Frontend(Family.IPV4, parse_address(ip), UDP if udp else TCP, port)


def backends_of(dataplane: MemoryDataplane, ip: str, udp: bool = False) -> list[str]:
    """Return the endpoints the memory kernel holds for a ClusterIP, in slot order."""
    rows = dataplane.kernel.get(ENDPOINTS[Family.IPV4], {})
    slots = sorted((slot, str(backend)) for (frontend, slot), backend in rows.items() if frontend == front(ip, udp=udp))
    return [backend for _, backend in slots]
