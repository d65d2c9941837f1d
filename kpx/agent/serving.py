"""
All that is answered over HTTP: the pages of the agent and the health-check node ports, and what is said when one cannot be.

Used by the loop; the answers are given in the thread of `WebServer`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from kpx.agent.health_check_ports import FIELD, HealthCheckPorts
from kpx.agent.localities import Localities
from kpx.agent.status import Findings
from kpx.model.addresses import Family
from kpx.model.facts import NodeFacts
from kpx.model.findings import Finding
from kpx.settings.setting import wrong
from kpx.web.listening import RETRY_S, Listening, Wanted
from kpx.web.server import Place, WebServer, place_text

HEALTHZ: Final = "--healthz-bind-address"
METRICS: Final = "--metrics-bind-address"

PAGES: Final = "pages"

Announce = Callable[[str, Finding], None]
"""Told the reason of an event (contract section 20) and the finding it is about, when the finding begins or changes."""

_EVENTS: Final = {HEALTHZ: "FailedToStartProxierHealthcheck", METRICS: "FailedToStartMetricServer"}
_SERVICE_EVENT: Final = "FailedToStartServiceHealthcheck"


class Serving:
    """
    The HTTP side of the agent.

    Args:
        findings: where addresses that cannot be bound, and ports two Services want, are said.
        healthy: see `HealthCheckPorts`.
        announce: see `Announce`; None where nobody reads events.
        retry_s: see `kpx.web.listening.RETRY_S`.
    """

    def __init__(
        self,
        findings: Findings,
        healthy: Callable[[], bool],
        announce: Announce | None = None,
        retry_s: float = RETRY_S,
    ) -> None:
        self._findings = findings
        self._announce = announce
        self._server = WebServer()
        self._retry_s = retry_s
        self.listening = Listening(self._server, self._told, retry_s)
        self._health_checks = HealthCheckPorts(self.listening, healthy)

    def start(self, pages: Mapping[Place, Wanted], hard_fail: bool = False) -> None:
        """
        Begin to serve pages, each named by the option that says where.

        Raises:
            ConfigError: with `hard_fail`, an address cannot be bound; without, it is tried again (15.1).
        """
        self._server.start()
        self.listening.want(PAGES, pages)
        if hard_fail:
            for place, reason in self.listening.failing.items():
                problem = f"cannot listen on {place_text(place)} ({reason}), and --bind-address-hard-fail is set"
                raise wrong(pages[place].name, problem)

    def programmed(self, localities: Localities, facts: NodeFacts, failed: Collection[Family] = ()) -> None:
        """Tell load balancers what a round made true; see `HealthCheckPorts.programmed`."""
        self._findings.replace("health-check ports", self._health_checks.programmed(localities, facts, failed))

    def deadline(self) -> float | None:
        """Return when `act` has something to do, monotonic seconds."""
        return self.listening.deadline()

    def act(self, now: float) -> None:
        """Do what is due."""
        self.listening.act(now)

    def close(self) -> None:
        """End serving; idempotent."""
        self._server.stop()

    def _told(self, place: Place, wanted: Wanted, reason: str) -> None:
        if not reason:
            self._findings.replace(("listening", place), ())
            return
        again = f"free the port or choose another, kpx tries again every {self._retry_s:g} s"
        field = "" if wanted.name in _EVENTS else FIELD
        finding = Finding(wanted.name, field, f"cannot listen on {place_text(place)} ({reason}); {again}")
        self._findings.replace(("listening", place), (finding,))
        if self._announce:
            self._announce(_EVENTS.get(wanted.name, _SERVICE_EVENT), finding)
