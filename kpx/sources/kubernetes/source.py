"""
The Kubernetes API as a `kpx.sources.base.Source`: four feeds, one client, one epoll.

`Synced` is said once, when everything necessary was listed; what is only useful is waited for a while longer (S9, 16.1). After
that nothing is ever taken back but by the server's word: an outage is a finding and another try, for ever (16.5).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from kpx.cluster.api_servers import API_SERVICE
from kpx.cluster.events import Event, Synced
from kpx.errors import SourceError
from kpx.model.addresses import Address, format_address, parse_address
from kpx.model.findings import Finding, Severity
from kpx.model.service import Service
from kpx.sources.base import News
from kpx.sources.kubernetes.access import ACCOUNT, Access
from kpx.sources.kubernetes.client import Client, QueueClient
from kpx.sources.kubernetes.feed import Feed
from kpx.sources.kubernetes.finder import AccessFinder, AccessSource
from kpx.sources.kubernetes.kinds import PATIENCE_S, kinds_for
from kpx.sources.kubernetes.poller import Poller
from kpx.sources.kubernetes.troubles import Trouble

"""The Service whose ClusterIP leads to the API servers, and which KUBERNETES_SERVICE_HOST names in every pod."""

DIRECT: Final = "give --master https://ADDRESS:6443 of a control plane node or of a load balancer before them"

CLUSTER_IP_HINT: Final = (
    "in a pod its address is the ClusterIP of Service default/kubernetes unless KUBERNETES_SERVICE_HOST was set to another one, "
    f"and a ClusterIP is not reached before something forwards it: {DIRECT}"
)

IMPATIENT_S: Final = 2.0
"""What patience comes to for who reads once, seconds."""


class KubernetesSource:
    """
    Services, EndpointSlices, the own Node and ServiceCIDRs of a cluster.

    Args:
        node_name: as `kpx.host.node.node_name` returns it.
        kubeconfig, master, account: see `kpx.sources.kubernetes.credentials.find`.
        proxy_name: see `kpx.model.service.for_proxy`.
        access: how to get at the server, in the place of what a child process finds.
        patience_s: see `PATIENCE_S`.
        impatient: for who reads everything once: what will not mend itself raises SourceError, and patience is short.
    """

    def __init__(
        self,
        node_name: str,
        kubeconfig: str = "",
        master: str = "",
        proxy_name: str = "",
        access: AccessSource | None = None,
        patience_s: float = PATIENCE_S,
        impatient: bool = False,
        account: Path = ACCOUNT,
    ) -> None:
        self._node_name = node_name
        self._in_cluster = not kubeconfig and not master
        self._impatient = impatient
        self._patience_s = min(patience_s, IMPATIENT_S) if impatient else patience_s
        self._clock = time.monotonic
        self._made_at = self._clock()
        if kubeconfig and not os.access(kubeconfig, os.R_OK):
            why = "kpx may not read it" if os.path.exists(kubeconfig) else "there is no such file"
            raise SourceError(f"kubeconfig {kubeconfig}: {why}")
        chance = random.random
        self._poller = Poller()
        self._access = access or AccessFinder(kubeconfig, master, self._poller, chance, account=account)
        self._feeds = [Feed(kind, self._poller, self._access, chance) for kind in kinds_for(node_name, proxy_name)]
        self._client = QueueClient(self._poller, self._access, chance)
        self._current: Access | None = None
        self._server = master
        self._synced = False
        self._go_on_at: float | None = None
        self._findings: tuple[Finding, ...] = ()

    @property
    def client(self) -> Client:
        """Return what others send requests with; usable until `close`."""
        return self._client

    def start(self) -> News:
        """Begin; nothing is known yet, and `Synced` comes with a later `poll`."""
        return self.poll()

    def fileno(self) -> int:
        """Return the epoll's descriptor, the same from start to close."""
        return self._poller.fileno()

    def poll(self) -> News:
        """
        Return what happened since the last call, without waiting.

        Raises:
            SourceError: the source is impatient and the trouble lasting.
        """
        self._poller.dispatch()
        now = self._clock()
        access = self._access.current(now)
        if access is not None and access is not self._current:
            # Whatever went wrong with the former one may go well with this.
            self._current, self._server = access, access.server
            for feed in self._feeds:
                feed.machine.hurry(now)
        for feed in self._feeds:
            feed.advance(now)
        self._client.advance(now)
        events: list[Event] = [event for feed in self._feeds for event in feed.take()]
        if self._impatient and not self._synced:
            self._refuse_lasting_trouble()
        if not self._synced and self._may_go_on(now):
            self._synced = True
            events.append(Synced())
        self._findings = tuple(dict.fromkeys(self._complaints()))
        return News(tuple(events), self._findings, now, servers=self._servers())

    def _servers(self) -> frozenset[Address]:
        texts = () if self._current is None else self._current.told.addresses
        return frozenset(parse_address(text.partition("%")[0]) for text in texts)

    def deadline(self) -> float | None:
        """Return when `poll` wants to be called next though nothing is readable."""
        times = [feed.wake_at() for feed in self._feeds]
        times += [self._client.wake_at(), self._access.wake_at(), None if self._synced else self._go_on_at]
        return min((at for at in times if at is not None), default=None)

    def heard_at(self) -> Mapping[str, float]:
        """Return when the server last said anything about each kind; before it ever did, when the source was made."""
        machines = [feed.machine for feed in self._feeds]
        return {one.kind.name: self._made_at if one.heard_at is None else one.heard_at for one in machines}

    def close(self) -> None:
        """Close every connection, and end what looks for credentials; idempotent."""
        for feed in self._feeds:
            feed.close()
        self._client.close()
        self._access.close()
        self._poller.close()

    def _refuse_lasting_trouble(self) -> None:
        if self._access.trouble is not None and self._access.trouble.lasting:
            raise SourceError(self._access.trouble.message)
        for feed in self._feeds:
            trouble = feed.machine.trouble
            if feed.machine.kind.needed and trouble is not None and trouble.lasting:
                raise SourceError(str(self._finding(trouble)))

    def _may_go_on(self, now: float) -> bool:
        """Tell whether enough is known to begin with (S9)."""
        if not all(feed.machine.complete for feed in self._feeds if feed.machine.kind.needed):
            return False
        if all(feed.machine.complete for feed in self._feeds) and self._own_node_is_known():
            return True
        if self._go_on_at is None:
            self._go_on_at = now + self._patience_s
        return now >= self._go_on_at

    def _own_node_is_known(self) -> bool:
        return any(len(feed.machine.holdings) for feed in self._feeds if feed.machine.kind.name == "Node")

    def _complaints(self) -> Iterator[Finding]:
        """Yield everything that is wrong now."""
        if self._access.trouble is not None:
            yield Finding("credentials", "", self._access.trouble.message)
        for feed in self._feeds:
            if feed.machine.trouble is not None:
                yield self._finding(feed.machine.trouble)
            yield from feed.machine.holdings.findings()
            if feed.machine.kind.name == "Node":
                yield from self._node_complaint(feed)
            elif feed.machine.kind.name == "Service":
                yield from self._loop_complaint(feed)

    def _finding(self, trouble: Trouble) -> Finding:
        server = f"API server {self._server}" if self._server else "API server"
        hint = ""
        if self._synced and trouble.severity is Severity.ERROR:
            hint = "; what it said before stays in force"
        elif trouble.unreachable and self._in_cluster:
            hint = f"; {CLUSTER_IP_HINT}"
        return Finding(server, "", trouble.message + hint, trouble.severity)

    def _node_complaint(self, feed: Feed) -> Iterator[Finding]:
        if feed.machine.complete and not len(feed.machine.holdings) and (self._synced or self._go_on_at is not None):
            text = f"there is no Node named {self._node_name}; give its name with --hostname-override"
            yield Finding(f"Node {self._node_name}", "", text)

    def _loop_complaint(self, feed: Feed) -> Iterator[Finding]:
        """Say so when the way to the API server leads through what kpx itself forwards (decision 0016)."""
        access = self._current
        held = feed.machine.holdings.get(API_SERVICE)
        if access is None or not isinstance(held, Service):
            return
        own = {format_address(address) for address in held.cluster_ips}
        if own & set(access.told.addresses):
            text = (
                "it is reached by a ClusterIP, which after a reboot nothing forwards until kpx has reached it; "
                f"unless another proxy does, {DIRECT}"
            )
            yield Finding(f"API server {self._server}", "", text, Severity.WARNING)
