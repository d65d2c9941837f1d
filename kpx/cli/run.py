"""`kpx run`: the agent."""

from __future__ import annotations

import click

from kpx import log
from kpx.agent import run as agent
from kpx.agent.config import Config
from kpx.cli.inputs import need_manifests, permission
from kpx.cli.options import ALL, config_options


@click.command(short_help="Keep the kernel equal to the manifests until stopped.")
@config_options(ALL)
def run(config: Config) -> None:
    """
    Keep the kernel equal to the manifests until stopped.

    Watches the directory and writes only differences. What the kernel already holds is adopted at start, and stopping
    leaves everything in place, so restarts and upgrades cost no connection.
    """
    need_manifests(config)
    log.setup(config.log_format, config.verbosity)
    with permission("writing"):
        agent.run(config)
