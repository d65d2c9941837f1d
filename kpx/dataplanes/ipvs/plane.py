"""
The IPVS part of the ipvs data plane: virtual servers, ipsets, a constant handful of iptables rules (docs/dataplane-ipvs.md).

It carries the frontends a virtual server can serve, and brings the others nowhere, so that nftables finds them (decision 0019).

Ownership: the sets and chains whose names begin with KPX-, the routing rule and table of `schema`, and the virtual servers that
the sets `KPX-SERVERS` and `KPX6-SERVERS` record (ADR 0010). A restarted process knows its objects by these; all others are left
alone, whoever made them.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from kpx.dataplanes.base import AffinityEntry, Draining, KernelFrontend, Listed, Observed, Refusal
from kpx.dataplanes.ipvs import firewall, observe, reading, render, rules, walk
from kpx.dataplanes.ipvs.apply import Batch, Writer, batches
from kpx.dataplanes.ipvs.audit import audit
from kpx.dataplanes.ipvs.doors import Doors, close_doors
from kpx.dataplanes.ipvs.draining import Drains
from kpx.dataplanes.ipvs.leaving import Leaving
from kpx.dataplanes.ipvs.schema import FAMILIES, ROUTE_PRIORITY, ROUTE_TABLE, TABLES, shapes
from kpx.dataplanes.ipvs.watch import Watch
from kpx.dataplanes.way import Hook
from kpx.errors import KernelError
from kpx.kernel import routing
from kpx.kernel.routing import PolicyRoute
from kpx.model.addresses import Address, Family
from kpx.model.facts import NodeFacts
from kpx.model.node import ServiceCIDR
from kpx.policy.desired import Frontend, ServiceProgram
from kpx.reconcile.plan import Failure, Outcome, Plan, Verb
from kpx.reconcile.rows import Key, Rows, Table, Value

LOOK_S: Final = 1.0
"""How long rules are not looked at again, seconds: others may change theirs many times a second, and a look runs programs."""


class IpvsDataplane:
    """See `kpx.dataplanes.base.Dataplane`, whose promises it keeps."""

    name = "ipvs"
    audit_every_s: float | None = 30.0

    def __init__(self, doors: Doors | None = None) -> None:
        """Take the kernel's doors; with None, only the pure verbs may be used."""
        self._doors_or_none = doors
        self._watch: Watch | None = None
        self._facts: NodeFacts | None = None
        self._foreign: dict[Family, frozenset[bytes]] = {}
        # Ours as far as this process knows, should somebody flush the sets that say so.
        self._ours: dict[Family, set[Key]] = {family: set() for family in Family}
        self._stirred = False
        self._look_at = 0.0
        self._drains = None if doors is None else Drains(doors)
        self._leaving = None if doors is None else Leaving(doors)

    @property
    def _doors(self) -> Doors:
        if self._doors_or_none is None:
            raise KernelError("read or write IPVS", errno.ENOTCONN, "this data plane was opened without a kernel")
        return self._doors_or_none

    @property
    def drains(self) -> Drains:
        """What drains."""
        if self._drains is None:
            raise KernelError("read or write IPVS", errno.ENOTCONN, "this data plane was opened without a kernel")
        return self._drains

    @property
    def leaving(self) -> Leaving:
        """How far handing over has come."""
        if self._leaving is None:
            raise KernelError("read or write IPVS", errno.ENOTCONN, "this data plane was opened without a kernel")
        return self._leaving

    def render_service(self, program: ServiceProgram, facts: NodeFacts) -> Rows:
        """Return the rows of one Service. Pure."""
        return render.render_service(program, facts)

    def render_node(self, facts: NodeFacts, cidrs: Iterable[ServiceCIDR]) -> Rows:
        """Return the rows of the node. Pure."""
        return render.render_node(facts, cidrs)

    def frontends_of(self, rows: Rows) -> list[KernelFrontend]:
        """Read rows back as frontends. Pure."""
        return reading.frontends_of(rows)

    def refusal_of(self, rows: Rows, destination: Address, host: Collection[Address]) -> Refusal | None:
        """Tell whether rows refuse an address that no frontend catches. Pure."""
        return reading.refusal_of(rows, destination, host)

    def hooks(self, rows: Rows, facts: NodeFacts, host: Collection[Address]) -> Iterable[Hook]:
        """Return what rows do to packets at each hook. Pure."""
        return walk.hooks_of(rows, facts, host)

    def row_command(self, table: Table, key: Key, value: Value) -> str:
        """Return the ipvsadm or ipset command that adds the row. Pure."""
        return reading.row_command(table, key, value)

    def row_frontend(self, table: Table, key: Key) -> Frontend | None:
        """Return the frontend a row belongs to, a node port with the address it answers on. Pure."""
        return reading.row_frontend(table, key)

    def prepare(self, facts: NodeFacts) -> list[str]:
        """
        Make sets, routing and rules exist and be right, in this order; nothing is written when they are.

        Empty sets catch nothing, so the order of these and of rows is free; a set of another type stops us, since only
        `kpx cleanup` may take away what rules refer to.

        Raises:
            KernelError, CapabilityError: they cannot be had; what is there stays as it is.
        """
        self._facts = facts
        self.drains.timeout_s, self.drains.grace_s = facts.drain_timeout_s, facts.drain_grace_s
        sentences: list[str] = []
        names = observe.present_sets(self._doors)
        for family in facts.families:
            found = observe.misshapen(self._doors, family, names)
            if odd := [sentence for sentence in found if not sentence.endswith("is missing")]:
                raise KernelError("make ipsets", errno.EEXIST, f"{odd[0]}; another version of kpx made it: kpx cleanup")
            sentences += found
            for shape in shapes(family) if found else ():
                self._doors.sets.create(shape)
            sentences += routing.ensure(self._route(facts, family))
            if restored := self._restore(family, rules.chains(facts, family)):
                # Other rules may mean other mark bits, and nothing sets the former any more.
                sentences += [*restored, *routing.remove_other_marks(self._route(facts, family))]
        return sentences

    def _route(self, facts: NodeFacts, family: Family) -> PolicyRoute:
        steer = rules.mark_bits(facts).steer
        return PolicyRoute(int(family), ROUTE_PRIORITY, steer, steer, ROUTE_TABLE)

    def _restore(self, family: Family, chains: tuple[rules.Chain, ...]) -> list[str]:
        held = firewall.saved(self._doors.iptables, family)
        found = firewall.differences(chains, held)
        if found:
            self._doors.iptables.restore(int(family), firewall.restoration(chains, held))
        return [f"{sentence} ({family})" for sentence in found]

    def contested(self, facts: NodeFacts) -> list[str]:
        """Return what others have where our routing rule and table belong, a sentence each."""
        return [sentence for family in facts.families for sentence in routing.foreign(self._route(facts, family))]

    def present(self) -> bool:
        """Tell whether anything of ours is in the kernel."""
        return bool(observe.present_sets(self._doors))

    def observe(self) -> Observed:
        """Read back our sets, our virtual servers and their destinations, those of families no longer programmed included."""
        names = observe.present_sets(self._doors)
        servers = observe.read_servers(self._doors) if names else {}
        rows: Rows = {}
        for family in Family:
            state = observe.observe_family(self._doors, family, names, servers, self._ours[family])
            tables = (TABLES[family, name] for name in ("servers", "virtual-servers"))
            self._ours[family] = {key for table in tables for key in state.rows.get(table, {})}
            rows.update(state.rows)
            self._foreign[family] = state.foreign
            self.drains.learn(family, state.draining, state.memory)
        return Observed(rows, tuple(self._differences(names)) if names else (), present=bool(names))

    def _differences(self, names: list[str]) -> list[str]:
        """Return what of the constant part is not as it must be; without facts nobody knows how it must be."""
        if self._facts is None:
            return []
        found: list[str] = []
        for family in self._facts.families:
            found += observe.misshapen(self._doors, family, names)
            if not routing.present(self._route(self._facts, family)):
                found.append(
                    f"the routing rule of priority {ROUTE_PRIORITY} or the route of table {ROUTE_TABLE} is missing ({family})"
                )
            held = firewall.saved(self._doors.iptables, family)
            found += [f"{s} ({family})" for s in firewall.differences(rules.chains(self._facts, family), held)]
        return found

    def expect(self, facts: NodeFacts) -> None:
        """Let `observe` compare rules, sets and routing with what they must be on this node; nothing is written."""
        self._facts = facts

    def apply(self, plan: Plan) -> Outcome:
        """Carry the plan out, a family at a time; a failure of one family as a whole never stops the other (P1)."""
        before = self._written()
        failures: list[Failure] = []
        doubtful = False
        for name, those in batches(plan).items():
            try:
                failures += self._write(FAMILIES[name], those)
            except KernelError as error:
                # Nobody knows how far it came.
                failures += [Failure(operation, error.errno, str(error)) for batch in those for operation in batch.operations]
                doubtful = True
        datagrams, size = self._written()
        return Outcome(tuple(failures), datagrams - before[0], size - before[1], doubtful)

    def _written(self) -> tuple[int, int]:
        doors = self._doors
        return doors.netlink.datagrams + doors.ipvs.datagrams, doors.netlink.written_bytes + doors.ipvs.written_bytes

    def _write(self, family: Family, those: list[Batch]) -> list[Failure]:
        foreign = self._foreign.get(family, frozenset())
        servers = [batch for batch in those if batch.table.name == "virtual-servers"]
        if any(operation.key in foreign for batch in servers for operation in batch.operations):
            # Somebody may have taken theirs away since we looked.
            theirs = {observe.packed(server) for server in observe.read_servers(self._doors) if server.family == family}
            foreign = self._foreign[family] = foreign & theirs
        try:
            failures = Writer(self._doors, family, foreign.__contains__, self.drains, self._ours[family]).write(those)
        except KernelError:
            # What was not somebody else's before is ours if it is there at the next try.
            self._ours[family].update(o.key for b in servers if b.verb is Verb.ADD for o in b.operations if o.key not in foreign)
            raise
        self._know(family, those, failures)
        return failures

    def _know(self, family: Family, those: list[Batch], failures: list[Failure]) -> None:
        """Take note of the virtual servers that became ours or are ours no more."""
        failed = {failure.operation.key for failure in failures if failure.operation.table.name == "servers"}
        for verb, table, operations in those:
            if table.name == "servers":
                keys = {operation.key for operation in operations} - failed
                change = self._ours[family].difference_update if verb is Verb.REMOVE else self._ours[family].update
                change(keys)

    def forget_affinity(self, gone: Callable[[AffinityEntry], bool]) -> int:
        """Do nothing: no virtual server of ours remembers clients."""
        return 0

    def affinity(self) -> list[AffinityEntry]:
        """Return none: frontends with session affinity are carried by nftables."""
        return []

    def missing_schedulers(self, names: Collection[str]) -> frozenset[str]:
        """Return those of the schedulers that this kernel does not have."""
        return frozenset(name for name in names if not self._doors.ipvs.has_scheduler(name))

    def draining(self) -> list[Draining]:
        """Return the endpoints that drain, sorted."""
        self.observe()
        return self.drains.list()

    def draining_count(self) -> int:
        """Return how many destinations drain, as far as is known."""
        return len(self._drains) if self._drains else 0

    def deadline(self) -> float | None:
        """Return when a destination that drains wants to be looked at, or rules that somebody may have changed."""
        times = (self._drains.deadline() if self._drains else None, self._look_at if self._stirred else None)
        return min((at for at in times if at is not None), default=None)

    def tend(self, listed: Listed) -> int:
        """Delete destinations that have drained."""
        return self.drains.tend(listed)

    def audit(self, counts: Mapping[Table, int], sample: Rows) -> list[str]:
        """Return what others were found to have touched; see `kpx.dataplanes.ipvs.audit`."""
        return [*audit(self._doors, counts, sample), *self._differences(observe.present_sets(self._doors))]

    def retire(self, facts: NodeFacts) -> float | None:
        """Take no new flows; once the connections that live on have ended, or may drain no longer, remove everything."""
        return self.leaving.step(facts, self.observe().rows, facts.drain_timeout_s)

    def cleanup(self) -> list[str]:
        """Remove steering first, then virtual servers, rules, routing and at last the record of what is ours."""
        return self.leaving.remove(self.observe().rows)

    def fileno(self) -> int:
        """Return the descriptor of the watch; the subscription starts with the first call."""
        if self._watch is None:
            self._watch = Watch()
        return self._watch.fileno()

    def touched(self) -> list[str]:
        """Return what others did to our rules since the last call; sets and virtual servers are audited instead."""
        if self._watch is None or self._facts is None:
            return []
        self._stirred = self._watch.stirred() or self._stirred
        now = time.monotonic()
        if not self._stirred or now < self._look_at:
            return []
        self._stirred, self._look_at = False, now + LOOK_S
        return self._differences(observe.present_sets(self._doors))

    def close(self) -> None:
        """Close sockets; forwarding stays as it is."""
        if self._watch is not None:
            self._watch.close()
        if self._doors_or_none is not None:
            close_doors(self._doors_or_none)
