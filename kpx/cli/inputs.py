"""What verbs ask about: what the manifests want, what the kernel holds; and what to say when it may not be read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from kpx import api
from kpx.agent import asking
from kpx.agent.assemble import NO_SOURCE, has_source
from kpx.agent.reading import read_source
from kpx.cli.output import note, waiting
from kpx.cluster.events import Upsert
from kpx.cluster.view import ClusterView
from kpx.dataplanes.base import Dataplane
from kpx.errors import CapabilityError, ConfigError, PermissionDenied, SourceError
from kpx.model.facts import NodeFacts
from kpx.model.findings import Finding
from kpx.model.names import ObjectName, PortName
from kpx.model.service import Service
from kpx.policy.desired import Frontend, ServiceProgram
from kpx.reconcile.rows import Rows
from kpx.settings.config import Config


class Wanted(NamedTuple):
    """What the manifests want of this node."""

    manifests: api.Manifests
    facts: NodeFacts
    programs: dict[ObjectName, ServiceProgram]

    @property
    def services(self) -> Mapping[ObjectName, Service]:
        """Return the Services, skipped ones too."""
        return self.manifests.view.services

    @property
    def owners(self) -> dict[Frontend, PortName]:
        """Return whose each frontend is."""
        return owners_of(self.programs)

    def rows(self, dataplane: Dataplane) -> Rows:
        """Return the rows these manifests give."""
        return api.render(dataplane, self.programs, self.facts, self.manifests.view.service_cidrs.values())


def owners_of(programs: Mapping[ObjectName, ServiceProgram]) -> dict[Frontend, PortName]:
    """Return whose each frontend is."""
    pairs = (pair for program in programs.values() for pair in program.frontends())
    return {held.frontend: port.name for port, held in pairs}


def need_source(config: Config) -> None:
    """Raise ConfigError when nothing says where Services come from."""
    if not has_source(config):
        raise ConfigError(NO_SOURCE)


def names_source(config: Config) -> bool:
    """Tell whether somebody asked for a source; in a pod there is one without."""
    return bool(config.manifests or config.kubeconfig or config.master)


def read_if_any(config: Config) -> Wanted | None:
    """
    Read the source if there is one, for verbs that have something to tell without.

    Raises:
        SourceError: it cannot be read, and was asked for; the cluster of a pod that cannot be read is a word on stderr.
    """
    if names_source(config):
        return read_wanted(config)
    if not has_source(config):
        return None
    try:
        return read_wanted(config)
    except SourceError as error:
        note(f"warning: {error}; told from the kernel alone")
        return None


def read_wanted(config: Config, quiet: bool = False) -> Wanted:
    """
    Read the source and compile it for this node; what is wrong in it is said on stderr (unless `quiet`) and stops nothing.

    Raises:
        ConfigError: nothing says where Services come from.
        SourceError: it cannot be read.
    """
    need_source(config)
    with waiting(f"reading {config.manifests or config.master or config.kubeconfig or 'the API server'}"):
        news = read_source(config)
        manifests = api.Manifests(ClusterView(), news.findings)
        for event in news.events:
            manifests.view.fold(event)
        is_known = _hear_checks(manifests.view)
        facts = api.node_facts_of(config, manifests.view, news.servers)
        programs = api.compile(manifests.view, facts)
    wanted = Wanted(manifests, facts, programs)
    for finding in () if quiet else problems(wanted):
        note(f"warning: {finding}")
    if not is_known and not quiet:
        note("note: no running agent tells which endpoints fail their health check; all are taken to pass")
    return wanted


def _hear_checks(view: ClusterView) -> bool:
    """Let the running agent say what it found out about endpoints; False when that matters and nobody says it."""
    if not any(service.health_check for service in view.services.values()):
        return True
    told = asking.ask()
    for health in told or ():
        view.fold(Upsert(health))
    return told is not None


def meet(wanted: Wanted, dataplane: Dataplane) -> Wanted:
    """
    Let the data plane know of the node, and what is wanted know of the kernel: which of the schedulers it lacks.

    Raises:
        KernelError: it does not answer.
    """
    names = {wanted.facts.scheduler, *(s.scheduler for s in wanted.services.values() if s.scheduler is not None)}
    facts = msgspec.structs.replace(wanted.facts, missing_schedulers=dataplane.missing_schedulers(names))
    dataplane.expect(facts)
    if facts == wanted.facts:
        return wanted
    return Wanted(wanted.manifests, facts, api.compile(wanted.manifests.view, facts))


def problems(wanted: Wanted) -> list[Finding]:
    """Return everything that is wrong in the manifests: what cannot be read, and what cannot be forwarded."""
    return [*wanted.manifests.findings, *(found for program in wanted.programs.values() for found in program.findings)]


@contextlib.contextmanager
def permission(doing: str) -> Iterator[None]:
    """
    Say what to do when the kernel does not let this process do what it is about to do.

    Args:
        doing: what the verb does to the kernel ("reading", "writing"), for the complaint.

    Raises:
        CapabilityError: in place of PermissionDenied, and of the PermissionError of opening a socket.
    """
    try:
        yield
    except (PermissionDenied, PermissionError) as error:
        raise CapabilityError(
            f"{doing} the kernel's tables needs CAP_NET_ADMIN in this network namespace; run kpx as root, for example with sudo"
        ) from error


@contextlib.contextmanager
def kernel(config: Config, doing: str) -> Iterator[Dataplane]:
    """
    Open the data plane for a verb and close it afterwards.

    Args:
        config: says which one.
        doing: see `permission`, which this includes.
    """
    with permission(doing), contextlib.closing(api.open_dataplane(config.proxy_mode)) as dataplane:
        yield dataplane
