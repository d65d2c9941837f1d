"""What is known of one endpoint that is checked: how often in a row it passed or failed, and whether it is to be used. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from kpx.model.addresses import Address
from kpx.model.health_check import HealthCheck
from kpx.model.names import Protocol
from kpx.policy.desired import Backend, Reason, ServiceProgram

SUSPECT: Final = "not in use when the agent started, and not seen to pass since"
NOT_SEEN: Final = "failed under another check, and not seen to pass since"

_NOT_ASKED: Final = (Reason.NOT_READY, Reason.NOT_SERVING)
"""Endpoints nobody would be sent to, whatever a check says."""


class Target(NamedTuple):
    """What is asked, and how; Services with equal targets share one check. `check` has no port and no panic threshold."""

    address: Address
    port: int
    check: HealthCheck


def targets(program: ServiceProgram) -> dict[Backend, Target]:
    """Return what to ask for each endpoint that its slices would let in a pool; nothing for a Service without a check."""
    check = program.check
    if check is None:
        return {}
    plain = msgspec.structs.replace(check, port=0, panic_percent=0)
    result: dict[Backend, Target] = {}
    for port in program.ports:
        if not check.port and port.name.protocol is not Protocol.TCP:
            continue
        for backend, fate in zip(port.listed, port.fates, strict=True):
            if fate.reason not in _NOT_ASKED:
                result[backend] = Target(backend.address, check.port or backend.port, plain)
    return result


class Streak:
    """
    How an endpoint stands: used until it failed `fall` times in a row, then left out until it passed `rise` times in a row.

    Args:
        rise, fall: 1 or more.

    Attributes:
        why: "" while it is used, else what was wrong when that ended. It does not change with further failures, since each
            new value costs a round of the agent.
    """

    __slots__ = ("_failures", "_fall", "_passes", "_rise", "_suspected", "why")

    def __init__(self, rise: int, fall: int) -> None:
        self.why = ""
        self._rise = rise
        self._fall = fall
        self._suspected = False
        self._passes = 0
        self._failures = 0

    def suspect(self, why: str) -> None:
        """Leave it out until it passes once, since somebody who looked before us left it out; `fall` failures confirm it."""
        self.why, self._suspected = why, True

    def passed(self) -> bool:
        """Take note that it passed; tell whether it is used from now on and was not before."""
        self._failures = 0
        self._passes += 1
        if not self.why or (self._passes < self._rise and not self._suspected):
            return False
        self.why, self._suspected = "", False
        return True

    def failed(self, why: str) -> bool:
        """Take note that it failed, and of what was wrong; tell whether `why` is another now."""
        self._passes = 0
        self._failures += 1
        if self._failures < self._fall or (self.why and not self._suspected):
            return False
        self.why, self._suspected = f"{why}, {self._failures} in a row" if self._failures > 1 else why, False
        return True
