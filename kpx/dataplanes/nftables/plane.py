"""
The nftables data plane: constant rules, everything else is elements (docs/dataplane-nftables.md).

Ownership: kpx owns the tables `ip kpx` and `ip6 kpx` whole, and nothing else. A restarted process knows its objects by these two
names; the names of chains and the comments of rules say what each is. Nobody else's table is ever read.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Mapping

from kpx.dataplanes.base import AffinityEntry, Draining, KernelFrontend, Listed, Observed, Refusal
from kpx.dataplanes.nftables import affinity, courtesies, observe, reading, render, walk
from kpx.dataplanes.nftables.apply import Transactions
from kpx.dataplanes.nftables.encode import Constant, encode, encode_table
from kpx.dataplanes.nftables.schema import FAMILY_NAMES, NFPROTOS, TABLE
from kpx.dataplanes.nftables.skeleton import skeleton
from kpx.dataplanes.nftables.watch import Watch
from kpx.dataplanes.way import Hook
from kpx.errors import KernelError
from kpx.kernel.netlink import Netlink
from kpx.kernel.wire import nft
from kpx.model.addresses import Address, Family
from kpx.model.facts import NodeFacts
from kpx.model.node import ServiceCIDR
from kpx.policy.desired import Frontend, ServiceProgram
from kpx.reconcile.plan import Failure, Operation, Outcome, Plan, Verb
from kpx.reconcile.rows import Key, Rows, Table, Value


class NftablesDataplane:
    """See `kpx.dataplanes.base.Dataplane`, whose promises it keeps."""

    name = "nftables"
    audit_every_s: float | None = None

    def __init__(self, netlink: Netlink | None = None) -> None:
        """Open the kernel (CapabilityError without netfilter netlink); with None, only the pure verbs may be used."""
        self._netlink_or_none = netlink
        self._watch: Watch | None = None
        self._constant: Constant = {}
        self._families: tuple[Family, ...] = ()
        self._create: set[Family] = set()
        self._anew: set[Family] = set()

    @property
    def _netlink(self) -> Netlink:
        if self._netlink_or_none is None:
            raise KernelError("read or write nf_tables", errno.ENOTCONN, "this data plane was opened without a kernel")
        return self._netlink_or_none

    def render_service(self, program: ServiceProgram, facts: NodeFacts) -> Rows:
        """Return the rows of one Service. Pure."""
        return render.render_service(program, facts)

    def render_courtesies(self, program: ServiceProgram, facts: NodeFacts) -> Rows:
        """Return the part of `render_service` that is about no frontend, for when another data plane has those. Pure."""
        return courtesies.render(program, facts)

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
        """Return the nft command that adds the row. Pure."""
        return reading.row_command(table, key, value)

    def row_frontend(self, table: Table, key: Key) -> Frontend | None:
        """Return the frontend a row belongs to. Pure."""
        return reading.row_frontend(table, key)

    def prepare(self, facts: NodeFacts) -> list[str]:
        """
        Find out what of tables, sets and base chains has to be made; `apply` makes it in the transaction of the rows.

        Nothing is written here. Rows survive unless a set has another type (another version of kpx made it); then the table is
        replaced in one transaction.
        """
        self._families = facts.families
        self._constant = {f: {c.name: c for c in skeleton(facts, f)} for f in facts.families}
        self._create.clear()
        self._anew.clear()
        sentences: list[str] = []
        for family in facts.families:
            if not observe.table_exists(self._netlink, family):
                sentences.append(f"table {FAMILY_NAMES[family]} {TABLE} is missing")
                self._create.add(family)
                continue
            found, anew = observe.misshapen(self._netlink, family)
            sentences += found
            if found:
                (self._anew if anew else self._create).add(family)
        return sentences

    def present(self) -> bool:
        """Tell whether anything of ours is in the kernel."""
        return bool(self._present())

    def expect(self, facts: NodeFacts) -> None:
        """Do nothing: the constant chains are rows like all others."""

    def observe(self) -> Observed:
        """Read back our tables, those of families that are no longer programmed included."""
        rows: Rows = {}
        differences: list[str] = []
        present = [f for f in Family if observe.table_exists(self._netlink, f)]
        for family in present:
            found, anew = observe.misshapen(self._netlink, family)
            differences += found
            # The sets of a table that must be made anew cannot be read as ours; its rows count as missing.
            if not anew:
                rows.update(observe.observe_family(self._netlink, family))
        return Observed(rows, tuple(differences), present=bool(present))

    def apply(self, plan: Plan) -> Outcome:
        """Carry the plan out, a family at a time; a failure of one family as a whole never stops the other (P1)."""
        datagrams, size = self._netlink.datagrams, self._netlink.written_bytes
        constant = {f: self._constant.get(f, {}) for f in Family}
        failures: list[Failure] = []
        doubtful = False
        for family, name in FAMILY_NAMES.items():
            operations = plan.of_family(name).operations
            create, anew = family in self._create, family in self._anew
            if operations or create or anew:
                transactions = Transactions(self._netlink, family, constant)
                failures += transactions.write(operations, create, anew)
                doubtful = doubtful or transactions.doubtful
                if transactions.made:
                    self._create.discard(family)
                    self._anew.discard(family)
        return Outcome(tuple(failures), self._netlink.datagrams - datagrams, self._netlink.written_bytes - size, doubtful)

    def forget_affinity(self, gone: Callable[[AffinityEntry], bool]) -> int:
        """Delete the affinity entries for which `gone` holds; a family that fails is told of once the other is done (P1)."""
        count = 0
        failure = None
        for family in self._present():
            try:
                count += affinity.forget(self._netlink, family, gone)
            except KernelError as error:
                failure = error
        if failure is not None:
            raise failure
        return count

    def affinity(self) -> list[AffinityEntry]:
        """Return the live affinity entries, sorted."""
        return sorted(entry for f in self._present() for _, _, entry in affinity.read_affinity(self._netlink, f))

    def _present(self) -> list[Family]:
        return [f for f in Family if observe.table_exists(self._netlink, f)]

    def probe(self, facts: NodeFacts) -> list[str]:
        """
        Tell what of nf_tables this kernel lacks, [] when nothing, without changing anything.

        The whole table is sent as a transaction that is never committed: the kernel checks each message and forgets it.
        """
        missing: list[str] = []
        for family in facts.families:
            chains = {c.name: c for c in skeleton(facts, family)}
            rows = render.render_node(facts, ())
            operations = [
                Operation(Verb.ADD, table, key, None, value)
                for table, content in rows.items()
                for key, value in content.items()
                if table.family == FAMILY_NAMES[family]
            ]
            numbers = self._netlink.sequences(1)
            written = list(encode_table(family, self._next))
            written += encode(operations, frozenset(), {**{f: {} for f in Family}, family: chains}, self._next)
            ack = nft.get_table(last := self._next(), NFPROTOS[family], TABLE)
            datagram = b"".join([nft.batch_begin(numbers[0]), *(w.bytes for w in written), ack])
            for answer in self._netlink.transact(datagram, numbers[0], last):
                refused = next((w for w in written if w.sequence == answer.sequence), None)
                if refused is not None:
                    what = ", ".join(str(o.key) for o in refused.operations) or "a set or map"
                    missing.append(f"{family}: {what}: errno {answer.errno} {answer.text}".rstrip())
        return missing

    def _next(self) -> int:
        return self._netlink.sequences(1)[0]

    def missing_schedulers(self, names: Collection[str]) -> frozenset[str]:
        """Return none: nothing here is scheduled by name."""
        return frozenset()

    def draining(self) -> list[Draining]:
        """Return none: connections live on by connection tracking alone (G1)."""
        return []

    def draining_count(self) -> int:
        """Return 0."""
        return 0

    def deadline(self) -> float | None:
        """Return None: there is nothing to tend."""
        return None

    def tend(self, listed: Listed) -> int:
        """Do nothing."""
        return 0

    def audit(self, counts: Mapping[Table, int], sample: Rows) -> list[str]:
        """Find nothing: the kernel tells of every change (`touched`)."""
        return []

    def retire(self, facts: NodeFacts) -> float | None:
        """Remove everything at once: the flows there are live on by connection tracking alone."""
        self.cleanup()
        return None

    def cleanup(self) -> list[str]:
        """Delete our two tables, each in one transaction; nothing else is ours."""
        removed = []
        for family in self._present():
            numbers = self._netlink.sequences(3)
            parts = (
                nft.batch_begin(numbers[0]),
                nft.delete_table(numbers[1], NFPROTOS[family], TABLE),
                nft.batch_end(numbers[2]),
            )
            complaints = self._netlink.transact(b"".join(parts), numbers[0], numbers[1])
            if complaints and complaints[0].errno != errno.ENOENT:
                raise KernelError(f"delete table {FAMILY_NAMES[family]} {TABLE}", complaints[0].errno, complaints[0].text)
            removed.append(f"nftables table {FAMILY_NAMES[family]} {TABLE}")
        return removed

    def fileno(self) -> int:
        """Return the descriptor of the watch; the subscription starts with the first call."""
        if self._watch is None:
            self._watch = Watch(self._netlink)
        return self._watch.fileno()

    def touched(self) -> list[str]:
        """Return what others did to our tables since the last call."""
        return self._watch.touched() if self._watch is not None else []

    def close(self) -> None:
        """Close sockets; forwarding stays as it is."""
        if self._watch is not None:
            self._watch.close()
        if self._netlink_or_none is not None:
            self._netlink_or_none.close()
