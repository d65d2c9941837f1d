"""
/metrics/slis: what /healthz and /livez find, as series with the names all Kubernetes components use.

The checks are made when the page is asked for: whoever wants to know how good a node was scrapes it often.

Source: k8s.io/component-base/metrics/prometheus/slis (KEP-3466).
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from kpx.agent.health import Health
from kpx.web.connection import Answer

NODE_CHECK = "node-eligible"


class Slis:
    """
    The checks behind the probes, each with a name: one for every family, and one for the node.

    Args:
        health: asked for each answer.
        content_type: of the page.
    """

    def __init__(self, health: Health, content_type: str) -> None:
        self.registry = CollectorRegistry()
        self._health = health
        self._content_type = content_type
        text = "This metric records the result of a single healthcheck."
        self._state = Gauge("kubernetes_healthcheck", text, ["name", "type"], registry=self.registry)
        text = "This metric records the results of all healthcheck."
        self._count = Counter("kubernetes_healthchecks", text, ["name", "status", "type"], registry=self.registry)

    def page(self) -> Answer:
        """Make every check once, and answer with the series."""
        families = {f"sync-{family}": healthy for family, healthy in self._health.families().items()}
        for name, good in families.items():
            self._note(name, "livez", good)
            self._note(name, "healthz", good)
        self._note(NODE_CHECK, "healthz", self._health.eligible)
        return Answer(generate_latest(self.registry).decode(), content_type=self._content_type)

    def _note(self, name: str, probe: str, good: bool) -> None:
        self._state.labels(name, probe).set(good)
        self._count.labels(name, "success" if good else "error", probe).inc()
