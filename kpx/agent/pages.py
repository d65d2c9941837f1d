"""
The fixed pages: probes on one address, what operators and Prometheus read on another (15.1, 15.2).

/configz has a key of its own, `kpx`: what is in force are the settings of kpx, and a tool that looks for those of kube-proxy
(`kubeproxy.config.k8s.io`) would misread them.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Final

import msgspec

import kpx
from kpx.agent.health import Health
from kpx.agent.metrics import CONTENT_TYPE, Metrics
from kpx.agent.serving import HEALTHZ, METRICS
from kpx.agent.slis import Slis
from kpx.settings.config import SETTINGS, Config, parse_listen_address
from kpx.web.connection import Answer
from kpx.web.listening import Wanted
from kpx.web.server import Place, Routes, by_path

_WARNING: Final = (
    "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees"
    " and is for debugging purposes only.\n"
)

Current = Callable[[], Config]
"""Returns the settings in force; they change with a reload."""

Summary = Callable[[], str]
"""Says in one line how it goes."""


def pages(current: Current, mode: str, health: Health, metrics: Metrics, summary: Summary) -> dict[Place, Wanted]:
    """Return what is to answer where, by the settings as they are; an empty address is nowhere."""
    config = current()
    wanted = (
        (HEALTHZ, config.healthz_bind_address, probes(health, metrics)),
        (METRICS, config.metrics_bind_address, reports(current, mode, health, metrics, summary)),
    )
    return {
        parse_listen_address(option, address): Wanted(option, by_path(routes), both_families=True)
        for option, address, routes in wanted
        if address
    }


def probes(health: Health, metrics: Metrics) -> Routes:
    """Return what load balancers and kubelets ask."""
    return {
        "/healthz": metrics.counted("healthz", health.healthz),
        "/livez": metrics.counted("livez", health.livez),
        "/readyz": health.readyz,
    }


def reports(current: Current, mode: str, health: Health, metrics: Metrics, summary: Summary) -> Routes:
    """Return what Prometheus and people ask; all of it together tells a support engineer how a node is."""
    routes: dict[str, Callable[[], Answer]] = {
        "/metrics": metrics.page,
        "/metrics/slis": Slis(health, CONTENT_TYPE).page,
        "/healthz": lambda: Answer("ok"),
        "/proxyMode": lambda: Answer(mode),
        "/configz": lambda: Answer(configz(current()), content_type="application/json"),
        "/flagz": lambda: Answer(flagz(current())),
    }
    begun = time.time()
    paths = sorted([*routes, "/statusz"])
    routes["/statusz"] = lambda: Answer(statusz(mode, begun, time.time(), paths, summary()))
    return routes


def configz(config: Config) -> str:
    """Return the settings in force as JSON."""
    return json.dumps({"kpx": msgspec.to_builtins(config)}, indent=2) + "\n"


def flagz(config: Config) -> str:
    """Return the settings in force as they are written on a command line, one a line."""
    lines = (f"{setting.name}={setting.written(getattr(config, setting.field))}\n" for setting in SETTINGS)
    return f"kpx flagz\n{_WARNING}\n" + "".join(lines)


def statusz(mode: str, begun: float, now: float, paths: list[str], summary: str) -> str:
    """Return how the agent does, as lines for people; times are seconds since the epoch."""
    lines = {
        "Started": dt.datetime.fromtimestamp(begun, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "Up": str(dt.timedelta(seconds=int(now - begun))),
        "Version": kpx.__version__,
        "Python": platform.python_version(),
        "Kernel": os.uname().release,
        "Mode": mode,
        "Now": summary,
        "Paths": " ".join(paths),
    }
    return f"kpx statusz\n{_WARNING}\n" + "".join(f"{name}: {value}\n" for name, value in lines.items())
