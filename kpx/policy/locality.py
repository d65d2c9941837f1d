"""
What a Service has on this node: the endpoints a health-check node port counts, and the ports a Local policy leaves without any.

Counted from the fates of endpoints and not from pools, so it is true whether or not the data plane carries out the policies.
"""

from __future__ import annotations

from typing import NamedTuple

from kpx.model.addresses import Family
from kpx.policy.desired import NOT_LOCAL, PortProgram, Reason, ServiceProgram
from kpx.policy.eligibility import in_local_pool

_READY = (Reason.READY, Reason.WRONG_NODE, Reason.WRONG_ZONE, Reason.PANIC)
"""Fates of endpoints that are ready; hints do not matter to local traffic (C3)."""


class Locality(NamedTuple):
    """
    A Service on this node, in one family.

    Args:
        ready: distinct addresses of endpoints that are here and ready, over all ports; terminating ones are none (H2).
        internal_lacks, external_lacks: the policy is Local and some port has endpoints, and none here that may be used.
    """

    ready: int = 0
    internal_lacks: bool = False
    external_lacks: bool = False


NOWHERE = Locality()


def locality(program: ServiceProgram) -> dict[Family, Locality]:
    """Return what a Service has here, by family; nothing for a Service whose policies are all Cluster."""
    if program.local == NOT_LOCAL:
        return {}
    return {family: _of_family(program, family) for family in sorted({port.family for port in program.ports})}


def _of_family(program: ServiceProgram, family: Family) -> Locality:
    ports = [port for port in program.ports if port.family == family]
    ready = {
        backend.address
        for port in ports
        for backend, fate in zip(port.listed, port.fates, strict=True)
        if fate.local and fate.reason in _READY
    }
    lacking = any(_lacks_local(port) for port in ports)
    return Locality(len(ready), program.local.internal and lacking, program.local.external and lacking)


def _lacks_local(port: PortProgram) -> bool:
    """Tell whether a port has endpoints that may be used (C4), and none of them in its local pool."""
    any_usable = any(fate.reason in (*_READY, Reason.SERVING_TERMINATING) for fate in port.fates)
    return any_usable and not any(fate.chosen for fate in in_local_pool(port.considered))
