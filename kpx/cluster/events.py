"""Events: the only thing a source says, and what the agent finds out about endpoints."""

from __future__ import annotations

from typing import NamedTuple

from kpx.model.endpointslice import EndpointSlice
from kpx.model.health_check import EndpointHealth
from kpx.model.names import ObjectName
from kpx.model.node import Node, ServiceCIDR
from kpx.model.service import Service

Object = Service | EndpointSlice | Node | ServiceCIDR | EndpointHealth


class Upsert(NamedTuple):
    """An object exists and looks like this now."""

    object: Object


class Delete(NamedTuple):
    """An object is gone; deleting what was never seen is nothing (E7)."""

    kind: type[Service] | type[EndpointSlice] | type[Node] | type[ServiceCIDR] | type[EndpointHealth]
    name: ObjectName


class Synced(NamedTuple):
    """Everything that existed at the start has been said; nothing may be removed before this (S9)."""


Event = Upsert | Delete | Synced
