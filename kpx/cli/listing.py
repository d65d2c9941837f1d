"""What the kernel holds as answers: JSON with the keys docs/cli.md promises, and the tables people read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from kpx.cli.failing import FailingEndpoint
from kpx.cli.output import Json, table
from kpx.dataplanes.base import AffinityEntry, Dataplane, Draining, KernelFrontend, KernelVerdict, Observed
from kpx.model.addresses import format_address
from kpx.model.names import ObjectName, PortName
from kpx.model.service import Service
from kpx.policy.claims import NODE_PORT_ADDRESS
from kpx.policy.desired import Frontend, ServiceProgram, Source

BY_SOURCE = "by-source"
"""The action of a frontend that does not treat all kinds of source alike."""

_MASQUERADE = {
    (Source.POD, Source.HOST, Source.OUTSIDE): "always",
    (Source.HOST, Source.OUTSIDE): "unless-pod",
    (Source.HOST,): "host-only",
    (): "hairpin-only",
}

Owners = Mapping[Frontend, PortName]
"""Whose each frontend is, as far as the manifests say."""


class Filter(NamedTuple):
    """
    Which of the answers are wanted; empty means all.

    Args:
        names: each is a Service (namespace/name, or the name alone) or part of a frontend's text.
        namespace: of the Service.
    """

    names: tuple[str, ...] = ()
    namespace: str = ""

    def passes(self, frontend: Frontend | None, service: ObjectName | None) -> bool:
        """Tell whether something that belongs to a frontend and a Service, if known, is wanted."""
        if self.namespace and (service is None or service.namespace != self.namespace):
            return False
        if not self.names:
            return True
        known = {str(service), service.name} if service else set()
        return any(name in known or (frontend is not None and name in str(frontend)) for name in self.names)


class Shown(NamedTuple):
    """An answer: as JSON, and as a table (`wide` has all columns)."""

    data: list[dict[str, Json]]
    headers: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    wide: tuple[str, ...] = ()
    wide_rows: Sequence[tuple[str, ...]] = ()

    def text(self, wide: bool) -> str:
        """Return the table."""
        if wide and self.wide:
            return table(self.wide, self.wide_rows)
        return table(self.headers, self.rows)


def _owner(owners: Owners, frontend: Frontend | None) -> PortName | None:
    """Return whose a frontend is; one on an address that is nobody's may be a node port on an address of this node."""
    if frontend is None:
        return None
    return owners.get(frontend) or owners.get(frontend._replace(address=NODE_PORT_ADDRESS))


def _service(owners: Owners, frontend: Frontend | None) -> ObjectName | None:
    owner = _owner(owners, frontend)
    return owner.service if owner else None


def frontend_json(held: KernelFrontend, owner: PortName | None) -> dict[str, Json]:
    """Return a frontend of the kernel with the keys docs/cli.md promises."""
    return {
        **address_json(held.frontend),
        "kind": held.kind.value if held.kind else None,
        "action": action_of(held),
        "endpoints": [str(backend) for backend in held.backends],
        "masquerade": masquerade_of(held),
        "affinityTimeoutSeconds": held.affinity_timeout_s,
        "sourceRanges": [str(prefix) for prefix in held.source_ranges],
        "bySource": {source.value: verdict_json(held.verdict(source)) for source in Source},
        **owner_json(owner),
    }


def verdict_json(verdict: KernelVerdict) -> dict[str, Json]:
    """Return what becomes of a kind of source with the keys docs/cli.md promises."""
    endpoints = [str(backend) for backend in verdict.backends]
    return {"action": verdict.action, "endpoints": endpoints, "masquerade": verdict.masquerade}


def action_of(held: KernelFrontend) -> str:
    """Return the action all kinds of source have in common, else `BY_SOURCE`."""
    actions = {held.verdict(source).action for source in Source}
    pools = {held.verdict(source).backends for source in Source}
    return actions.pop() if len(actions) == len(pools) == 1 else BY_SOURCE


def masquerade_of(held: KernelFrontend) -> str:
    """Return in a word whose address is replaced: of those that are forwarded at all, "" when nobody is."""
    forwarded = [source for source in Source if held.verdict(source).action == "forward"]
    replaced = tuple(source for source in forwarded if held.verdict(source).masquerade)
    if not forwarded:
        return ""
    return _MASQUERADE.get(replaced) or ",".join(source.value for source in replaced)


