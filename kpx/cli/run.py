"""`kpx run`: the agent."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click
import yaml

from kpx import log
from kpx.agent import run as agent
from kpx.agent.reload import LiveSettings
from kpx.agent.tuning import prepare_host
from kpx.cli.inputs import need_source, permission
from kpx.cli.options import ALL, layers_options
from kpx.cli.output import note
from kpx.errors import ConfigError
from kpx.model.findings import Severity
from kpx.settings.config import Config
from kpx.settings.kpx_config import document_of
from kpx.settings.layers import Layers, Loaded

logger = logging.getLogger(__name__)


@click.command(short_help="Keep the kernel equal to the manifests until stopped.")
@click.option(
    "--write-config-to",
    metavar="FILE",
    help="Write the settings all layers come to into this file, as a KpxConfiguration, and exit; - is stdout. [default: none]",
)
@click.option("--init-only", is_flag=True, help="Load modules and set sysctls, then exit. [default: no]")
@layers_options(ALL)
def run(layers: Layers, write_config_to: str | None, init_only: bool) -> None:
    """
    Keep the kernel equal to the manifests until stopped.

    Watches the directory and writes only differences. What the kernel already holds is adopted at start, and stopping
    leaves everything in place, so restarts and upgrades cost no connection.

    The file of --config is watched, too. What can change while the agent runs does; for the rest it ends with exit code 3,
    so that whoever supervises it starts it again.
    """
    loaded = layers.load()
    if write_config_to is not None:
        for finding in loaded.findings:
            note(f"warning: {finding}")
        _write(write_config_to, loaded.config)
        return
    log.setup(loaded.config.log_format, loaded.config.verbosity)
    if init_only:
        _prepare(loaded)
        return
    need_source(loaded.config)
    with permission("writing"):
        agent.run(loaded.config, LiveSettings(loaded, layers))


def _prepare(loaded: Loaded) -> None:
    """Do the privileged steps; what cannot be set is said and is no failure."""
    with permission("writing"):
        for finding in (*loaded.findings, *prepare_host(loaded.config)):
            log.event(logger, logging.ERROR if finding.severity is Severity.ERROR else logging.WARNING, str(finding))
    log.event(logger, logging.INFO, "this host is prepared")


def _write(path: str, config: Config) -> None:
    text = yaml.safe_dump(document_of(config), sort_keys=False, allow_unicode=True)
    if path == "-":
        sys.stdout.write(text)
        return
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--write-config-to: {path} cannot be written ({os.strerror(error.errno or 0)})") from error
    note(f"settings written to {path}")
