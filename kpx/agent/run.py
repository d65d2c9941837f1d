"""The whole agent: everything a `Config` names, put together, run, and taken apart again whatever happens."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
from collections.abc import Iterable, Iterator

import msgspec

import kpx
from kpx import log
from kpx.agent.assemble import KernelAddresses, dataplane_name, node_facts, open_dataplane, open_source
from kpx.agent.config import Config, parse_listen_address
from kpx.agent.connections import Flows
from kpx.agent.engine import Engine
from kpx.agent.handover import Handover, others_than
from kpx.agent.health import Health
from kpx.agent.lock import AgentLock
from kpx.agent.loop import Agent, Surroundings
from kpx.agent.metrics import Metrics
from kpx.agent.notify import Notifier
from kpx.agent.rounds import Round, log_round
from kpx.agent.signals import Signals
from kpx.agent.tuning import tune
from kpx.agent.web import Answer, WebServer
from kpx.dataplanes.base import Dataplane
from kpx.errors import KernelError
from kpx.host import features, kube_proxy
from kpx.host.addresses import AddressFeed
from kpx.kernel.conntrack import ConntrackFlows
from kpx.kernel.netlink import Netlink

logger = logging.getLogger(__name__)


def run(config: Config) -> None:
    """
    Run the agent until it is told to stop; see `Agent.run`.

    Raises:
        AlreadyRunning: another agent serves this network namespace. KpxError: start failed.
    """
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(AgentLock())
        dataplane = stack.enter_context(contextlib.closing(open_dataplane(config)))
        untuned = tune(config, dataplane.name)
        engine, addresses = _engine(config, dataplane, stack)
        engine.findings.replace("tuning", untuned)
        health = Health(engine.facts.families, config.sync_period_s)
        metrics = Metrics(dataplane.name)
        for server in web_servers(config, health, metrics):
            server.start()
            stack.callback(server.stop)
        log.event(logger, logging.INFO, "kpx", version=kpx.__version__, dataplane=dataplane.name, node=engine.facts.name)
        around = Surroundings(
            open_source=lambda: open_source(config),
            lock=lock,
            dataplane=dataplane,
            addresses=addresses,
            signals=stack.enter_context(Signals()),
            facts_of=lambda node, host: node_facts(config, node, host),
            health=health,
            metrics=metrics,
            notifier=Notifier(),
            handover=stack.enter_context(contextlib.closing(Handover(dataplane.name, others_than(dataplane_name(config))))),
        )
        agent = Agent(engine, around, config.min_sync_period_s, config.sync_period_s)
        stack.callback(agent.close)
        with _without_garbage_collection():
            agent.start()
        _look_for_kube_proxy()
        agent.run()


def sync(config: Config) -> tuple[Engine, Round]:
    """
    Make the kernel equal to what the source says now, once; return the engine and what it did.

    Raises:
        AlreadyRunning: an agent serves this network namespace. KpxError: it cannot be done.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(AgentLock())
        source = stack.enter_context(contextlib.closing(open_source(config)))
        news = source.start()
        dataplane = stack.enter_context(contextlib.closing(open_dataplane(config)))
        untuned = tune(config, dataplane.name)
        engine, addresses = _engine(config, dataplane, stack)
        engine.findings.replace("tuning", untuned)
        stack.enter_context(_without_garbage_collection())
        engine.findings.replace("source", news.findings)
        engine.fold(news.events)
        engine.set_facts(node_facts(config, engine.own_node, addresses.current))
        done = engine.round("sync", news.read_at)
        log_round(done)
        handover = stack.enter_context(contextlib.closing(Handover(dataplane.name, others_than(dataplane_name(config)))))
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


def _look_for_kube_proxy() -> None:
    """Warn of a kube-proxy beside us, and of what one left behind; neither stops us, since they may serve other Services."""
    try:
        found = features.kube_proxy(kube_proxy.running(), kube_proxy.find().counted())
    except KernelError as error:
        log.event(logger, logging.WARNING, "cannot look for kube-proxy", why=str(error))
        return
    if not found.ok:
        log.event(logger, logging.WARNING, "kube-proxy", found=found.found, remedy=found.remedy)


def web_servers(config: Config, health: Health, metrics: Metrics) -> Iterable[WebServer]:
    """Return the HTTP servers the settings ask for, not started (15.1, 15.2)."""
    name = dataplane_name(config, kernel=False)
    settings = json.dumps({"kpx": msgspec.to_builtins(config)}, indent=2) + "\n"
    probes = {
        "/healthz": metrics.counted("healthz", health.healthz),
        "/livez": metrics.counted("livez", health.livez),
    }
    pages = {
        "/metrics": metrics.page,
        "/healthz": lambda: Answer("ok"),
        "/proxyMode": lambda: Answer(name),
        "/configz": lambda: Answer(settings, content_type="application/json"),
    }
    wanted = (("healthz", config.healthz_bind_address, probes), ("metrics", config.metrics_bind_address, pages))
    for which, address, routes in wanted:
        if address:
            yield WebServer(which, parse_listen_address(f"--{which}-bind-address", address), routes)


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """
    Keep the collector out of the first sync, and what the first sync leaves out of the collector.

    The cluster is millions of objects that live on and hold no cycles; going through them costs tens of milliseconds, which
    the next change would wait for.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()
