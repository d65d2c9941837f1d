"""`kpx cleanup`: take everything out that kpx ever put in."""

from __future__ import annotations

import click

from kpx import api
from kpx.agent.config import Config
from kpx.cli.inputs import kernel
from kpx.cli.options import DATAPLANE, config_options
from kpx.cli.output import note, waiting


@click.command(short_help="Remove everything kpx owns in the kernel, and nothing else.")
@config_options(DATAPLANE)
def cleanup(config: Config) -> None:
    """
    Remove everything kpx owns in the kernel, and nothing else.

    Prints each thing it removes; once everything is gone there is nothing to do and no error. Refuses while an agent runs
    in this network namespace (exit code 3), since that would put everything back.
    """
    with kernel(config, "writing") as dataplane, waiting("removing"):
        removed = api.cleanup(dataplane)
    for sentence in removed:
        click.echo(sentence)
    if not removed:
        note("nothing of kpx is in the kernel")