def address_json(frontend: Frontend) -> dict[str, Json]:
    """Return what a client addresses; `address` is null for a node port."""
    return {
        "frontend": str(frontend),
        "family": str(frontend.family),
        "address": format_address(frontend.address) if frontend.address else None,
        "protocol": str(frontend.protocol),
        "port": frontend.port,
    }


def owner_json(owner: PortName | None) -> dict[str, Json]:
    """Return the Service and the port a frontend belongs to; null when the manifests do not say."""
    return {"service": str(owner.service) if owner else None, "portName": owner.port if owner else None}


def show_frontends(frontends: Iterable[KernelFrontend], owners: Owners, chosen: Filter) -> Shown:
    """Show one line a frontend."""
    held = [f for f in frontends if chosen.passes(f.frontend, _service(owners, f.frontend))]
    rows, wide = [], []
    for f in held:
        owner = owners.get(f.frontend)
        row = (str(f.frontend), f.kind.value if f.kind else "", action_of(f), str(len(f.backends)), str(owner or ""))
        rows.append(row)
        affinity = "" if f.affinity_timeout_s is None else f"{f.affinity_timeout_s}s"
        ranges = ",".join(map(str, f.source_ranges))
        wide.append((*row, masquerade_of(f), affinity, ranges, ",".join(map(str, f.backends))))
    headers = ("FRONTEND", "KIND", "ACTION", "ENDPOINTS", "SERVICE")
    data = [frontend_json(f, owners.get(f.frontend)) for f in held]
    return Shown(data, headers, rows, (*headers, "MASQUERADE", "AFFINITY", "SOURCE-RANGES", "ADDRESSES"), wide)


def show_endpoints(
    frontends: Iterable[KernelFrontend],
    drains: Iterable[Draining],
    owners: Owners,
    chosen: Filter,
    failing: Iterable[FailingEndpoint] = (),
) -> Shown:
    """Show a line for each endpoint of each frontend, with its slot; then those that fail their check; then those that drain."""
    data, rows = [], []
    known = {(each.frontend, each.backend): each for each in failing}
    for f in frontends:
        owner = owners.get(f.frontend)
        if not chosen.passes(f.frontend, owner.service if owner else None):
            continue
        for slot, backend in enumerate(f.backends):
            where = {"address": format_address(backend.address), "port": backend.port}
            failed = known.pop((f.frontend, backend), None)
            placed = {"slot": slot, "frontend": str(f.frontend), "state": "serving", "why": failed.why if failed else None}
            data.append({"endpoint": str(backend), **where, **placed, **owner_json(owner)})
            state = f"serving, but failing: {failed.why}" if failed else "serving"
            rows.append((str(backend), str(f.frontend), str(slot), state, str(owner or "")))
    for out in known.values():
        if chosen.passes(out.frontend, out.service):
            data.append(failing_json(out))
            rows.append((str(out.backend), str(out.frontend or ""), "", f"failing: {out.why}", str(out.port or out.service)))
    for drain in drains:
        owner = _owner(owners, drain.frontend)
        if chosen.passes(drain.frontend, owner.service if owner else None):
            data.append({**draining_json(drain), **owner_json(owner)})
            connections = f"{drain.active + drain.inactive} connection{'' if drain.active + drain.inactive == 1 else 's'}"
            state = f"draining for {drain.for_s:.0f}s, {connections}"
            rows.append((str(drain.backend), str(drain.frontend), "", state, str(owner or "")))
    return Shown(data, ("ENDPOINT", "FRONTEND", "SLOT", "STATE", "SERVICE"), rows)


def failing_json(failed: FailingEndpoint) -> dict[str, Json]:
    """Return an endpoint that fails its check with the keys docs/cli.md promises; it has no slot."""
    return {
        "endpoint": str(failed.backend),
        "address": format_address(failed.backend.address),
        "port": failed.backend.port,
        "slot": None,
        "frontend": str(failed.frontend) if failed.frontend else None,
        "state": "failing",
        "why": failed.why,
        "service": str(failed.service),
        "portName": failed.port.port if failed.port else None,
    }


def draining_json(drain: Draining) -> dict[str, Json]:
    """Return an endpoint that drains with the keys docs/cli.md promises; it has no slot."""
    return {
        "endpoint": str(drain.backend),
        "address": format_address(drain.backend.address),
        "port": drain.backend.port,
        "slot": None,
        "frontend": str(drain.frontend),
        "state": "draining",
        "drainingSeconds": round(drain.for_s, 1),
        "activeConnections": drain.active,
        "inactiveConnections": drain.inactive,
    }


