"""The questions `kpx check` asks about this host, put to the host itself."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Protocol as Interface
from typing import runtime_checkable

import msgspec

from kpx.agent import mode
from kpx.agent.assemble import host_addresses, node_facts
from kpx.agent.lock import holder
from kpx.agent.tuning import conntrack_wanted
from kpx.dataplanes.base import Dataplane
from kpx.dataplanes.registry import FACTORIES, open_dataplane
from kpx.errors import CapabilityError, KernelError
from kpx.host import conntrack_sysctls, features, ipvs_checks, ipvs_sysctls, kube_proxy
from kpx.host.features import Check
from kpx.host.node import facts_warnings, supported_families
from kpx.model.facts import NodeFacts
from kpx.settings.config import Config, parse_listen_address


@runtime_checkable
class Probing(Interface):
    """A data plane that can tell what it misses."""

    def probe(self, facts: NodeFacts) -> list[str]:
        """Return a sentence for each thing the kernel does not take, changing nothing."""


@runtime_checkable
class Contested(Interface):
    """A data plane that has to put things where others may have put theirs."""

    def contested(self, facts: NodeFacts) -> list[str]:
        """Return a sentence for each thing of others that is where this data plane puts its own, changing nothing."""


def checks(config: Config) -> Iterator[Check]:
    """Yield the answers, as they are found; nothing on the host is changed."""
    yield features.python_version(sys.version_info[:3])
    yield features.kernel_version(os.uname().release)
    privileged = features.net_admin()
    yield privileged
    families = supported_families()
    yield features.families(families)
    name, needs = _mode(config, privileged)
    yield from needs
    unloaded = name == mode.PREFERRED and any(need.ok is None for need in needs)
    unable = any(need.ok is False for need in needs)
    if unloaded and not unable:
        yield Check("data plane", None, "not looked at, since it would load modules", "see the lines above")
    elif not unable:
        yield from _dataplane_checks(msgspec.structs.replace(config, proxy_mode=name))
    if name == mode.PREFERRED and not unloaded and not unable:
        kernel = ipvs_sysctls.kernel_numbers(os.uname().release)
        yield ipvs_checks.sysctls(ipvs_sysctls.wanted(kernel, config.ipvs_run_estimation, config.ipvs_strict_arp))
        yield ipvs_checks.source_marks()
    yield features.conntrack()
    if asked := conntrack_wanted(config):
        yield conntrack_sysctls.check(asked)
    for family in families:
        yield features.forwarding(family)
    yield features.reverse_path()
    yield from _others(config)


def _mode(config: Config, privileged: Check) -> tuple[str, list[Check]]:
    """Return the data plane that would be used, and what was found out about it."""
    wanted = config.proxy_mode
    if privileged.ok is False:
        name, why = mode.supposed(wanted)
        return name, [Check("proxy mode", None, f"{name}, as far as can be told: {why}", "run kpx check as root")]
    answers: list[Check] = []

    def ask() -> list[Check]:
        answers.extend(mode.needs(loading=False))
        return answers

    try:
        name, why = mode.choose(wanted, FACTORIES, ask)
    except CapabilityError:
        cannot = Check("proxy mode", False, "ipvs, which cannot run here", "see the lines above; or use --proxy-mode nftables")
        return wanted, [*answers, cannot]
    if name != mode.PREFERRED:
        # What ipvs lacks is no obstacle, since something else will be used.
        answers = [answer._replace(ok=answer.ok or None) for answer in answers]
    return name, [*answers, Check("proxy mode", True, f"{name}: {why}")]


def _others(config: Config) -> Iterator[Check]:
    """Yield the answers about other programs on this host."""
    try:
        yield features.kube_proxy(kube_proxy.running(), kube_proxy.find().counted())
    except KernelError as error:
        yield Check("kube-proxy", None, f"cannot be looked for: {error}", "run kpx check as root")
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
        dataplane: Dataplane = open_dataplane(config.proxy_mode)
    except (CapabilityError, KernelError) as error:
        yield Check("data plane", False, str(error), "see the message")
        return
    with contextlib.closing(dataplane):
        answer = _reading(dataplane)
        yield answer
        if answer.ok and isinstance(dataplane, Probing):
            yield features.expressions(lambda: dataplane.probe(facts))
        if answer.ok and isinstance(dataplane, Contested):
            yield ipvs_checks.contested(dataplane.contested(facts))
    for warning in facts_warnings(facts):
        yield Check("node", None, warning, "see --bind-address, --nodeport-addresses, --cluster-cidr")


def _reading(dataplane: Dataplane) -> Check:
    """Check that what the data plane holds can be read."""
    if dataplane.name == "nftables":
        return features.nf_tables(dataplane.observe)
    try:
        dataplane.observe()
    except (CapabilityError, KernelError) as error:
        return Check(f"{dataplane.name} data plane", False, str(error), "see the message; and dmesg")
    return Check(f"{dataplane.name} data plane", True, "answers")
