"""The whole agent: everything a `Config` names, put together, run, and taken apart again whatever happens."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator

import kpx
from kpx import log
from kpx.agent.accepting import Accepting, accept_flows
from kpx.agent.announcing import Announcing
from kpx.agent.assemble import KernelAddresses, client_of, node_facts, open_dataplane, open_source
from kpx.agent.connections import Flows
from kpx.agent.engine import Engine
from kpx.agent.handover import Handover
from kpx.agent.health import Health
from kpx.agent.lock import AgentLock
from kpx.agent.loop import Agent, status_line
from kpx.agent.metrics import Metrics
from kpx.agent.notify import Notifier
from kpx.agent.pages import pages
from kpx.agent.reading import read_source
from kpx.agent.reload import LiveSettings
from kpx.agent.rounds import Round, log_round
from kpx.agent.serving import Serving
from kpx.agent.signals import Signals
from kpx.agent.standing import Standing
from kpx.agent.surroundings import Surroundings
from kpx.agent.tuning import tune, tune_again, tune_host, tune_process
from kpx.cluster.api_servers import api_servers
from kpx.dataplanes.base import Dataplane
from kpx.dataplanes.registry import FORMER
from kpx.errors import KernelError
from kpx.host import features, heap, kube_proxy
from kpx.host.addresses import AddressFeed
from kpx.kernel.conntrack import ConntrackFlows
from kpx.kernel.netlink import Netlink
from kpx.settings.config import Config
from kpx.settings.layers import Loaded
from kpx.sources.base import Source
from kpx.sources.kubernetes.events import EventPoster

logger = logging.getLogger(__name__)


def run(config: Config, settings: LiveSettings | None = None) -> None:
    """
    Run the agent until it is told to stop; see `Agent.run`.

    Args:
        settings: where `config` is from, and may change.

    Raises:
        RestartNeeded: settings changed that a running agent cannot change.
        AlreadyRunning: another agent serves this network namespace. KpxError: start failed.
    """
    settings = settings or LiveSettings(Loaded(config))
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(AgentLock())
        dataplane = stack.enter_context(contextlib.closing(open_dataplane(config)))
        untuned = tune(config, dataplane.name)
        engine, addresses = _engine(config, dataplane, stack)
        announcing = _announcing(config, engine, lambda: agent.source)
        engine.findings.replace("tuning", untuned)
        health = Health(engine.facts.families, config.sync_period_s)
        metrics = Metrics(dataplane.name)
        serving = stack.enter_context(contextlib.closing(Serving(engine.findings, health.is_healthy, announcing.cannot_listen)))
        serving.start(
            pages(lambda: settings.config, dataplane.name, health, metrics, lambda: status_line(engine)),
            config.bind_address_hard_fail,
        )
        log.event(logger, logging.INFO, "kpx", version=kpx.__version__, dataplane=dataplane.name, node=engine.facts.name)
        accepting = Accepting(
            lambda: settings.config,
            dataplane.name,
            lambda: engine.facts.families,
            lambda found: engine.findings.replace("accepting", found),
        )
        around = Surroundings(
            open_source=lambda: open_source(settings.config),
            lock=lock,
            dataplane=dataplane,
            addresses=addresses,
            signals=stack.enter_context(Signals()),
            facts_of=lambda node, host, servers: node_facts(settings.config, node, host, servers),
            health=health,
            metrics=metrics,
            notifier=Notifier(),
            handover=stack.enter_context(contextlib.closing(Handover(dataplane.name, FORMER[dataplane.name]))),
            serving=serving,
            announcing=announcing,
            needs_node=not config.manifests,
            settings=stack.enter_context(contextlib.closing(settings)),
            accepting=accepting,
        )
        agent = Agent(engine, around, config.min_sync_period_s, config.sync_period_s)
        stack.callback(agent.close)
        metrics.watch(_standing(agent, health, serving, dataplane))
        accepting.look()
        with _without_garbage_collection():
            agent.start()
        engine.findings.replace("tuning", untuned + tune_host(config) + tune_process(config))
        settings.follow(lambda changed: engine.findings.replace("tuning", tune_again(changed, dataplane.name)))
        settings.follow(lambda _: accepting.look())
        _look_for_kube_proxy(announcing)
        agent.run()


def sync(config: Config) -> tuple[Engine, Round]:
    """
    Make the kernel equal to what the source says now, once; return the engine and what it did.

    Raises:
        AlreadyRunning: an agent serves this network namespace. KpxError: it cannot be done.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(AgentLock())
        news = read_source(config)
        dataplane = stack.enter_context(contextlib.closing(open_dataplane(config)))
        untuned = tune(config, dataplane.name)
        engine, addresses = _engine(config, dataplane, stack)
        engine.findings.replace("tuning", untuned)
        stack.enter_context(_without_garbage_collection())
        engine.findings.replace("source", news.findings)
        engine.fold(news.events)
        servers = news.servers | api_servers(engine.view)
        engine.set_facts(node_facts(config, engine.own_node, addresses.current, servers))
        done = engine.round("sync", news.read_at)
        engine.findings.replace("tuning", untuned + tune_host(config))
        engine.findings.replace("accepting", accept_flows(config, dataplane.name, engine.facts.families))
        log_round(done)
        handover = stack.enter_context(contextlib.closing(Handover(dataplane.name, FORMER[dataplane.name])))
        handover.begin()
        handover.step(engine.facts)
        if not handover.is_done:
            log.event(logger, logging.WARNING, "connections of another data plane live on; sync again, or run the agent")
        return engine, done