def show_affinity(entries: Iterable[AffinityEntry], owners: Owners, chosen: Filter) -> Shown:
    """Show one line for each client that is kept on an endpoint."""
    held = [e for e in entries if chosen.passes(e.frontend, _service(owners, e.frontend))]
    data = [affinity_json(e) | owner_json(_owner(owners, e.frontend)) for e in held]
    rows = [
        (
            format_address(e.client),
            str(e.frontend),
            str(e.backend),
            f"{e.expires_in_s:.0f}s",
            str(_owner(owners, e.frontend) or ""),
        )
        for e in held
    ]
    return Shown(data, ("CLIENT", "FRONTEND", "ENDPOINT", "EXPIRES-IN", "SERVICE"), rows)


def affinity_json(entry: AffinityEntry) -> dict[str, Json]:
    """Return an affinity entry with the keys docs/cli.md promises."""
    return {
        "client": format_address(entry.client),
        "frontend": str(entry.frontend),
        "endpoint": str(entry.backend),
        "expiresInSeconds": round(entry.expires_in_s, 3),
        "timeoutSeconds": entry.timeout_s,
    }


def show_rows(dataplane: Dataplane, observed: Observed, owners: Owners, chosen: Filter) -> Shown:
    """Show every row as the command that adds it, tables by rank, rows in order of their text."""
    data, rows = [], []
    for region in sorted(observed.rows, key=lambda t: (t.family, t.rank, t.name)):
        commands = [(dataplane.row_command(region, key, value), key) for key, value in observed.rows[region].items()]
        for command, key in sorted(commands, key=lambda pair: pair[0]):
            frontend = dataplane.row_frontend(region, key)
            owner = _owner(owners, frontend)
            if not chosen.passes(frontend, owner.service if owner else None):
                continue
            named = {"family": region.family, "table": region.name, "command": command}
            data.append({**named, "frontend": str(frontend) if frontend else None, **owner_json(owner)})
            rows.append((region.family, region.name, str(frontend or ""), str(owner or ""), command))
    return Shown(data, ("FAMILY", "TABLE", "FRONTEND", "SERVICE", "COMMAND"), rows)


def show_services(
    frontends: Iterable[KernelFrontend],
    services: Mapping[ObjectName, Service],
    programs: Mapping[ObjectName, ServiceProgram],
    chosen: Filter,
) -> Shown:
    """Show one line a Service: how much of it the kernel holds."""
    held = {f.frontend: f for f in frontends}
    data, rows = [], []
    for name, service in sorted(services.items()):
        asked = [program.frontend for _, program in programs[name].frontends()] if name in programs else []
        if not (chosen.passes(None, name) or any(chosen.passes(f, name) for f in asked)):
            continue
        item = _service_json(service, asked, held)
        data.append(item)
        ports = ",".join(item["ports"])
        addresses = ",".join(item["clusterIPs"])
        count = f"{item['frontendsHeld']}/{item['frontendsWanted']}"
        rows.append((name.namespace, name.name, service.type, addresses, ports, count, str(item["endpoints"]), item["state"]))
    return Shown(data, ("NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "PORTS", "FRONTENDS", "ENDPOINTS", "STATE"), rows)


def _service_json(service: Service, asked: list[Frontend], held: dict[Frontend, KernelFrontend]) -> dict[str, Json]:
    present = [held[frontend] for frontend in asked if frontend in held]
    endpoints = {backend for frontend in present for backend in frontend.backends}
    return {
        "namespace": service.name.namespace,
        "name": service.name.name,
        "type": service.type,
        "clusterIPs": [format_address(address) for address in service.cluster_ips],
        "ports": [f"{p.port}{f':{p.node_port}' if p.node_port else ''}/{p.protocol}" for p in service.ports],
        "frontendsWanted": len(asked),
        "frontendsHeld": len(present),
        "endpoints": len(endpoints),
        "state": _state(service, len(asked), len(present), len(endpoints)),
    }


def _state(service: Service, asked: int, present: int, endpoints: int) -> str:
    """Return in a few words how a Service is doing."""
    if service.skipped:
        return f"skipped: {service.skipped}"
    if not asked:
        return "nothing to forward here"
    if present < asked:
        return "partly missing" if present else "missing"
    return "forwarded" if endpoints else "refused: no endpoints"
