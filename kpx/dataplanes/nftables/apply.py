"""
Carry a plan out: transactions, and what to do when the kernel refuses part of one.

nf_tables commits a transaction whole or not at all, and names every message it refuses. A refused message is sent again with one
message a row, which names the row; then the rest goes without it. A row that is refused takes the other rows of its frontend with
it: half a frontend is worse than the old one, and nothing that works is torn down because something else failed.

A transaction takes effect while packets are between two look-ups. One that was led to a chain of before must still find there
what it was led to, and one that is led to a new chain must find its rules, of which it sees those that were there when it entered
its hook (nf_tables_core.c, `nft_do_chain`: `genbit`). So chains come in a transaction of their own, before what leads to them,
and what goes, goes in one of its own, after what led to it (16.2). Else one connection in some thousand changes is refused.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from kpx.dataplanes.nftables.encode import Constant, Written, encode, encode_table
from kpx.dataplanes.nftables.reading import row_command, row_frontend
from kpx.dataplanes.nftables.schema import CHAINS, NFPROTOS, TABLE
from kpx.errors import KernelError, NoAnswer
from kpx.kernel.netlink import Netlink, refusal
from kpx.kernel.wire import nft
from kpx.kernel.wire.message import NLM_F_ACK, Acknowledgement
from kpx.model.addresses import Family
from kpx.reconcile.plan import Failure, Operation, Verb

TRANSACTION_MAX_OPERATIONS = 50_000
"""Some 5 MB: large enough to cost nothing, small enough not to hold the kernel's commit lock for long (#139328)."""

OPERATION_BYTES = 400
"""What an operation takes on the wire, generously: a changed element of IPv6 takes 250, the average chain 500."""

_FLAGS = slice(6, 8)
_CHAINS = frozenset(CHAINS.values())


class Transactions:
    """
    Writes operations of one family.

    Attributes:
        made: the first transaction took effect, so that there is a table. doubtful: see `Outcome`.
    """

    def __init__(self, netlink: Netlink, family: Family, constant: Constant) -> None:
        self._netlink = netlink
        self._family = family
        self._constant = constant
        self.made = False
        self.doubtful = False

    def write(self, operations: Sequence[Operation], create: bool, anew: bool) -> list[Failure]:
        """
        Write operations in their order; each of at most a few transactions is legal by itself.

        Args:
            create: make the table and its sets first. anew: delete the table in the same transaction, since its sets' types
                differ from ours.
        """
        failures: list[Failure] = []
        fitting = max(1, self._netlink.datagram_max_bytes // OPERATION_BYTES)
        steps = [(0, len(operations))] if anew else _steps(operations, min(TRANSACTION_MAX_OPERATIONS, fitting), create)
        for start, end in steps:
            # What was refused in an earlier transaction keeps the rest of its frontend out of this one.
            able, held_back = _without(operations[start:end], failures)
            failures += held_back
            try:
                failures += self._transaction(able, create and not start, anew)
            except KernelError as error:
                if not operations:
                    raise
                self.doubtful = isinstance(error, NoAnswer)
                return failures + _unwritten(operations[start:], failures, error)
            self.made = True
        return failures

    def _transaction(self, operations: Sequence[Operation], create: bool, anew: bool) -> list[Failure]:
        failures: list[Failure] = []
        single: frozenset[int] = frozenset()
        while operations or create or anew:
            written = list(self._messages(operations, single, create, anew))
            complaints = self._send(written)
            if not complaints:
                break
            failed, suspects = _blame(written, complaints)
            if not failed and suspects <= single:
                raise refusal(f"write table {TABLE}", complaints[0])
            single |= suspects
            failures += failed
            operations, held_back = _without(operations, failed)
            failures += held_back
        return failures

    def _messages(self, operations: Sequence[Operation], single: frozenset[int], create: bool, anew: bool) -> Iterable[Written]:
        if anew:
            sequence = self._next()
            yield Written(sequence, nft.delete_table(sequence, NFPROTOS[self._family], TABLE), ())
        if create or anew:
            yield from encode_table(self._family, self._next)
        yield from encode(operations, single, self._constant, self._next)

    def _next(self) -> int:
        return self._netlink.sequences(1)[0]

    def _send(self, written: list[Written]) -> list[Acknowledgement]:
        first = written[0].sequence - 1
        end = self._next()
        last = bytearray(written[-1].bytes)
        flags = int.from_bytes(last[_FLAGS], _ORDER) | NLM_F_ACK
        last[_FLAGS] = flags.to_bytes(2, _ORDER)
        body = [nft.batch_begin(first), *(w.bytes for w in written[:-1]), bytes(last), nft.batch_end(end)]
        return self._netlink.transact(b"".join(body), first, written[-1].sequence)


_ORDER = sys.byteorder


def _steps(operations: Sequence[Operation], largest: int, create: bool) -> Iterator[tuple[int, int]]:
    """Return where each transaction starts and ends; an empty one for no operation. Nobody is in a table that is being made."""
    count = len(operations)
    leaving = count if create else bisect_left(operations, True, key=lambda each: each.verb is Verb.REMOVE)
    chains = 0 if create else bisect_left(operations, True, 0, leaving, key=lambda each: each.table not in _CHAINS)
    for first, last in ((0, chains), (chains, leaving), (leaving, count)):
        for start in range(first, last, largest):
            yield start, min(start + largest, last)
    if not count:
        yield 0, 0


def _unwritten(operations: Sequence[Operation], failures: list[Failure], error: KernelError) -> list[Failure]:
    """Return the failures of what a transaction that was refused as a whole leaves unwritten, none of them told of before."""
    told = {id(failure.operation) for failure in failures}
    return [Failure(o, error.errno, str(error)) for o in operations if id(o) not in told]


def _blame(written: list[Written], complaints: list[Acknowledgement]) -> tuple[list[Failure], frozenset[int]]:
    """Return the rows that are certainly refused, and id()s of rows in refused messages that held several."""
    by_sequence = {w.sequence: w for w in written}
    failed: list[Failure] = []
    suspects: set[int] = set()
    for answer in complaints:
        operations = by_sequence[answer.sequence].operations
        if not operations:
            raise refusal(f"make table {TABLE}", answer)
        if len(operations) > 1:
            suspects.update(id(o) for o in operations)
        elif not any(f.operation is operations[0] for f in failed):
            failed.append(Failure(operations[0], answer.errno, str(refusal(_command(operations[0]), answer))))
    return failed, frozenset(suspects)


def _command(operation: Operation) -> str:
    value = operation.new if operation.new is not None else operation.old
    command = row_command(operation.table, operation.key, value)
    return command.replace("add ", "delete ", 1) if operation.verb is Verb.REMOVE else command


def _without(operations: Sequence[Operation], failed: list[Failure]) -> tuple[Sequence[Operation], list[Failure]]:
    """Return the operations that still can go, and those held back because another row of their frontend failed."""
    if not failed:
        return operations, []
    refused = {id(f.operation) for f in failed}
    frontends = {row_frontend(f.operation.table, f.operation.key): f.reason for f in failed if f.errno}
    frontends.pop(None, None)
    rest: list[Operation] = []
    held_back: list[Failure] = []
    for operation in operations:
        if id(operation) in refused:
            continue
        reason = frontends.get(row_frontend(operation.table, operation.key)) if frontends else None
        if reason is None:
            rest.append(operation)
        else:
            held_back.append(Failure(operation, 0, f"held back, since another row of its frontend failed: {reason}"))
    return rest, held_back
