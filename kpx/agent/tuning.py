"""What the ipvs data plane needs of the network namespace besides rows: sysctls and idle timeouts, set and said (section 17)."""

from __future__ import annotations

import contextlib
import logging
import os

from kpx import log
from kpx.agent.config import Config
from kpx.host import ipvs_sysctls
from kpx.kernel.ipvs import Ipvs
from kpx.model.findings import Finding, Severity

logger = logging.getLogger(__name__)


def tune(config: Config, dataplane: str) -> tuple[Finding, ...]:
    """
    Set what is not as it must be; idempotent, and nothing for other data planes than ipvs.

    Returns:
        What could not be set, and what that means.

    Raises:
        CapabilityError: the data plane cannot work without it. KernelError: the timeouts are refused.
    """
    if dataplane != "ipvs":
        return ()
    kernel = ipvs_sysctls.kernel_numbers(os.uname().release)
    settled = ipvs_sysctls.ensure(ipvs_sysctls.wanted(kernel, config.ipvs_run_estimation, config.ipvs_strict_arp))
    for sentence in settled.changed:
        log.event(logger, logging.INFO, "sysctl", what=sentence)
    timeouts = (config.ipvs_tcp_timeout_s, config.ipvs_tcpfin_timeout_s, config.ipvs_udp_timeout_s)
    if any(timeouts):
        tcp, tcp_fin, udp = map(round, timeouts)
        with contextlib.closing(Ipvs()) as ipvs:
            ipvs.set_timeouts(tcp, tcp_fin, udp)
    return tuple(Finding("sysctl", unset.sysctl.name, str(unset), Severity.WARNING) for unset in settled.unset)
