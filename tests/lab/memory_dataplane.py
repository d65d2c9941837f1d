"""
A data plane whose kernel is two dictionaries: what tests of the agent use in place of nf_tables.

A real implementation of `kpx.dataplanes.base.Dataplane`, at the seam made for replacing it. Its kernel can be told to refuse
rows, to fail as a whole, and to be touched by somebody else, and it counts what is written to it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from collections.abc import Callable, Collection, Iterable, Mapping

from kpx.dataplanes.base import AffinityEntry, Draining, KernelFrontend, KernelVerdict, Listed, Observed, Refusal
from kpx.dataplanes.way import Hook, Place, Traveller, Turn
from kpx.errors import KernelError
from kpx.model.addresses import Address, Family, format_address
from kpx.model.facts import NodeFacts
from kpx.model.node import ServiceCIDR
from kpx.policy.desired import Frontend, ServiceProgram
from kpx.reconcile.plan import Failure, Outcome, Plan, Verb
from kpx.reconcile.rows import Key, Rows, Table, Value

NAMES = {Family.IPV4: "ip", Family.IPV6: "ip6"}
HAIRPINS = {family: Table(name, "hairpins", 0, shared=True) for family, name in NAMES.items()}
ENDPOINTS = {family: Table(name, "endpoints", 1) for family, name in NAMES.items()}
FRONTENDS = {family: Table(name, "frontends", 2) for family, name in NAMES.items()}
NODE_PORTS = {family: Table(name, "nodeport-addresses", 0) for family, name in NAMES.items()}
CIDRS = {family: Table(name, "service-cidrs", 0) for family, name in NAMES.items()}


class MemoryDataplane:
    """
    Rows in memory.

    Attributes:
        kernel: what "the kernel" holds. skeleton: families whose constant part exists.
        refused: errno by (table name, key); such rows are refused.
        broken: errno with which every `apply` fails as a whole, 0 for none.
        entries: affinity entries. drains: endpoints that drain. lacking: schedulers "the kernel" does not have.
        plans: every plan that was applied and not empty. renders: how many Services were rendered.
    """

    name = "memory"
    audit_every_s: float | None = None

    def __init__(self) -> None:
        self.kernel: Rows = {}
        self.skeleton: set[Family] = set()
        self.wanted: tuple[Family, ...] = ()
        self.refused: dict[tuple[str, Key], int] = {}
        self.broken = 0
        self.entries: list[AffinityEntry] = []
        self.drains: list[Draining] = []
        self.lacking: frozenset[str] = frozenset()
        self.plans: list[Plan] = []
        self.observed = 0
        self.renders = 0
        self.affinity_reads = 0
        # Opened when somebody listens, so that tests that do not need not close it.
        self._watch: tuple[socket.socket, socket.socket] | None = None

    def render_service(self, program: ServiceProgram, facts: NodeFacts) -> Rows:
        self.renders += 1
        rows: Rows = {}
        for port, frontend in program.frontends():
            family = port.family
            pool = frontend.outside.pool
            backends = pool.backends if pool else ()
            value = (frontend.outside.action, len(backends), facts.masquerade_all, frontend.affinity_timeout_s)
            rows.setdefault(FRONTENDS[family], {})[frontend.frontend] = value
            if backends:
                slots = rows.setdefault(ENDPOINTS[family], {})
                slots.update({(frontend.frontend, slot): backend for slot, backend in enumerate(backends)})
            for address in port.hairpin:
                rows.setdefault(HAIRPINS[family], {})[address] = True
        return rows

    def render_node(self, facts: NodeFacts, cidrs: Iterable[ServiceCIDR]) -> Rows:
        rows: Rows = {}
        for address in facts.node_port_addresses:
            rows.setdefault(NODE_PORTS[_family(address)], {})[address] = True
        for prefix in {prefix for cidr in cidrs for prefix in cidr.prefixes}:
            rows.setdefault(CIDRS[_family(prefix.address)], {})[prefix] = True
        return rows

    def frontends_of(self, rows: Rows) -> list[KernelFrontend]:
        result = []
        for family in Family:
            endpoints = rows.get(ENDPOINTS[family], {})
            for frontend, (action, count, *_, timeout) in rows.get(FRONTENDS[family], {}).items():
                backends = tuple(endpoints[frontend, slot] for slot in range(count))
                pod, others = (KernelVerdict(action.value, backends, masquerade) for masquerade in (False, True))
                result.append(KernelFrontend(frontend, None, pod, others, others, timeout))
        return sorted(result, key=lambda one: one.frontend)

    def refusal_of(self, rows: Rows, destination: Address, host: Collection[Address]) -> Refusal | None:
        ranges = rows.get(CIDRS[_family(destination)], {})
        return Refusal("drop", "in a range of Services") if any(destination in prefix for prefix in ranges) else None

    def hooks(self, rows: Rows, facts: NodeFacts, host: Collection[Address]) -> Iterable[Hook]:
        """Exact frontends lead to what is in their slots; whoever is not a pod is masqueraded. There are no node ports here."""

        def translate(place: Place, packet: Traveller) -> Iterable[tuple[Traveller, Turn]]:
            asked = Frontend(packet.family, packet.destination, packet.protocol, packet.port)
            held = next((one for one in self.frontends_of(rows) if one.frontend == asked), None)
            if held is None:
                return [(packet, Turn.ON)]
            met = packet.meets(place, "memory", "a frontend", str(asked))
            sent = [met._replace(destination=b.address, port=b.port, translated=True) for b in held.backends]
            return [(one, Turn.ON) for one in sent] or [(met, Turn(held.outside.action))]

        def masquerade(packet: Traveller) -> Iterable[tuple[Traveller, Turn]]:
            pods = facts.local_detector.prefix(packet.family)
            is_to = packet.translated and pods is not None and packet.source not in pods
            return [(packet._replace(masqueraded=is_to), Turn.ON)]

        for family in Family:
            for place in (Place.PREROUTING, Place.OUTPUT):
                yield Hook(place, 0, family, True, functools.partial(translate, place))
            yield Hook(Place.POSTROUTING, 0, family, True, masquerade)

    def row_command(self, table: Table, key: Key, value: Value) -> str:
        return f"add row {table.family} {table.name} {_spell(key)} : {_spell(value)}"

    def row_frontend(self, table: Table, key: Key) -> Frontend | None:
        if table in FRONTENDS.values():
            return key
        return key[0] if table in ENDPOINTS.values() else None

    def prepare(self, facts: NodeFacts) -> list[str]:
        self.wanted = facts.families
        return [f"{family} is missing" for family in facts.families if family not in self.skeleton]

    def expect(self, facts: NodeFacts) -> None:
        self.wanted = facts.families

    def observe(self) -> Observed:
        self.observed += 1
        return Observed({table: dict(rows) for table, rows in self.kernel.items() if rows}, present=bool(self.skeleton))

    def apply(self, plan: Plan) -> Outcome:
        if self.broken:
            raise KernelError("memory", self.broken)
        self.skeleton.update(self.wanted)
        failures = []
        for operation in plan.operations:
            errno = self.refused.get((operation.table.name, operation.key), 0)
            if errno:
                failures.append(Failure(operation, errno, os.strerror(errno)))
                continue
            rows = self.kernel.setdefault(operation.table, {})
            if operation.verb is Verb.REMOVE:
                del rows[operation.key]
            else:
                assert (operation.key in rows) == (operation.verb is Verb.CHANGE), operation
                rows[operation.key] = operation.new
        if plan:
            self.plans.append(plan)
        return Outcome(tuple(failures), int(bool(plan)), 100 * len(plan.operations))

    def forget_affinity(self, gone: Callable[[AffinityEntry], bool]) -> int:
        self.affinity_reads += 1
        before = len(self.entries)
        self.entries = [entry for entry in self.entries if not gone(entry)]
        return before - len(self.entries)

    def affinity(self) -> list[AffinityEntry]:
        return sorted(self.entries)

    def missing_schedulers(self, names: Collection[str]) -> frozenset[str]:
        return self.lacking & frozenset(names)

    def draining(self) -> list[Draining]:
        return sorted(self.drains)

    def draining_count(self) -> int:
        return len(self.drains)

    def deadline(self) -> float | None:
        return 0.0 if self.drains else None

    def tend(self, listed: Listed) -> int:
        before = len(self.drains)
        self.drains = [drain for drain in self.drains if listed(drain.frontend, drain.backend)]
        return before - len(self.drains)

    def audit(self, counts: Mapping[Table, int], sample: Rows) -> list[str]:
        tables = ((table, rows) for table, rows in sample.items() if not rows.items() <= self.kernel.get(table, {}).items())
        return [f"rows of {table.name} differ" for table, _ in tables]

    def retire(self, facts: NodeFacts) -> float | None:
        self.cleanup()
        return None

    def cleanup(self) -> list[str]:
        removed = [f"the rows of {family}" for family in sorted(self.skeleton)]
        self.kernel, self.skeleton = {}, set()
        return removed

    def touch(self, sentence: str) -> None:
        """Let whoever listens see what somebody else did; what it was, do to `kernel` and `skeleton`."""
        if self._watch:
            self._watch[1].send(sentence.encode() + b"\n")

    def flush(self) -> None:
        """Remove everything, as somebody else would."""
        self.kernel, self.skeleton = {}, set()
        self.touch("table deleted")

    def fileno(self) -> int:
        if self._watch is None:
            self._watch = socket.socketpair()
            self._watch[0].setblocking(False)
        return self._watch[0].fileno()

    def touched(self) -> Collection[str]:
        if self._watch:
            with contextlib.suppress(BlockingIOError):
                return self._watch[0].recv(65536).decode().splitlines()
        return ()

    def close(self) -> None:
        for end in self._watch or ():
            end.close()


def _family(address: bytes) -> Family:
    return Family.IPV4 if len(address) == 4 else Family.IPV6


def _spell(value: object) -> str:
    if isinstance(value, bytes):
        return format_address(Address(value))
    return str(value)
