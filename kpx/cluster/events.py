"""Events: the only thing a source says."""

from __future__ import annotations

from typing import NamedTuple

from kpx.model.endpointslice import EndpointSlice
from kpx.model.names import ObjectName
from kpx.model.node import Node, ServiceCIDR
from kpx.model.service import Service

Object = Service | EndpointSlice | Node | ServiceCIDR


class Upsert(NamedTuple):
    """An object exists and looks like this now."""

    object: Object


class Delete(NamedTuple):
    """An object is gone; deleting what was never seen is nothing (E7)."""

    kind: type[Service] | type[EndpointSlice] | type[Node] | type[ServiceCIDR]
    name: ObjectName


class Synced(NamedTuple):
    """Everything that existed at the start has been said; nothing may be removed before this (S9)."""


Event = Upsert | Delete | Synced
