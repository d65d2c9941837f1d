"""
Which IPVS scheduler a Service gets: what it asks for, what the node prefers, and what this kernel has.

Each scheduler is a kernel module of its own, so one that is asked for may be missing. The Service is then forwarded round robin:
how flows are spread matters less than that they arrive. Data planes without schedulers are never told that one is missing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from kpx.model.facts import NodeFacts
from kpx.model.findings import Finding, Severity
from kpx.model.service import Service
from kpx.policy.desired import ROUND_ROBIN, Scheduler

SCHEDULER_FIELD: Final = "metadata.annotations.kpx.io/scheduler"

_BITS: Final = {"fallback": 0x08, "port": 0x10}
_USUAL_FLAGS: Final = {"mh": 0x18, "sh": 0x08}
"""
Of the schedulers that look at flags; the others take any and ignore them.

Without fallback, both refuse the clients whose endpoint drains (D14). With the port, mh spreads clients that share an address.
"""


def wanted_scheduler(service: Service, facts: NodeFacts) -> str:
    """Return the name of the scheduler a Service is to have if this kernel has it."""
    return service.scheduler or facts.scheduler


def resolve_scheduler(service: Service, facts: NodeFacts, findings: list[Finding]) -> Scheduler:
    """
    Return the scheduler of a Service, round robin when the kernel lacks the wanted one.

    What a Service asked for in vain is named in `findings`. That the one of the node is missing is a remark about the node, and
    would only be repeated for every Service here.
    """
    name = wanted_scheduler(service, facts)
    if name not in facts.missing_schedulers:
        return _scheduler(name, service.scheduler_flags)
    if service.scheduler is not None and name != ROUND_ROBIN.name:
        findings.append(Finding(f"Service {service.name}", SCHEDULER_FIELD, missing_scheduler(name), Severity.WARNING))
    return ROUND_ROBIN


def missing_scheduler(name: str) -> str:
    """Say that the kernel lacks a scheduler, and what to do."""
    if name == ROUND_ROBIN.name:
        return f"this kernel has no scheduler {name!r}, which stands in for all others; run modprobe ip_vs_{name}"
    return (
        f"this kernel has no scheduler {name!r}, so new connections are spread by {ROUND_ROBIN.name}; "
        f"run modprobe ip_vs_{name}, or name another"
    )


@lru_cache(maxsize=1024)
def _scheduler(name: str, flags: tuple[str, ...] | None) -> Scheduler:
    """Return the one value of its kind."""
    if flags is None:
        return Scheduler(name, _USUAL_FLAGS.get(name, 0))
    return Scheduler(name, sum(_BITS[flag] for flag in flags))
