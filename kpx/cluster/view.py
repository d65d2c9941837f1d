"""
ClusterView: every event heard so far, folded into what exists now, and what has changed since somebody asked.

The content depends on the last word about each object only, never on the order of events about different objects (J6):
a slice may come before its Service, and its port names are joined later, when the Service is compiled. An Upsert equal
to what is held changes nothing and dirties nothing (S7).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar, cast

from kpx.cluster.events import Delete, Event, Object, Synced
from kpx.model.endpointslice import EndpointSlice
from kpx.model.health_check import EndpointHealth
from kpx.model.names import ObjectName
from kpx.model.node import Node, ServiceCIDR
from kpx.model.service import Service

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Dirty(NamedTuple):
    """
    What has changed; true when anything has.

    Args:
        services: names whose Service, slices or endpoint health changed, also when no such Service exists (any more).
        nodes: names of Nodes.
        cidrs: whether any ServiceCIDR changed.
    """

    services: frozenset[ObjectName] = frozenset()
    nodes: frozenset[str] = frozenset()
    cidrs: bool = False

    def __bool__(self) -> bool:
        return bool(self.services or self.nodes or self.cidrs)


class ClusterView:
    """
    What exists.

    Args:
        services: all of them, skipped ones included, since people ask why they are skipped.
        synced: whether the source has said everything that existed at its start (S9).
    """

    def __init__(self) -> None:
        self._services: dict[ObjectName, Service] = {}
        self._slices: dict[ObjectName, EndpointSlice] = {}
        self._slices_of: dict[ObjectName, dict[ObjectName, EndpointSlice]] = {}
        self._nodes: dict[str, Node] = {}
        self._cidrs: dict[ObjectName, ServiceCIDR] = {}
        self._health: dict[ObjectName, EndpointHealth] = {}
        self._dirty_services: set[ObjectName] = set()
        self._dirty_nodes: set[str] = set()
        self._dirty_cidrs = False
        self.synced = False

    @property
    def services(self) -> Mapping[ObjectName, Service]:
        """Return the Services by name; live, not to be changed."""
        return self._services

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Return the Nodes by name; live, not to be changed."""
        return self._nodes

    @property
    def service_cidrs(self) -> Mapping[ObjectName, ServiceCIDR]:
        """Return the ServiceCIDRs; live, not to be changed."""
        return self._cidrs

    @property
    def health(self) -> Mapping[ObjectName, EndpointHealth]:
        """Return what checking found out, by Service, for those of which anything was said; live, not to be changed."""
        return self._health

    def slices_of(self, service: ObjectName) -> tuple[EndpointSlice, ...]:
        """Return the slices labelled with a Service, sorted by name, skipped ones included; also for unknown Services."""
        slices = self._slices_of.get(service)
        return tuple(slices[name] for name in sorted(slices)) if slices else ()

    def fold(self, event: Event) -> None:
        """Take in one event; costs the same however much exists."""
        if isinstance(event, Synced):
            self.synced = True
        elif isinstance(event, Delete):
            self._put(event.kind, event.name, None)
        else:
            self._put(type(event.object), event.object.name, event.object)

    def take_dirty(self) -> Dirty:
        """Return what changed since the last call, and forget it."""
        dirty = Dirty(frozenset(self._dirty_services), frozenset(self._dirty_nodes), self._dirty_cidrs)
        self._dirty_services.clear()
        self._dirty_nodes.clear()
        self._dirty_cidrs = False
        return dirty

    def _put(self, kind: type[Object], name: ObjectName, value: Object | None) -> None:
        """Make `value` the state of an object, None for gone (which is nothing when it never was, E7)."""
        if kind is EndpointSlice:
            self._put_slice(name, cast(EndpointSlice | None, value))
        elif kind is Service:
            if _replace(self._services, name, cast(Service | None, value)):
                self._dirty_services.add(name)
        elif kind is Node:
            if _replace(self._nodes, name.name, cast(Node | None, value)):
                self._dirty_nodes.add(name.name)
        elif kind is EndpointHealth:
            if _replace(self._health, name, cast(EndpointHealth | None, value)):
                self._dirty_services.add(name)
        elif _replace(self._cidrs, name, cast(ServiceCIDR | None, value)):
            self._dirty_cidrs = True

    def _put_slice(self, name: ObjectName, value: EndpointSlice | None) -> None:
        """Change a slice; when its label moves to another Service, both are dirty."""
        before = self._slices.get(name)
        if not _replace(self._slices, name, value):
            return
        if before is not None and before.service is not None:
            siblings = self._slices_of[before.service]
            del siblings[name]
            if not siblings:
                del self._slices_of[before.service]
            self._dirty_services.add(before.service)
        if value is not None and value.service is not None:
            self._slices_of.setdefault(value.service, {})[name] = value
            self._dirty_services.add(value.service)


def _replace(held: dict[_Key, _Value], key: _Key, value: _Value | None) -> bool:
    """Store or remove (None) a value; tell whether that made a difference."""
    if held.get(key) == value:
        return False
    if value is None:
        del held[key]
    else:
        held[key] = value
    return True
