"""
Options are made from `kpx.settings.config.SETTINGS`: one table, so a setting cannot be missing here or mean something else.

An option beats its variable `KPX_<NAME>`, which beats the file of --config, which beats the default. A variable that is set and
empty is a value too, since `KPX_METRICS_BIND_ADDRESS=` means nowhere.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import click

from kpx.cli.output import note
from kpx.settings.config import SETTINGS, Setting
from kpx.settings.layers import Layers

Command = Callable[..., Any]

CONFIG_VARIABLE: Final = "KPX_CONFIG"

_config_file = click.option(
    "--config", "config_file", metavar="FILE", default=None,
    help="Read settings from this file, a KubeProxyConfiguration as it is or a KpxConfiguration; options and variables beat it. "
    f"[default: none; env: {CONFIG_VARIABLE}]",
)  # fmt: skip

WRITING_ONLY: Final = frozenset(
    (
        "accept_forwarded",
        "ipvs_strict_arp", "ipvs_run_estimation", "ipvs_tcp_timeout_s", "ipvs_tcpfin_timeout_s", "ipvs_udp_timeout_s",
        "drain_timeout_s", "drain_grace_s", "healthz_bind_address", "metrics_bind_address", "bind_address_hard_fail",
        "conntrack_max_per_core", "conntrack_min", "conntrack_tcp_timeout_established_s", "conntrack_tcp_timeout_close_wait_s",
        "conntrack_udp_timeout_s", "conntrack_udp_timeout_stream_s", "oom_score_adj",
        "min_sync_period_s", "sync_period_s", "log_format", "verbosity",
    )
)  # fmt: skip
"""Fields that mean something only to a process that stays or sets the host up, and change no row."""

ALL: Final = SETTINGS
READING: Final = tuple(setting for setting in SETTINGS if setting.field not in WRITING_ONLY)
"""What decides about rows, thus what verbs that read need to know."""

DATAPLANE: Final = tuple(setting for setting in SETTINGS if setting.field == "proxy_mode")


def config_options(settings: Iterable[Setting] = READING) -> Callable[[Command], Command]:
    """Give a command the options of these settings; it gets one argument `config` instead of one a setting."""

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(layers: Layers, **given: Any) -> Any:
            loaded = layers.load()
            for finding in loaded.findings:
                note(f"warning: {finding}")
            return function(config=loaded.config, **given)

        return layers_options(settings)(command)

    return decorate


def layers_options(settings: Iterable[Setting]) -> Callable[[Command], Command]:
    """Give a command the options of these settings; it gets one argument `layers`, to load once it may complain."""
    chosen = tuple(settings)

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(config_file: str | None, **given: Any) -> Any:
            values = {setting.field: given.pop(setting.field) for setting in chosen}
            path = os.environ.get(CONFIG_VARIABLE, "") if config_file is None else config_file
            return function(layers=Layers(given_by(values, chosen), path), **given)

        decorated: Command = command
        for setting in reversed(chosen):
            decorated = _option(setting)(decorated)
        return _config_file(decorated)

    return decorate


def given_by(
    given: Mapping[str, object], settings: Iterable[Setting], environ: Mapping[str, str] = os.environ
) -> dict[str, object]:
    """Return what the command line gave, by field, and for what it did not give what the environment says."""
    values = dict(given)
    for setting in settings:
        if values.get(setting.field) in (None, ()):
            values[setting.field] = environ.get(setting.variable)
    return values


def _option(setting: Setting) -> Callable[[Command], Command]:
    text = _help(setting)
    if setting.kind == "flag":
        return click.option(f"{setting.option}/--no-{setting.name}", setting.field, default=None, help=text)
    if setting.kind == "choice":
        choices = click.Choice(setting.choices, case_sensitive=False)
        metavar = f"[{'|'.join(setting.choices)}]"
        return click.option(setting.option, setting.field, type=choices, metavar=metavar, default=None, help=text)
    metavar = (setting.unit or "text").upper()
    multiple = setting.kind == "list"
    return click.option(setting.option, setting.field, metavar=metavar, multiple=multiple, default=None, help=text)


def _help(setting: Setting) -> str:
    """Return a sentence a stranger understands, with unit, default and variable."""
    several = "; separate with commas or repeat the option" if setting.kind == "list" else ""
    unit = "; in seconds, or like 1m30s" if setting.kind == "seconds" else ""
    return f"{setting.help}{several}{unit}. [default: {setting.written(setting.default) or 'none'}; env: {setting.variable}]"
