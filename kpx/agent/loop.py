"""
The loop: wait for a reason, take it in, act when it is time, tell.

One thread, one selector. A reason is a readable descriptor (source, data plane, addresses, signals) or a deadline (source,
pacing, retry, repair, watchdog). Handlers only take note; rounds happen in one place, after them. Whatever goes wrong in a round
leaves forwarding as it is and is tried again.
"""

from __future__ import annotations

import logging
import selectors
import signal
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

import kpx
from kpx import log
from kpx.agent import asking
from kpx.agent.engine import Engine
from kpx.agent.hearing import Hearing
from kpx.agent.pacing import Pacing, RepairPace
from kpx.agent.rounds import Round, log_round
from kpx.agent.surroundings import Surroundings
from kpx.agent.tending import Tending
from kpx.agent.triggers import Triggers
from kpx.checking.checks import Checking
from kpx.checking.rota import Counts
from kpx.cluster.api_servers import api_servers
from kpx.cluster.events import Delete, Event, Upsert
from kpx.errors import CapabilityError, KernelError
from kpx.host.addresses import HostAddresses
from kpx.host.node import facts_warnings
from kpx.model.addresses import Address
from kpx.model.endpointslice import EndpointSlice
from kpx.model.findings import Finding, Severity
from kpx.model.node import Node
from kpx.model.service import Service
from kpx.reconcile.retry import Backoff
from kpx.settings.config import Config
from kpx.sources.base import News, Source

logger = logging.getLogger(__name__)

STARTING_S: Final = 10.0
"""How often systemd is told that start-up goes on, seconds."""

REMEMBERED_TOUCHES: Final = 20
"""How many sentences about what others did are kept for the log."""


