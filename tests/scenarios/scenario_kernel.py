"""
The data planes over a dictionary: real rendering, no netlink, no root.

They refuse what the kernel refuses: adding a row that is there, changing or removing one that is not; for nftables a verdict to a
chain that does not exist, removing a chain that a verdict still names; for ipvs a destination of no virtual server. And what
would be wrong though the kernel takes it: a virtual server that is not on record, steering to one that is not there.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection

from kpx.dataplanes.base import AffinityEntry, Observed
from kpx.dataplanes.composed import Composed
from kpx.dataplanes.ipvs.plane import IpvsDataplane
from kpx.dataplanes.ipvs.schema import BY_NAME, FAMILIES, Kind, server_of
from kpx.dataplanes.nftables.plane import NftablesDataplane
from kpx.model.facts import NodeFacts
from kpx.reconcile.plan import Failure, Operation, Outcome, Plan, Verb
from kpx.reconcile.rows import Key, Rows, Table


class Dictionary:
    """
    A kernel for scenarios, to be mixed into a data plane.

    Attributes:
        rows: what it holds. look: called after each operation.
    """

    audit_every_s = None

    def __init__(self) -> None:
        super().__init__(None)
        self.rows: Rows = {}
        self.look: Callable[[], None] = lambda: None

    def prepare(self, facts: NodeFacts) -> list[str]:
        """There is nothing but rows here."""
        return []

    def missing_schedulers(self, names: Collection[str]) -> frozenset[str]:
        """Every scheduler is here."""
        return frozenset()

    def observe(self) -> Observed:
        """Return a copy of the rows."""
        return Observed({table: dict(content) for table, content in self.rows.items() if content}, (), bool(self.rows))

    def apply(self, plan: Plan) -> Outcome:
        """Carry operations out one by one."""
        failures = tuple(failure for operation in plan.operations if (failure := self._step(operation)))
        return Outcome(failures, datagrams=1, written_bytes=len(plan.operations))

    def forget_affinity(self, gone: Callable[[AffinityEntry], bool]) -> int:
        """No packet ever made an entry."""
        return 0

    def _step(self, operation: Operation) -> Failure | None:
        failure = self._carry_out(operation)
        self.look()
        return failure

    def _carry_out(self, operation: Operation) -> Failure | None:
        rows = self.rows.setdefault(operation.table, {})
        there = operation.key in rows
        if operation.verb is Verb.ADD and there:
            return Failure(operation, errno.EEXIST, "it is there already")
        if operation.verb is not Verb.ADD and not there:
            return Failure(operation, errno.ENOENT, "it is not there")
        if failure := self._objection(operation):
            return failure
        if operation.verb is Verb.REMOVE:
            del rows[operation.key]
        else:
            rows[operation.key] = operation.new
        return None

    def _objection(self, operation: Operation) -> Failure | None:
        """Return what is wrong with an operation on a row that may come or go."""
        return None


class DictionaryKernel(Dictionary, NftablesDataplane):
    """nf_tables as a dictionary."""

    def _objection(self, operation: Operation) -> Failure | None:
        if operation.verb is Verb.REMOVE:
            if operation.table.name == "chains" and self._is_named(operation.table.family, operation.key):
                return Failure(operation, errno.EBUSY, "a verdict names it")
        elif missing := self._missing_chain(operation):
            return Failure(operation, errno.ENOENT, f"there is no chain {missing}")
        return None

    def _missing_chain(self, operation: Operation) -> str | None:
        if operation.table.name == "chains" or not isinstance(operation.new, str) or " " not in operation.new:
            return None
        target = operation.new.split(" ", 1)[1]
        chains = next((rows for table, rows in self.rows.items() if table[:2] == (operation.table.family, "chains")), {})
        return None if target in chains else target

    def _is_named(self, family: str, chain: Key) -> bool:
        verdicts = (f"goto {chain}", f"jump {chain}")
        return any(
            value in verdicts
            for table, rows in self.rows.items()
            if table.family == family and table.name != "chains"
            for value in rows.values()
        )


POINTS_TO = {
    "virtual-servers": "servers",
    "destinations": "virtual-servers",
    "spared": "virtual-servers",
    "frontends": "virtual-servers",
    "node-ports": "virtual-servers",
}
"""Which table of the ipvs data plane names servers of which."""


class IpvsPart(Dictionary, IpvsDataplane):
    """IPVS and ipsets as a dictionary."""

    def deadline(self) -> float | None:
        """Nothing drains: there are no connections."""
        return None

    def _objection(self, operation: Operation) -> Failure | None:
        name, server = operation.table.name, self._server(operation.table, operation.key)
        if operation.verb is Verb.REMOVE:
            for pointing in (table for table, target in POINTS_TO.items() if target == name):
                if any(self._server(table, key) == server for table, key in self._keys(operation.table.family, pointing)):
                    return Failure(operation, errno.EBUSY, f"{pointing} has a row that needs it")
        elif (target := POINTS_TO.get(name)) and not any(key == server for _, key in self._keys(operation.table.family, target)):
            return Failure(operation, errno.ENOENT, f"{target} has no row for it")
        return None

    def _keys(self, family: str, name: str) -> list[tuple[Table, Key]]:
        return [(t, key) for t, rows in self.rows.items() if (t.family, t.name) == (family, name) for key in rows]

    def _server(self, table: Table, key: Key) -> bytes | None:
        if BY_NAME[table.name].kind not in (Kind.SERVER, Kind.VIRTUAL_SERVER, Kind.DESTINATION):
            return None
        assert isinstance(key, bytes)
        return server_of(FAMILIES[table.family], key)


class IpvsDictionary(Composed):
    """Both of which the ipvs data plane is made, as dictionaries."""

    name = "ipvs"

    def __init__(self) -> None:
        self.ipvs, self.nftables = IpvsPart(), DictionaryKernel()
        super().__init__(self.ipvs, self.nftables)

    @property
    def rows(self) -> Rows:
        """What they hold."""
        return self.observe().rows
