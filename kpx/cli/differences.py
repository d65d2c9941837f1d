"""
Two states of the kernel compared in words: what `kpx diff` says above the rows, and `kpx explain` about one frontend.

Works on `KernelFrontend`s, which every data plane can read back from its rows, so no data plane is known here. Rows that
no sentence about a frontend accounts for are counted; the verbs show them as commands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from kpx.cli.listing import owner_json
from kpx.cli.output import Json
from kpx.dataplanes.base import Dataplane, KernelFrontend, KernelVerdict
from kpx.model.names import PortName
from kpx.policy.desired import Frontend, Source
from kpx.reconcile.plan import Operation, Plan, Verb

_SOURCES = {Source.POD: "pods", Source.HOST: "this node", Source.OUTSIDE: "outside"}

WORDS = {Verb.ADD: "add", Verb.CHANGE: "change", Verb.REMOVE: "remove"}

ROWS = {
    Verb.ADD: ("is missing", "are missing"),
    Verb.CHANGE: ("has another value in the kernel", "have other values in the kernel"),
    Verb.REMOVE: ("is in the kernel, and nothing asks for it", "are in the kernel, and nothing asks for them"),
}
"""What is the matter with one row and with several."""


def service_label(frontend: Frontend, names: Mapping[Frontend, PortName]) -> str:
    """Return `Service shop/web: ` for a frontend some Service of the manifests owns, else nothing."""
    name = names.get(frontend)
    return f"Service {name.service}: " if name else ""


def frontend_sentences(actual: KernelFrontend | None, desired: KernelFrontend | None) -> list[str]:
    """Return what is different about one frontend; empty when the two are equal but for the order of endpoints."""
    if desired is None:
        return [] if actual is None else [f"{actual.frontend} is in the kernel, and no Service asks for it"]
    frontend = desired.frontend
    if actual is None:
        return [f"{frontend} is missing from the kernel"]
    by_source: dict[str, list[Source]] = {}
    for source in Source:
        for sentence in _verdict_sentences(frontend, actual.verdict(source), desired.verdict(source)):
            by_source.setdefault(sentence, []).append(source)
    said = [sentence + _asked_from(sources) for sentence, sources in by_source.items()]
    if actual.source_ranges != desired.source_ranges:
        said.append(f"{frontend} lets {_ranges(actual)} pass in the kernel, and should let {_ranges(desired)} pass")
    if actual.affinity_timeout_s != desired.affinity_timeout_s:
        said.append(f"{frontend} {_affinity(actual)} in the kernel, and should be the one that {_affinity(desired)}")
    return said


def _verdict_sentences(frontend: Frontend, actual: KernelVerdict, desired: KernelVerdict) -> Iterator[str]:
    if actual.action != desired.action:
        yield f"{frontend} does {actual.action} in the kernel, and should {desired.action}"
    in_kernel, wanted = set(actual.backends), set(desired.backends)
    yield from (f"endpoint {backend} is missing from {frontend}" for backend in desired.backends if backend not in in_kernel)
    yield from (f"endpoint {b} is in {frontend}, and should not be" for b in actual.backends if b not in wanted)
    if actual.action == desired.action and actual.masquerade != desired.masquerade:
        does, should = ("rewrites", "should not") if actual.masquerade else ("does not rewrite", "should")
        yield f"{frontend} {does} the source address in the kernel, and {should}"


def _asked_from(sources: Collection[Source]) -> str:
    """Return the end of a sentence that holds for some kinds of source only."""
    return "" if len(sources) == len(Source) else f", asked from {' or '.join(_SOURCES[each] for each in sources)}"


def _ranges(frontend: KernelFrontend) -> str:
    return ", ".join(map(str, frontend.source_ranges)) or "everybody"


def _affinity(frontend: KernelFrontend) -> str:
    seconds = frontend.affinity_timeout_s
    return "keeps no client on its endpoint" if seconds is None else f"keeps a client on its endpoint for {seconds} s"


def sentences(
    plan: Plan,
    actual: Iterable[KernelFrontend],
    desired: Iterable[KernelFrontend],
    names: Mapping[Frontend, PortName],
    dataplane: Dataplane,
) -> Iterator[str]:
    """Yield every difference as a sentence: frontends in order first, then the rows no frontend accounts for."""
    have = {f.frontend: f for f in actual}
    want = {f.frontend: f for f in desired}
    told = set()
    for frontend in sorted(have.keys() | want.keys()):
        for sentence in frontend_sentences(have.get(frontend), want.get(frontend)):
            told.add(frontend)
            yield service_label(frontend, names) + sentence
    yield from row_sentences(plan.operations, told, names, dataplane)


def row_sentences(
    operations: Iterable[Operation], told: Collection[Frontend], names: Mapping[Frontend, PortName], dataplane: Dataplane
) -> Iterator[str]:
    """Yield how many rows differ that no sentence about a frontend (`told`) accounts for, by Service, table and verb."""
    counts: Counter[tuple[str, str, Verb]] = Counter()
    for operation in operations:
        owner = dataplane.row_frontend(operation.table, operation.key)
        if owner is None or owner not in told:
            label = service_label(owner, names) if owner else ""
            counts[label, f"{operation.table.family} {operation.table.name}".strip(), operation.verb] += 1
    for (label, region, verb), count in counts.items():
        rows = "1 row" if count == 1 else f"{count} rows"
        yield f"{label}{rows} of {region} {ROWS[verb][count > 1]}"


def operation_json(operation: Operation, names: Mapping[Frontend, PortName], dataplane: Dataplane) -> dict[str, Json]:
    """Return a differing row with the keys docs/cli.md promises; `was` is what the kernel has instead, if anything."""
    _, region, key, old, new = operation
    frontend = dataplane.row_frontend(region, key)
    return {
        "change": WORDS[operation.verb],
        "family": region.family,
        "table": region.name,
        "command": dataplane.row_command(region, key, old if operation.verb is Verb.REMOVE else new),
        "was": dataplane.row_command(region, key, old) if operation.verb is Verb.CHANGE else None,
        "frontend": str(frontend) if frontend else None,
        **owner_json(names.get(frontend) if frontend else None),
    }


def operation_lines(operations: Iterable[Operation], dataplane: Dataplane) -> list[str]:
    """Return differing rows as commands: - before, + after."""
    lines = []
    for verb, region, key, old, new in operations:
        if verb is not Verb.ADD:
            lines.append(f"- {dataplane.row_command(region, key, old)}")
        if verb is not Verb.REMOVE:
            lines.append(f"+ {dataplane.row_command(region, key, new)}")
    return lines
