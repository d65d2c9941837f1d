"""
What the loop listens to and talks to, in one place.

`run` opens all of it for an agent; a test puts the same loop between things of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kpx.agent.accepting import Accepting
from kpx.agent.announcing import Announcing
from kpx.agent.handover import Handover
from kpx.agent.health import Health
from kpx.agent.lock import AgentLock
from kpx.agent.metrics import Metrics
from kpx.agent.notify import Notifier
from kpx.agent.reload import LiveSettings
from kpx.agent.serving import Serving
from kpx.agent.signals import Signals
from kpx.dataplanes.base import Dataplane
from kpx.host.addresses import AddressFeed, HostAddresses
from kpx.model.addresses import Address
from kpx.model.facts import NodeFacts
from kpx.model.node import Node
from kpx.sources.base import Source


class Surroundings(NamedTuple):
    """
    What the loop listens to and talks to; each is closed by whoever opened it, the source by the loop.

    Args:
        facts_of: from this node's Node object, its addresses, and those of the API server.
        needs_node: there is a cluster, so a node without a Node object is none that load balancers should use (15.1).
    """

    open_source: Callable[[], Source]
    lock: AgentLock
    dataplane: Dataplane
    addresses: AddressFeed
    signals: Signals
    facts_of: Callable[[Node | None, HostAddresses, frozenset[Address]], NodeFacts]
    health: Health
    metrics: Metrics
    notifier: Notifier
    handover: Handover
    serving: Serving
    announcing: Announcing
    needs_node: bool = False
    settings: LiveSettings | None = None
    accepting: Accepting | None = None