def _engine(config: Config, dataplane: Dataplane, stack: contextlib.ExitStack) -> tuple[Engine, AddressFeed]:
    netlink = stack.enter_context(contextlib.closing(Netlink()))
    flows: Flows = ConntrackFlows(netlink)
    addresses = stack.enter_context(contextlib.closing(AddressFeed(KernelAddresses())))
    engine = Engine(dataplane, node_facts(config, None, addresses.current), flows, config.sync_period_s)
    engine.set_host(addresses.current.every())
    return engine, addresses


def _announcing(config: Config, engine: Engine, source: Callable[[], Source]) -> Announcing:
    """Return what tells of trouble on the objects concerned, listening already; where there is no API server, it keeps quiet."""
    name = engine.facts.name
    if config.manifests:
        return Announcing(None, name, engine.findings)
    announcing = Announcing(EventPoster(lambda: client_of(source()), name), name, engine.findings)
    engine.findings.witness = engine.refusals.witness = announcing
    return announcing


def _look_for_kube_proxy(announcing: Announcing) -> None:
    """Warn of a kube-proxy beside us, and of what one left behind; neither stops us, since they may serve other Services."""
    try:
        found = features.kube_proxy(kube_proxy.running(), kube_proxy.find().counted())
    except KernelError as error:
        log.event(logger, logging.WARNING, "cannot look for kube-proxy", why=str(error))
        return
    if not found.ok:
        log.event(logger, logging.WARNING, "kube-proxy", found=found.found, remedy=found.remedy)
        announcing.on_node("KubeProxyFound", f"{found.found}; {found.remedy}")


def _standing(agent: Agent, health: Health, serving: Serving, dataplane: Dataplane) -> Standing:
    """Return whom a scrape asks how things are."""
    engine = agent.engine
    return Standing(
        families=health.families,
        eligible=lambda: health.eligible,
        findings=lambda: engine.findings.counts,
        draining=dataplane.draining_count,
        lacking=lambda: engine.localities.lacking,
        heard_at=agent.heard_at,
        listening=lambda: (len(serving.listening), len(serving.listening.failing)),
        checks=agent.checks,
    )


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """
    Keep the collector out of the first sync, and what the first sync leaves out of the collector.

    The cluster is millions of objects that live on and hold no cycles; going through them costs up to seconds, which
    the next change would wait for. What it leaves free is returned to the kernel.
    """
    gc.disable()
    try:
        yield
    finally:
        # Nothing is collected before: of millions of objects some hundred are garbage, and looking for them takes seconds.
        gc.freeze()
        gc.enable()
        heap.give_back()
