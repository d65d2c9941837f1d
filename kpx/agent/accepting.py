"""The clock of `--accept-forwarded`: rules in somebody else's firewall are looked at from time to time; nobody tells of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from kpx import log
from kpx.errors import CapabilityError, KernelError
from kpx.host import accepting
from kpx.model.addresses import Family
from kpx.model.findings import Finding, Severity
from kpx.settings.config import Config

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 10.0
"""How long a firewall that was loaded anew keeps flows out at most, seconds."""


def accept_flows(config: Config, dataplane: str, families: Iterable[Family]) -> tuple[Finding, ...]:
    """
    Let iptables accept flows of Services if that is asked for, and not otherwise; idempotent.

    Returns:
        Why it could not be done, as a finding; () when it is so.
    """
    steering_bit = config.mark_bits & -config.mark_bits if dataplane == "ipvs" else 0
    try:
        done = accepting.ensure(families, accepting.rules(steering_bit) if config.accept_forwarded else ())
    except CapabilityError as error:
        what = str(error).partition(":")[0]
        why = f"{what}; a firewall of nftables needs a rule of its own, ct status dnat accept (docs/differences.md)"
        return (Finding("--accept-forwarded", "", why, Severity.WARNING),)
    except KernelError as error:
        return (Finding("--accept-forwarded", "", str(error), Severity.WARNING),)
    for sentence in done:
        log.event(logger, logging.INFO, "the firewall of iptables", accepts_flows=config.accept_forwarded, where=sentence)
    return ()


class Accepting:
    """
    When to look again.

    Args:
        config: the settings in force.
        families: those that are programmed.
        found: told what could not be done, each time.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        dataplane: str,
        families: Callable[[], Iterable[Family]],
        found: Callable[[tuple[Finding, ...]], None],
    ) -> None:
        self._config = config
        self._dataplane = dataplane
        self._families = families
        self._found = found
        self._due: float | None = None

    def look(self) -> None:
        """Let it be so now; the first time, and whenever there are other settings."""
        self._found(accept_flows(self._config(), self._dataplane, self._families()))
        self._due = time.monotonic() + LOOK_EVERY_S if self._config().accept_forwarded else None

    def deadline(self) -> float | None:
        """Return when `act` has something to do, monotonic seconds; None while nobody asks for it."""
        return self._due

    def act(self, now: float) -> None:
        """Do what is due."""
        if self._due is not None and self._due <= now:
            self.look()
