"""`kpx sync`: one pass of the agent, and what it wrote."""

from __future__ import annotations

import click

from kpx import log
from kpx.agent import run as agent
from kpx.agent.assemble import open_dataplane
from kpx.agent.engine import Engine
from kpx.agent.rounds import Round
from kpx.agent.status import Refused
from kpx.cli.differences import operation_json, operation_lines
from kpx.cli.inputs import need_source, owners_of, permission
from kpx.cli.options import ALL, config_options
from kpx.cli.output import Json, emit, output_option, waiting
from kpx.dataplanes.base import Dataplane
from kpx.reconcile.plan import Operation
from kpx.settings.config import Config

REFUSED = 1
"""Exit code when the kernel refused rows, so that it does not equal the manifests."""

SPELLED_ROWS = 50
"""How many rows are spelled out unless all are asked for."""


@click.command(short_help="Make the kernel equal to the manifests once, and say what was written.")
@output_option
@config_options(ALL)
@click.pass_context
def sync(ctx: click.Context, config: Config, output: str | None) -> None:
    """
    Make the kernel equal to the manifests once, and say what was written.

    One pass of "kpx run" with the same options. Exit code 0 when the kernel now equals the manifests, 1 when it refused
    rows, which are then named. Refuses while an agent runs in this network namespace (exit code 3).
    """
    need_source(config)
    log.setup(config.log_format, config.verbosity)
    with permission("writing"), waiting("syncing"):
        engine, done = agent.sync(config)
    dataplane = open_dataplane(config, kernel=False)
    refused = engine.refusals.every()
    emit(output, _json(engine, done, dataplane), lambda: _text(done, refused, dataplane, everything=output == "wide"))
    ctx.exit(REFUSED if refused else 0)


def _json(engine: Engine, done: Round, dataplane: Dataplane) -> dict[str, Json]:
    """Return what was done with the keys docs/cli.md promises."""
    owners = owners_of(engine.programs)
    refused = engine.refusals.every()
    return {
        "equal": not refused,
        "added": done.added,
        "changed": done.changed,
        "removed": done.removed,
        "mended": list(done.mended),
        "rows": [operation_json(operation, owners, dataplane) for operation in _written(done, refused)],
        "refused": [_refused_json(row, dataplane) for row in refused],
    }


def _refused_json(row: Refused, dataplane: Dataplane) -> dict[str, Json]:
    service = str(row.service) if row.service else None
    return {"command": operation_lines([row.operation], dataplane)[-1], "reason": row.reason, "service": service}


def _written(done: Round, refused: list[Refused]) -> list[Operation]:
    """Return what the kernel took."""
    failed = {(row.operation.table, row.operation.key) for row in refused}
    return [operation for operation in done.plan.operations if (operation.table, operation.key) not in failed]


def _text(done: Round, refused: list[Refused], dataplane: Dataplane, everything: bool) -> str:
    lines = [f"mended: {sentence}" for sentence in done.mended]
    written = _written(done, refused)
    spelled = written if everything else written[:SPELLED_ROWS]
    lines += operation_lines(spelled, dataplane)
    if len(spelled) < len(written):
        lines.append(f"... and {len(written) - len(spelled)} more rows; -o wide spells them all")
    lines += [f"refused: {operation_lines([row.operation], dataplane)[-1]}: {row.reason}" for row in refused]
    counts = f"{done.added} rows added, {done.changed} changed, {done.removed} removed, {len(refused)} refused"
    return "\n".join([*lines, counts])
