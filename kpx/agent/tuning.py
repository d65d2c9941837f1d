"""What kpx sets up of the host besides rows: sysctls, idle timeouts and how this process is rated, set and said (section 17)."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from kpx import log
from kpx.agent.mode import decide
from kpx.errors import CapabilityError, KernelError
from kpx.host import conntrack_sysctls, ipvs_sysctls
from kpx.host.conntrack_sysctls import BUCKETS, LIMIT, Wishes
from kpx.host.modules import load, may_load
from kpx.host.oom import set_oom_score_adj
from kpx.host.sysctl import SYS, Sysctl, Unset, read_sysctl, settle
from kpx.kernel.ipvs import Ipvs
from kpx.model.findings import Finding, Severity
from kpx.settings.config import Config

logger = logging.getLogger(__name__)


def tune(config: Config, dataplane: str) -> tuple[Finding, ...]:
    """
    Set what the ipvs data plane needs and is not so; idempotent, and nothing for other data planes.

    Returns:
        What could not be set, and what that means.

    Raises:
        CapabilityError: the data plane cannot work without it. KernelError: the timeouts are refused.
    """
    if dataplane != "ipvs":
        return ()
    kernel = ipvs_sysctls.kernel_numbers(os.uname().release)
    settled = ipvs_sysctls.ensure(ipvs_sysctls.wanted(kernel, config.ipvs_run_estimation, config.ipvs_strict_arp))
    _say(settled.changed)
    timeouts = (config.ipvs_tcp_timeout_s, config.ipvs_tcpfin_timeout_s, config.ipvs_udp_timeout_s)
    if any(timeouts):
        tcp, tcp_fin, udp = map(round, timeouts)
        with contextlib.closing(Ipvs()) as ipvs:
            ipvs.set_timeouts(tcp, tcp_fin, udp)
    return _findings(settled.unset)


def conntrack_wanted(config: Config, root: Path = SYS) -> tuple[Sysctl, ...]:
    """Return the sysctls of connection tracking the settings ask for; those of limits only where they are too low now."""
    wishes = Wishes(
        per_core=config.conntrack_max_per_core,
        least=config.conntrack_min,
        tcp_established=round(config.conntrack_tcp_timeout_established_s),
        tcp_close_wait=round(config.conntrack_tcp_timeout_close_wait_s),
        be_liberal=config.conntrack_tcp_be_liberal,
        udp=round(config.conntrack_udp_timeout_s),
        udp_stream=round(config.conntrack_udp_timeout_stream_s),
    )
    found = (read_sysctl(name, root) or "" for name in (LIMIT, BUCKETS))
    limits = (int(value) if value.isdigit() else 0 for value in found)
    return conntrack_sysctls.wanted(wishes, os.cpu_count() or 1, *limits)


def tune_host(config: Config, root: Path = SYS) -> tuple[Finding, ...]:
    """
    Set what the settings ask of the host whichever the data plane is; idempotent, and nothing when they ask for nothing.

    Connection tracking has sysctls once its module is loaded, which the first rules see to; hence after the first sync.

    Returns:
        What could not be set, and what to do; none of it keeps kpx from forwarding.
    """
    settled = settle(conntrack_wanted(config, root), root)
    _say(settled.changed)
    return _findings(settled.unset)


def tune_process(config: Config) -> tuple[Finding, ...]:
    """Rate this process as the settings ask for; idempotent. Returns what could not be done, and what to do."""
    why = set_oom_score_adj(config.oom_score_adj) if config.oom_score_adj else ""
    return (Finding("--oom-score-adj", "", why, Severity.WARNING),) if why else ()


def tune_again(config: Config, dataplane: str) -> tuple[Finding, ...]:
    """Set everything by other settings than before; returns what could not be set, and never fails as a whole."""
    try:
        findings = tune(config, dataplane)
    except (CapabilityError, KernelError) as error:
        findings = (Finding("settings", "", str(error)),)
    return findings + tune_host(config) + tune_process(config)


def prepare_host(config: Config) -> tuple[Finding, ...]:
    """
    Do what takes more power over the host than forwarding does: modules and sysctls; then the agent may run with less (16.8).

    Returns:
        What could not be set, and what to do.

    Raises:
        CapabilityError: the data plane the settings name cannot work here. KernelError: timeouts are refused.
    """
    mode = decide(config.proxy_mode)
    log.event(logger, logging.INFO, "proxy mode", dataplane=mode.name, why=mode.why)
    findings = tune(config, mode.name)
    if conntrack_wanted(config) and read_sysctl(LIMIT) is None and may_load() and (refusal := load("nf_conntrack")):
        log.event(logger, logging.WARNING, "module", what=refusal)
    return findings + tune_host(config)


def _say(changed: Iterable[str]) -> None:
    for sentence in changed:
        log.event(logger, logging.INFO, "sysctl", what=sentence)


def _findings(unset: Iterable[Unset]) -> tuple[Finding, ...]:
    return tuple(Finding("sysctl", one.sysctl.name, str(one), Severity.WARNING) for one in unset)
