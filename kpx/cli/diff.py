"""`kpx diff`: the manifests against the kernel, in words and row by row."""

from __future__ import annotations

import click

from kpx import api
from kpx.agent.assemble import as_in_place
from kpx.cli.differences import operation_json, operation_lines, sentences
from kpx.cli.inputs import Wanted, kernel, meet, read_wanted
from kpx.cli.options import READING, config_options
from kpx.cli.output import bold, emit, note, output_option, waiting
from kpx.dataplanes.base import Dataplane, Observed
from kpx.reconcile.plan import Plan
from kpx.reconcile.rows import Rows
from kpx.settings.config import Config

DIFFERENT = 1
"""Exit code when there are differences, as diff(1) has it."""


@click.command(short_help="Show what differs between the manifests and the kernel.")
@output_option
@config_options(READING)
@click.pass_context
def diff(ctx: click.Context, config: Config, output: str | None) -> None:
    """
    Show what differs between the manifests and the kernel.

    First in words, then row by row as the commands one could type: + is missing from the kernel, - is there and should
    not be; a row with another value is shown as both. Exit code 0 when equal, 1 when not. Session affinity entries are
    the kernel's own and no difference.
    """
    config = as_in_place(config)
    wanted = read_wanted(config)
    with kernel(config, "reading") as dataplane, waiting("comparing"):
        wanted = meet(wanted, dataplane)
        observed = dataplane.observe()
        desired = wanted.rows(dataplane)
        plan = api.diff(observed.rows, desired)
        said = [*_skeleton(observed), *_sentences(plan, observed, desired, wanted, dataplane)]
        rows = [operation_json(operation, wanted.owners, dataplane) for operation in plan.operations]
        lines = operation_lines(plan.operations, dataplane)
    equal = not said and not rows
    answer = {"equal": equal, "present": observed.present, "differences": said, "rows": rows}
    if equal and output in (None, "wide"):
        note("the kernel equals the manifests")
    else:
        emit(output, answer, lambda: "\n".join([bold("Differences:"), *said, "", bold("Rows:"), *lines]))
    ctx.exit(0 if equal else DIFFERENT)


def _skeleton(observed: Observed) -> list[str]:
    """Say what is wrong with what is not a row."""
    if not observed.present:
        return ["nothing of kpx is in the kernel"]
    return list(observed.differences)


def _sentences(plan: Plan, observed: Observed, desired: Rows, wanted: Wanted, dataplane: Dataplane) -> list[str]:
    if not plan:
        return []
    actual, asked = dataplane.frontends_of(observed.rows), dataplane.frontends_of(desired)
    return list(sentences(plan, actual, asked, wanted.owners, dataplane))
