"""The pages: where they are, what they say, and that settings changed by a reload show (15.2)."""

from __future__ import annotations

import json
from contextlib import closing

import pytest
from test_agent_health_check_ports import free_port

from kpx import __version__
from kpx.agent.health import Health
from kpx.agent.metrics import Metrics
from kpx.agent.pages import pages, statusz
from kpx.agent.serving import Serving
from kpx.agent.status import Findings
from kpx.errors import ConfigError
from kpx.model.addresses import Family
from kpx.model.findings import Finding
from kpx.settings.config import Config, make_config
from tests.lab.http_client import ask


class World:
    """The pages of one agent on free ports, with settings a test may change."""

    def __init__(self, **given: object) -> None:
        self.healthz, self.metrics = (("127.0.0.1", free_port()) for _ in range(2))
        self.config = self.settings(**given)
        self.health = Health((Family.IPV4,))
        self.findings = Findings()
        self.announced: list[tuple[str, Finding]] = []
        self.serving = Serving(self.findings, self.health.is_healthy, lambda why, what: self.announced.append((why, what)))

    def settings(self, **given: object) -> Config:
        places = {f"{name}_bind_address": f"127.0.0.1:{getattr(self, name)[1]}" for name in ("healthz", "metrics")}
        return make_config({"manifests": "/m", **places, **given})

    def start(self) -> None:
        found = pages(lambda: self.config, "ipvs", self.health, Metrics("ipvs"), lambda: "3 Services, 9 rows in the kernel")
        self.serving.start(found, self.config.bind_address_hard_fail)

    def close(self) -> None:
        self.serving.close()

    def get(self, path: str) -> str:
        answer = ask(self.metrics, path)
        assert answer.status == 200
        return answer.body


def test_probes_and_pages_are_where_the_settings_say() -> None:
    with closing(World()) as world:
        world.start()

        assert [ask(world.healthz, path).status for path in ("/livez", "/healthz", "/readyz", "/metrics")] == [200, 200, 503, 404]
        assert [ask(world.metrics, path).status for path in ("/healthz", "/metrics", "/metrics/slis", "/livez")] == [
            200,
            200,
            200,
            404,
        ]
        assert (world.get("/healthz"), world.get("/proxyMode")) == ("ok", "ipvs")


def test_probes_are_counted() -> None:
    with closing(World()) as world:
        world.start()
        world.health.set_eligible(False)
        for path in ("/livez", "/healthz", "/healthz"):
            ask(world.healthz, path)

        assert 'kubeproxy_proxy_healthz_total{code="503"} 2.0' in world.get("/metrics")
        assert 'kubeproxy_proxy_livez_total{code="200"} 1.0' in world.get("/metrics")


def test_empty_address_serves_nothing() -> None:
    with closing(World(metrics_bind_address="")) as world:
        world.start()

        assert len(world.serving.listening) == 1


def test_configz_and_flagz_tell_the_settings_in_force() -> None:
    with closing(World()) as world:
        world.start()
        assert json.loads(world.get("/configz"))["kpx"]["masquerade_all"] is False
        world.config = world.settings(masquerade_all=True, cluster_cidr="10.0.0.0/8,fd00::/8")

        assert json.loads(world.get("/configz"))["kpx"]["masquerade_all"] is True
        assert {"masquerade-all=yes", "cluster-cidr=10.0.0.0/8,fd00::/8"} <= set(world.get("/flagz").splitlines())


def test_statusz_says_how_it_goes() -> None:
    text = statusz("ipvs", 1000.0, 1000.0 + 90061.5, ["/metrics", "/statusz"], "3 Services")

    assert {
        "kpx statusz",
        "Started: 1970-01-01T00:16:40Z",
        "Up: 1 day, 1:01:01",
        f"Version: {__version__}",
        "Mode: ipvs",
        "Now: 3 Services",
        "Paths: /metrics /statusz",
    } <= set(text.splitlines())
    with closing(World()) as world:
        world.start()
        assert "Now: 3 Services, 9 rows in the kernel" in world.get("/statusz").splitlines()


def test_slis_are_the_checks_behind_the_probes() -> None:
    """KEP-3466."""
    with closing(World()) as world:
        world.start()
        world.get("/metrics/slis")
        world.health.set_eligible(False)
        lines = set(world.get("/metrics/slis").splitlines())

    assert {
        'kubernetes_healthcheck{name="sync-IPv4",type="livez"} 1.0',
        'kubernetes_healthcheck{name="node-eligible",type="healthz"} 0.0',
        'kubernetes_healthchecks_total{name="node-eligible",status="success",type="healthz"} 1.0',
        'kubernetes_healthchecks_total{name="node-eligible",status="error",type="healthz"} 1.0',
    } <= lines


@pytest.mark.parametrize(
    ("which", "option", "event"),
    [
        ("healthz", "--healthz-bind-address", "FailedToStartProxierHealthcheck"),
        ("metrics", "--metrics-bind-address", "FailedToStartMetricServer"),
    ],
)
def test_taken_address_is_a_finding_and_an_event_and_no_end(which: str, option: str, event: str) -> None:
    """15.1."""
    with closing(World()) as world, closing(World()) as other:
        other.start()
        setattr(world, which, getattr(other, which))
        world.config = world.settings()
        world.start()
        (finding,) = world.findings.every()
        assert (finding.where, event) == (option, world.announced[0][0])
        assert finding.message.endswith("(Address already in use); free the port or choose another, kpx tries again every 5 s")
        assert len(world.serving.listening) == 1
        other.close()
        world.serving.act(world.serving.deadline() or 0.0)

        assert (len(world.serving.listening), world.findings.every()) == (2, [])


def test_taken_address_is_the_end_where_that_is_wished() -> None:
    with closing(World()) as other:
        other.start()
        taken = f"127.0.0.1:{other.metrics[1]}"
        complaint = r"--metrics-bind-address: cannot listen on .* \(Address already in use\)"
        world = World(bind_address_hard_fail=True, metrics_bind_address=taken)
        with closing(world), pytest.raises(ConfigError, match=complaint):
            world.start()
