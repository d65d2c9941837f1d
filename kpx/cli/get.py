"""`kpx get`: what the kernel holds, in the words of Services as far as manifests give them."""

from __future__ import annotations

import click

from kpx.agent import asking
from kpx.agent.assemble import NO_SOURCE, as_in_place
from kpx.cli.failing import failing_here, failing_somewhere
from kpx.cli.inputs import Wanted, kernel, read_if_any
from kpx.cli.listing import Filter, Shown, show_affinity, show_endpoints, show_frontends, show_rows, show_services
from kpx.cli.options import READING, config_options
from kpx.cli.output import emit, output_option, waiting
from kpx.dataplanes.base import Dataplane
from kpx.errors import ConfigError
from kpx.settings.config import Config

WHAT = ("services", "frontends", "endpoints", "affinity", "rows")


@click.command(short_help="Show what the kernel holds now.")
@click.argument("what", type=click.Choice(WHAT))
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-n", "--namespace", default="", metavar="NAMESPACE", help="Only what belongs to Services of this namespace.")
@output_option
@config_options(READING)
def get(config: Config, what: str, names: tuple[str, ...], namespace: str, output: str | None) -> None:
    """
    Show what the kernel holds now.

    WHAT is services, frontends, endpoints, affinity or rows (the commands one could type). A NAME is a Service
    (namespace/name, or the name alone) or part of a frontend such as 10.96.0.10:53. The kernel does not know Services:
    give --manifests or --kubeconfig to see their names.
    """
    config = as_in_place(config)
    wanted = read_if_any(config)
    if wanted is None and (what == "services" or namespace):
        raise ConfigError(f"the kernel does not know the names of Services, and {NO_SOURCE}")
    with kernel(config, "reading") as dataplane, waiting("reading the kernel"):
        shown = _shown(dataplane, what, wanted, Filter(names, namespace))
    if what == "rows" and output is None:
        emit(None, None, lambda: "\n".join(item["command"] for item in shown.data))
    else:
        emit(output, {what: shown.data}, lambda: shown.text(output == "wide"))


def _shown(dataplane: Dataplane, what: str, wanted: Wanted | None, chosen: Filter) -> Shown:
    """Read what was asked for."""
    owners = wanted.owners if wanted else {}
    if what == "affinity":
        return show_affinity(dataplane.affinity(), owners, chosen)
    observed = dataplane.observe()
    if what == "rows":
        return show_rows(dataplane, observed, owners, chosen)
    frontends = dataplane.frontends_of(observed.rows)
    if what == "services" and wanted:
        return show_services(frontends, wanted.services, wanted.programs, chosen)
    if what == "endpoints":
        failing = failing_here(wanted.programs) if wanted else failing_somewhere(asking.ask() or ())
        return show_endpoints(frontends, dataplane.draining(), owners, chosen, failing)
    return show_frontends(frontends, owners, chosen)
