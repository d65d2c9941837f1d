"""The questions `kpx check` asks about this host, put to the host itself."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Protocol as Interface
from typing import runtime_checkable

from kpx.agent.assemble import host_addresses, node_facts, open_dataplane
from kpx.agent.config import Config, parse_listen_address
from kpx.agent.lock import holder
from kpx.dataplanes.base import Dataplane
from kpx.errors import CapabilityError
from kpx.host import features
from kpx.host.features import Check
from kpx.host.node import facts_warnings, supported_families
from kpx.model.facts import NodeFacts


@runtime_checkable
class Probing(Interface):
    """A data plane that can tell what it misses."""

    def probe(self, facts: NodeFacts) -> list[str]:
        """Return a sentence for each thing the kernel does not take, changing nothing."""


def checks(config: Config) -> Iterator[Check]:
    """Yield the answers, as they are found; nothing on the host is changed."""
    yield features.python_version(sys.version_info[:3])
    yield features.kernel_version(os.uname().release)
    yield features.net_admin()
    families = supported_families()
    yield features.families(families)
    yield from _dataplane_checks(config)
    yield features.conntrack()
    for family in families:
        yield features.forwarding(family)
    yield features.reverse_path()
    running = holder()
    yield features.other_agent(running)
    if running is None:
        for which, address in (("healthz", config.healthz_bind_address), ("metrics", config.metrics_bind_address)):
            if address:
                option = f"--{which}-bind-address"
                yield features.port_free(option, parse_listen_address(option, address))


def _dataplane_checks(config: Config) -> Iterator[Check]:
    try:
        facts = node_facts(config, None, host_addresses())
        dataplane: Dataplane = open_dataplane(config)
    except CapabilityError as error:
        yield Check("data plane", False, str(error), "see the message")
        return
    with contextlib.closing(dataplane):
        answer = features.nf_tables(dataplane.observe)
        yield answer
        if answer.ok and isinstance(dataplane, Probing):
            yield features.expressions(lambda: dataplane.probe(facts))
    for warning in facts_warnings(facts):
        yield Check("node", None, warning, "see --bind-address, --nodeport-addresses, --cluster-cidr")
