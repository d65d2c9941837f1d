"""Programs as an aligned table: what a person checks before accepting a scenario."""

from __future__ import annotations

from collections.abc import Iterable

from kpx.model.addresses import format_address
from kpx.model.findings import Finding
from kpx.policy.desired import FrontendProgram, PortProgram, ServiceProgram, Source, Verdict

HEADER = ("frontend", "service port", "action", "endpoints", "masquerade", "affinity")


def frontends_text(programs: Iterable[ServiceProgram], findings: Iterable[Finding]) -> str:
    """
    Return the frontends of programs, one a line; below them what is refused, left out and complained about.

    A frontend whose verdict depends on the kind of source has a line for each.
    """
    programs = sorted(programs, key=lambda program: program.service)
    lines = _aligned([row for program in programs for port, frontend in program.frontends() for row in _rows(port, frontend)])
    for program in programs:
        lines += [f"{format_address(address)}: other ports are refused" for address in program.cluster_ips]
        lines += [
            f"{frontend.frontend}: only for {', '.join(map(str, frontend.source_ranges))}"
            for _, frontend in program.frontends()
            if frontend.source_ranges
        ]
        lines += [
            f"{port.name} not used: {fate.backend} ({fate.reason.value})"
            for port in program.ports
            for fate in port.considered
            if not fate.chosen
        ]
        lines += [f"{finding.severity.value}: {finding}" for finding in program.findings]
    lines += sorted(f"{finding.severity.value}: {finding}" for finding in findings)
    return "\n".join(lines)


def _rows(port: PortProgram, frontend: FrontendProgram) -> list[tuple[str, ...]]:
    verdicts = frontend.verdicts()
    if len({(verdict.action, verdict.pool) for verdict in verdicts}) == 1:
        return [_row(port, frontend, str(frontend.frontend), verdicts[0], _masquerade(*verdicts))]
    return [
        _row(port, frontend, f"{frontend.frontend} from {source.value}", verdict, "yes" if verdict.masquerade else "no")
        for source, verdict in zip(Source, verdicts, strict=True)
    ]


def _row(port: PortProgram, frontend: FrontendProgram, label: str, verdict: Verdict, masquerade: str) -> tuple[str, ...]:
    backends = ", ".join(map(str, verdict.pool.backends)) if verdict.pool else "-"
    affinity = "-" if frontend.affinity_timeout_s is None else f"{frontend.affinity_timeout_s} s"
    return (label, str(port.name), verdict.action.value, backends, masquerade if verdict.pool else "-", affinity)


def _masquerade(pod: Verdict, host: Verdict, outside: Verdict) -> str:
    words = {
        (True, True, True): "always",
        (False, True, True): "unless pod",
        (False, True, False): "host only",
        (False, False, False): "hairpin only",
    }
    return words[pod.masquerade, host.masquerade, outside.masquerade]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    if not rows:
        return ["no frontends"]
    table = [HEADER, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADER))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
