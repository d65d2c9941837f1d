"""
What Services with a Local policy have on this node, kept up to date by what changes: for health-check node ports and gauges.

The numbers are read by HTTP threads, so each is replaced as a whole and never edited.
"""

from __future__ import annotations

from typing import NamedTuple

from kpx.model.addresses import Family
from kpx.model.names import ObjectName
from kpx.policy.desired import ServiceProgram
from kpx.policy.locality import Locality, locality

INTERNAL = "internal"
EXTERNAL = "external"


class HealthCheck(NamedTuple):
    """
    What a health-check node port tells.

    Args:
        port: 1..65535.
        ready: local ready endpoints, by every family the Service has (H2).
    """

    port: int
    ready: dict[Family, int]


class Localities:
    """
    A fold over programs.

    Attributes:
        checks: by Service; those without a health-check node port are not in it.
        version: grows when `checks` changes.
        lacking: Services that have endpoints and none here though the policy is Local, by policy and family.
    """

    def __init__(self) -> None:
        self.checks: dict[ObjectName, HealthCheck] = {}
        self.version = 0
        self.lacking: dict[tuple[str, Family], int] = {(p, f): 0 for p in (INTERNAL, EXTERNAL) for f in Family}
        self._held: dict[ObjectName, dict[Family, Locality]] = {}

    def note(self, name: ObjectName, program: ServiceProgram | None) -> None:
        """Take note of a Service as it is now, None when it is gone."""
        before = self._held.get(name, {})
        after = {} if program is None else locality(program)
        if before != after:
            self._count(before, -1)
            self._count(after, 1)
            self._held[name] = after
            if not after:
                del self._held[name]
        port = program.local.health_check_port if program else 0
        check = HealthCheck(port, {family: one.ready for family, one in after.items()}) if port else None
        if check != self.checks.get(name):
            self.version += 1
            if check is None:
                del self.checks[name]
            else:
                self.checks[name] = check

    def _count(self, of_families: dict[Family, Locality], step: int) -> None:
        for family, one in of_families.items():
            self.lacking[INTERNAL, family] += step * one.internal_lacks
            self.lacking[EXTERNAL, family] += step * one.external_lacks
