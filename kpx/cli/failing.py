"""The endpoints that fail their health check, as `kpx get endpoints` shows them: told by the agent, named by manifests. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from kpx.model.health_check import EndpointHealth
from kpx.model.names import ObjectName, PortName
from kpx.policy.desired import Backend, Frontend, Reason, ServiceProgram


class FailingEndpoint(NamedTuple):
    """
    An endpoint that fails its check.

    Args:
        frontend: one it is left out of, or used in for want of better ones; None when no manifests tell.
        service: whose it is. port: which port of it, None when no manifests tell.
        used: it is used all the same, since too few endpoints pass.
    """

    backend: Backend
    frontend: Frontend | None
    service: ObjectName
    port: PortName | None
    why: str
    used: bool = False


def failing_here(programs: Mapping[ObjectName, ServiceProgram]) -> Iterator[FailingEndpoint]:
    """Yield every endpoint that fails, for every frontend of its port."""
    for name, program in sorted(programs.items()):
        for port, frontend in program.frontends():
            for backend, fate in zip(port.listed, port.fates, strict=True):
                if fate.detail:
                    used = fate.reason is not Reason.FAILED
                    yield FailingEndpoint(backend, frontend.frontend, name, port.name, fate.detail, used)


def failing_somewhere(health: Iterable[EndpointHealth]) -> Iterator[FailingEndpoint]:
    """Yield every endpoint that fails, as far as it can be told without manifests."""
    for one in health:
        for address, port, why in one.failing:
            yield FailingEndpoint(Backend(address, port), None, one.name, None, why)