class Agent:
    """
    The agent of one node.

    Args:
        engine: what does the work.
        around: see `Surroundings`.
        min_sync_period_s, sync_period_s: see `Config`.
    """

    def __init__(self, engine: Engine, around: Surroundings, min_sync_period_s: float = 0.0, sync_period_s: float = 30.0) -> None:
        self.engine = engine
        self._around = around
        self._checking = engine.checking = Checking()
        self._pacing = Pacing(min_sync_period_s)
        self._repairs = RepairPace()
        self._round_backoff: Backoff[str] = Backoff(min(0.5, sync_period_s), sync_period_s)
        self._triggers = Triggers(time.time())
        self._selector = selectors.DefaultSelector()
        self._hearing = Hearing(around.open_source, self._selector, self._on_source)
        self._alive_at: float | None = None if around.notifier.watchdog_s is None else time.monotonic()
        self._touches: dict[str, None] = {}
        self._read_at: float | None = None
        self._servers: frozenset[Address] = frozenset()
        self._facts_made_of: tuple[Node | None, HostAddresses, frozenset[Address], bool] | None = None
        self._stopping = False
        audit_s = around.dataplane.audit_every_s
        self._tending = Tending(engine, around.handover, audit_s and min(audit_s, sync_period_s), self._touched)

    def run(self) -> None:
        """Step until SIGTERM or SIGINT, once started; forwarding stays as it is afterwards (16.6)."""
        while not self._stopping:
            self.step()
        self._around.notifier.stopping()
        log.event(logger, logging.INFO, "stopping, forwarding stays in place")

    def start(self) -> None:
        """
        Hear everything, make the kernel equal to it, and say that the agent is ready.

        Where the source takes its time (an API server that is not there yet), this is the loop already: everything is answered,
        nothing is written, and SIGTERM ends it without the agent having been ready.

        Raises:
            SourceError: the source cannot be read.
            CapabilityError, KernelError: the first write is refused as a whole; once the source took its time, it is tried again.
        """
        # Listening begins before reading, so that nothing that happens in between is missed.
        self._selector.register(self._around.dataplane.fileno(), selectors.EVENT_READ, self._on_dataplane)
        self._selector.register(self._around.addresses.fileno(), selectors.EVENT_READ, self._on_addresses)
        self._selector.register(self._around.signals.fileno(), selectors.EVENT_READ, self._on_signals)
        self._selector.register(self._around.lock.fileno(), selectors.EVENT_READ, self._on_asked)
        self._selector.register(self._checking.fileno(), selectors.EVENT_READ, self._on_checks)
        self._watch_settings()
        self._hear(self._hearing.start())
        self._refresh_facts()
        self._around.dataplane.touched()
        if self.engine.view.synced:
            self._pacing.began()
            self._tell(self.engine.round("start", self._read_at))
        elif not self._wait_for_source():
            return
        self._tending.begin()
        self._around.notifier.status(status_line(self.engine))
        self._around.notifier.ready()
        rows = sum(self.engine.row_counts.values())
        log.event(logger, logging.INFO, "ready", services=len(self.engine.programs), rows=rows)
        note = f"kpx {kpx.__version__} forwards Services with {self._around.dataplane.name}"
        self._around.announcing.on_node("Starting", note, action="Start", warning=False)
        self._around.announcing.act(time.monotonic())

    def _wait_for_source(self) -> bool:
        """Step until the first round was made; False when the agent is to stop before."""
        self._around.notifier.status("waiting for the source to say everything")
        while not self.engine.first_sync_done and not self._stopping:
            self._around.notifier.starting()
            self.step(STARTING_S)
        return not self._stopping

    @property
    def source(self) -> Source:
        """Return the source in use; another one after a reload."""
        return self._hearing.source

    def checks(self) -> Counts:
        """Return how the health checks of endpoints go; may be called from other threads."""
        return self._checking.counts

    def heard_at(self) -> Mapping[str, float]:
        """Return when the source was last heard of, see `Source.heard_at`; may be called from other threads."""
        return self._hearing.heard_at()

    def close(self) -> None:
        """Stop listening; idempotent."""
        self._hearing.close()
        self._checking.close()
        self._selector.close()

    def step(self, longest_s: float | None = None) -> None:
        """
        Wait for one reason, at most `longest_s` seconds, and do what it asks for.

        Source, data plane and addresses are asked before acting, so one round takes in all that has come.
        """
        for key, _ in self._selector.select(self._timeout(longest_s)):
            key.data()
        now = time.monotonic()
        self._watchdog(now)
        deadline = self._hearing.deadline()
        if deadline is not None and deadline <= now:
            self._on_source()
        deadline = self._checking.deadline()
        if deadline is not None and deadline <= now:
            self._on_checks()
        if not self._stopping:
            self._act(time.monotonic())
            self._tending.act(time.monotonic())
            self._around.serving.act(time.monotonic())
            self._around.announcing.act(time.monotonic())
            if self._around.accepting is not None:
                self._around.accepting.act(time.monotonic())

    def _timeout(self, longest_s: float | None) -> float | None:
        times = [self._hearing.deadline(), self._alive_at, self._act_at(), self._tending.deadline()]
        times += (self._around.serving.deadline(), self._around.announcing.deadline(), self._checking.deadline())
        if self._around.accepting is not None:
            times.append(self._around.accepting.deadline())
        due = min((at for at in times if at is not None), default=None)
        wait = None if due is None else max(0.0, due - time.monotonic())
        return wait if longest_s is None else min(longest_s, longest_s if wait is None else wait)

    def _act_at(self) -> float | None:
        """Return when `_act` will have something to do: not before everything was heard, nor a retry is due."""
        if not self.engine.view.synced:
            return None
        times = (self._pacing.deadline(), self._repairs.deadline(), self.engine.deadline())
        due = min((at for at in times if at is not None), default=None)
        retry = self._round_backoff.next_due()
        return due if due is None or retry is None else max(due, retry)

    def _act(self, now: float) -> None:
        if not self.engine.view.synced or not self._round_backoff.due("round", now):
            return
        if self._repairs.due(now):
            touches, self._touches = list(self._touches), {}
            self._attempt(lambda: self.engine.resync(touches))
            self._repairs.repaired(time.monotonic())
        elif self._pacing.due(now):
            self._attempt(lambda: self.engine.round("change", self._read_at))
        elif (due := self.engine.deadline()) is not None and due <= now:
            self._attempt(lambda: self.engine.round("retry"))

    def _attempt(self, make_round: Callable[[], Round]) -> None:
        """Make a round; when the kernel refuses as a whole, keep the request and try again later."""
        self._pacing.began()
        try:
            done = make_round()
        except (KernelError, CapabilityError, OSError) as error:
            now = time.monotonic()
            again = self._round_backoff.failed("round", now) - now
            log.event(logger, logging.ERROR, "round failed, trying again", error=error, again_in_s=round(again, 1))
            self._around.metrics.round_failed(self.engine.facts.families)
            self._around.announcing.on_node("SyncFailed", f"the kernel could not be written or read: {error}")
            self._pacing.request()
            return
        self._round_backoff.succeeded("round")
        self._tell(done)

    def _tell(self, done: Round) -> None:
        """Let everybody know of a round that was carried out."""
        self._read_at = None
        self._pacing.ended(time.monotonic())
        around, engine = self._around, self.engine
        around.health.written(done.failed_families)
        around.serving.programmed(engine.localities, engine.facts, done.failed_families)
        if engine.adrift:
            self._repairs.notice()
        log_round(done)
        families = engine.facts.families
        around.metrics.round_done(done, families, len(engine.programs), len(engine.refusals), engine.row_counts)
        for family, age_s in self._triggers.written(time.time()):
            around.metrics.programmed(family, age_s)
        if done:
            around.notifier.status(status_line(engine))

    def _request(self) -> None:
        """Ask for a round, and start the clock of health; not before everything is heard: a start is healthy (15.1)."""
        self._pacing.request()
        if self.engine.view.synced:
            self._around.health.queued()
        self._around.metrics.queued(self.engine.facts.families)

    def _hear(self, news: News) -> None:
        """Take in what a source says."""
        if news.servers or news.anew:
            self._servers = news.servers
        if news.anew:
            self._hear_anew(news)
            return
        self.engine.findings.replace("source", news.findings)
        if not news.events:
            return
        self.engine.fold(news.events)
        self._count(news.events)
        if self.engine.view.synced and (self._read_at is None or news.read_at < self._read_at):
            self._read_at = news.read_at
        self._request()

    def _count(self, events: tuple[Event, ...]) -> None:
        self._triggers.hear(events)
        told = [event for event in events if isinstance(event, Upsert | Delete)]
        heard = [type(event.object) if isinstance(event, Upsert) else event.kind for event in told]
        for kind, name in ((EndpointSlice, "endpoint"), (Service, "service")):
            if count := heard.count(kind):
                self._around.metrics.heard(name, count)

    def _on_source(self) -> None:
        self._hear(self._hearing.poll())
        self._refresh_facts()

    def _on_dataplane(self) -> None:
        self._touched(self._around.dataplane.touched())

    def _touched(self, touches: Collection[str]) -> None:
        """Let the next round but few read the kernel, when others touched what is ours."""
        if touches:
            self._touches.update(dict.fromkeys(list(touches)[:REMEMBERED_TOUCHES]))
            self._repairs.notice()
            self._around.health.queued()

    def _on_checks(self) -> None:
        """Take in what endpoints answered, like anything else that is heard."""
        if events := self._checking.act():
            self.engine.fold(events)
            self._request()

    def _on_asked(self) -> None:
        self._around.lock.drain(lambda asker: asking.tell(asker, self._checking.health()))

    def _on_addresses(self) -> None:
        if self._around.addresses.poll():
            self._refresh_facts()

    def _on_signals(self) -> None:
        came = self._around.signals.take()
        if came & {signal.SIGTERM, signal.SIGINT}:
            self._stopping = True
        elif signal.SIGHUP in came:
            self._reload()

    def _watch_settings(self) -> None:
        settings = self._around.settings
        if settings is None:
            return
        settings.follow(self._settle)
        self.engine.findings.replace("settings", settings.findings)
        if (descriptor := settings.open()) is not None:
            self._selector.register(descriptor, selectors.EVENT_READ, settings.poll)

    def _settle(self, config: Config) -> None:
        """Go by other settings from now on."""
        sync_period_s, audit_s = config.sync_period_s, self._around.dataplane.audit_every_s
        self._pacing.space(config.min_sync_period_s)
        self._round_backoff.bound(min(0.5, sync_period_s), sync_period_s)
        self.engine.refusals.set_limit(sync_period_s)
        self._tending.audit_every(audit_s and min(audit_s, sync_period_s))
        self._around.health.set_sync_period(sync_period_s)
        if self._around.settings is not None:
            self.engine.findings.replace("settings", self._around.settings.findings)
        self._facts_made_of = None
        self._refresh_facts()

    def _reload(self) -> None:
        """Read settings, source, addresses and kernel again; a source that cannot be read changes nothing."""
        if self._around.settings is not None:
            self._around.settings.reread()
        news = self._hearing.reopen()
        if news is not None:
            self._hear_anew(news)

    def _hear_anew(self, news: News) -> None:
        """Forget what the source said before, and read addresses and kernel again, too."""
        log.event(logger, logging.INFO, "reload")
        self._around.addresses.reread()
        self._facts_made_of = None
        self.engine.findings.replace("source", news.findings)
        self.engine.reread(news.events)
        self._refresh_facts()
        self._request()

    def _refresh_facts(self) -> None:
        """Let the engine know of this node as its Node object and addresses are now."""
        node, host = self.engine.own_node, self._around.addresses.current
        servers = self._servers | api_servers(self.engine.view)
        made_of = (node, host, servers, node is not None or self.engine.view.synced)
        if self._facts_made_of == made_of:
            return
        try:
            facts = self._around.facts_of(node, host, servers)
        except CapabilityError as error:
            if not self.engine.first_sync_done:
                raise
            log.event(logger, logging.ERROR, "this node as it is now cannot be programmed; it stays as it was", error=error)
            return
        self._facts_made_of = made_of
        self.engine.set_host(host.every())
        self._around.health.set_eligible(node.eligible if node else not self._around.needs_node)
        if facts != self.engine.facts or not self.engine.first_sync_done:
            self.engine.set_facts(facts)
            self._around.health.set_families(facts.families)
            # What a Node object may still say is not missing yet.
            warnings = facts_warnings(facts) if made_of[-1] else ()
            found = (Finding(f"node {facts.name}", "", text, Severity.WARNING) for text in warnings)
            self.engine.findings.replace("node", tuple(found))
            self._request()

    def _watchdog(self, now: float) -> None:
        interval = self._around.notifier.watchdog_s
        if interval is not None and (self._alive_at is None or now >= self._alive_at):
            self._around.notifier.alive()
            self._alive_at = now + interval


def status_line(engine: Engine) -> str:
    """Return how it goes, as `systemctl status` shows it."""
    rows = sum(engine.row_counts.values())
    refused = f", the kernel refuses {len(engine.refusals)} rows" if engine.refusals else ""
    return f"{len(engine.programs)} Services, {rows} rows in the kernel{refused}"
