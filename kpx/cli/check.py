"""`kpx check`: can this host run kpx, and are the manifests right."""

from __future__ import annotations

import click

from kpx.agent import check as host
from kpx.agent.assemble import has_source
from kpx.cli.inputs import problems, read_wanted
from kpx.cli.options import ALL, config_options
from kpx.cli.output import Json, emit, output_option, table, waiting
from kpx.errors import SourceError
from kpx.host.features import Check
from kpx.model.findings import Finding
from kpx.settings.config import Config

UNABLE = 1
"""Exit code when something prevents kpx from running here."""

STATUS = {True: "ok", False: "FAILED", None: "look"}


@click.command(short_help="Tell whether this host can run kpx, and what to do if not.")
@output_option
@config_options(ALL)
@click.pass_context
def check(ctx: click.Context, config: Config, output: str | None) -> None:
    """
    Tell whether this host can run kpx, and what to do if not.

    Looks at permissions, kernel features, sysctls and other agents, and changes nothing. With --manifests or --kubeconfig
    it also reads the objects there and says what is wrong in them. Exit code 0 when kpx can run, 1 when something prevents
    it; what is only worth a look, and mistakes in objects, prevent nothing.
    """
    with waiting("checking"):
        found = list(host.checks(config))
    findings: list[Finding] = []
    if config.manifests:
        findings = problems(read_wanted(config, quiet=True))
    elif has_source(config):
        answer, findings = _api_server(config)
        found.append(answer)
    able = not any(answer.ok is False for answer in found)
    emit(output, _json(able, found, findings), lambda: _text(able, found, findings))
    ctx.exit(0 if able else UNABLE)


def _api_server(config: Config) -> tuple[Check, list[Finding]]:
    """Read the objects of the cluster once; return whether that works, and what is wrong in them."""
    try:
        wanted = read_wanted(config, quiet=True)
    except SourceError as error:
        return Check("API server", False, str(error), "see the message; and docs/kubernetes.md"), []
    return Check("API server", True, f"tells of {len(wanted.services)} Services"), problems(wanted)


def _text(able: bool, found: list[Check], findings: list[Finding]) -> str:
    rows = [(answer.name, STATUS[answer.ok], answer.found, answer.remedy) for answer in found]
    parts = [table(("CHECK", "STATUS", "FOUND", "REMEDY"), rows)]
    if findings:
        parts.append("\n".join(f"{finding.severity.value}: {finding}" for finding in findings))
    parts.append("This host can run kpx." if able else "This host cannot run kpx as it is; see the lines with FAILED.")
    return "\n\n".join(parts)


def _json(able: bool, found: list[Check], findings: list[Finding]) -> dict[str, Json]:
    """Return the answers with the keys docs/cli.md promises."""
    return {
        "able": able,
        "checks": [{"name": c.name, "status": STATUS[c.ok].lower(), "found": c.found, "remedy": c.remedy or None} for c in found],
        "findings": [
            {"severity": f.severity.value, "where": f.where, "field": f.field or None, "message": f.message} for f in findings
        ],
    }
