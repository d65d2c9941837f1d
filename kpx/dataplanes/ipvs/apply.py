"""
Carry a plan out: IPVS and ipsets have no transactions, so every prefix of what is written is legal (16.2, D16, D22).

A plan comes ordered by rank; writes go out in that order, as many to a datagram as belong to one kernel interface. What is
special here: a removed destination is not deleted but drained, unless it is one of UDP (G1); a virtual server of somebody else is
never touched, and keeps the whole frontend out (D18); one destination that is refused keeps nothing else out (16.11).

A first sync is some hundred thousand operations, of which the kernel takes a few microseconds each. So operations that are alike
are taken together, and their keys go to the kernel as they are: nothing here looks at each, unless something is the matter.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

from kpx.dataplanes.ipvs.doors import Doors
from kpx.dataplanes.ipvs.draining import Drains, kernel_key
from kpx.dataplanes.ipvs.schema import BY_NAME, Kind, backend_of, element_of, elements_of, server_of, set_name
from kpx.kernel.wire.ipset import ERRORS
from kpx.kernel.wire.ipvs import (
    DEL_DESTINATION,
    DEL_SERVER,
    NEW_DESTINATION,
    NEW_SERVER,
    SET_DESTINATION,
    SET_SERVER,
    Destination,
    ServerSettings,
    destination_message,
    server_message,
)
from kpx.kernel.wire.ipvs_columns import destination_messages, server_messages
from kpx.model.addresses import Family
from kpx.model.names import Protocol
from kpx.reconcile.plan import Failure, Operation, Plan, Verb
from kpx.reconcile.rows import Key, Table, Value

FOREIGN: Final = "somebody else's virtual server has this address and port (see ipvsadm -Ln); remove it, and kpx takes over"
_GONE: Final = frozenset((errno.ESRCH, errno.ENOENT))
_SERVER_KINDS: Final = frozenset((Kind.SERVER, Kind.VIRTUAL_SERVER, Kind.DESTINATION))


_VERB, _TABLE, _KEY, _NEW = itemgetter(0), itemgetter(1), itemgetter(2), itemgetter(4)


class Batch(NamedTuple):
    """Operations of a plan that go to one place and do the same there."""

    verb: Verb
    table: Table
    operations: list[Operation]


def batches(plan: Plan) -> dict[str, list[Batch]]:
    """
    Cut a plan into batches, by family and in order.

    Additions and changes of one table may come mixed; they become one batch each, since rows of one table do not depend on each
    other.
    """
    found: dict[str, list[Batch]] = {}
    for table, group in groupby(plan.operations, _TABLE):
        operations = list(group)
        found.setdefault(table.family, []).extend(Batch(verb, table, those) for verb, those in _by_verb(operations))
    return found


def _by_verb(operations: list[Operation]) -> Iterator[tuple[Verb, list[Operation]]]:
    """Put together what does the same; in a plan, removals of a table come behind everything else of it."""
    verbs = list(map(_VERB, operations))
    if verbs.count(verbs[0]) == len(verbs):
        yield verbs[0], operations
        return
    for verb in Verb:
        if those := [operation for operation in operations if operation.verb is verb]:
            yield verb, those


class Writer:
    """
    Writes operations of one family.

    Args:
        foreign: tells whether a virtual server is there that is not ours, as of now.
        drains: what is draining; told of destinations that begin to, asked about those that come back.
        ours: virtual servers that are ours though they may be recorded only now, since an earlier write broke off.
    """

    def __init__(
        self, doors: Doors, family: Family, foreign: Callable[[bytes], bool], drains: Drains, ours: Collection[Key] = ()
    ) -> None:
        self._doors = doors
        self._ours = ours
        self._family = family
        self._foreign = foreign
        self._drains = drains
        self._failures: list[Failure] = []
        self._barred: dict[bytes, tuple[int, str]] = {}
        self._recorded: dict[bytes, Operation] = {}
        self._deleted: frozenset[bytes] = frozenset()
        self._staying: frozenset[Key] = frozenset()

    def write(self, batches: Sequence[Batch]) -> list[Failure]:
        """Write batches in their order; return the operations that did not take effect."""
        for verb, table, operations in batches:
            if table.name == "virtual-servers":
                self._prepare(verb, _keys(operations))
        self._staying = _staying(batches)
        for verb, table, operations in batches:
            able = self._able(table, operations)
            if not able:
                continue
            if BY_NAME[table.name].is_set:
                self._write_elements(table.name, able, verb is Verb.REMOVE)
            elif table.name == "virtual-servers":
                self._write_servers(verb, able)
            elif verb is Verb.REMOVE:
                self._remove_destinations(able)
            else:
                self._place(verb, able)
        return self._failures

    def _prepare(self, verb: Verb, keys: list[bytes]) -> None:
        """Take note of the virtual servers that go, and of those that cannot be had, before anything else is written."""
        if verb is Verb.REMOVE:
            self._deleted = frozenset(keys)
        elif verb is Verb.ADD:
            # Known beforehand, so not EEXIST: that would say that the kernel is not as remembered.
            self._barred.update((key, (errno.EADDRINUSE, FOREIGN)) for key in keys if self._foreign(key))

    def _able(self, table: Table, operations: list[Operation]) -> list[Operation]:
        """Leave out what belongs to a server that cannot be had: half a frontend is worse than none."""
        if not self._barred or BY_NAME[table.name].kind not in _SERVER_KINDS:
            return operations
        able = []
        for operation in operations:
            barred = self._barred.get(server_of(self._family, _key(operation)))
            if barred is None:
                able.append(operation)
            else:
                self._failures.append(Failure(operation, *barred))
        return able

    def _fail(self, operation: Operation, number: int, bar: bool) -> None:
        reason = ERRORS.get(number) or os.strerror(number)
        if number == errno.ENOENT and isinstance(operation.new, ServerSettings):
            reason = f"the kernel has no scheduler {operation.new.scheduler}"
        self._failures.append(Failure(operation, number, reason))
        if bar and isinstance(operation.key, bytes):
            self._barred[server_of(self._family, operation.key)] = (number, f"its virtual server is not in place: {reason}")

    def _write_elements(self, name: str, operations: list[Operation], removes: bool) -> None:
        schema = BY_NAME[name]
        elements = elements_of(schema, self._family, _keys(operations))
        refused = self._doors.sets.write([(set_name(self._family, name), not removes, elements)])
        failed = set()
        for _, index, number in refused:
            failed.add(index)
            self._fail(operations[index], number, schema.kind is Kind.SERVER)
        if name == "servers" and not removes:
            self._recorded = {_key(o): o for i, o in enumerate(operations) if i not in failed}

    def _write_servers(self, verb: Verb, operations: list[Operation]) -> None:
        command = {Verb.ADD: NEW_SERVER, Verb.CHANGE: SET_SERVER, Verb.REMOVE: DEL_SERVER}[verb]
        for settings, alike in _by_value(operations):
            messages = server_messages(command, int(self._family), _keys(alike), settings)
            for operation, refused in self._send(messages, alike):
                self._mend_server(operation, refused)
        if verb is Verb.REMOVE:
            self._drains.servers_gone(self._family, _keys(operations))

    def _mend_server(self, operation: Operation, refused: int) -> None:
        if operation.verb is Verb.REMOVE and refused in _GONE:
            return
        number = refused
        if operation.verb is Verb.ADD and refused == errno.EEXIST:
            number = self._meet(operation)
        elif operation.verb is Verb.CHANGE and refused == errno.ESRCH:
            (number,) = self._doors.ipvs.write([self._server(NEW_SERVER, operation)])
        if number:
            self._fail(operation, number, bar=True)

    def _server(self, command: int, operation: Operation) -> bytes:
        assert isinstance(operation.key, bytes)
        settings = operation.new if isinstance(operation.new, ServerSettings) else None
        return server_message(command, kernel_key(self._family, operation.key), settings)

    def _meet(self, operation: Operation) -> int:
        """
        A virtual server is there already: ours when its record was, somebody else's when we have only just recorded it.

        Then the record must go again, or the next kpx would take the server for its own (D18).
        """
        assert isinstance(operation.key, bytes)
        recorded = self._recorded.get(operation.key)
        if recorded is None or operation.key in self._ours:
            return self._doors.ipvs.write([self._server(SET_SERVER, operation)])[0]
        element = element_of(BY_NAME["servers"], self._family, operation.key)
        self._doors.sets.write([(set_name(self._family, "servers"), False, [element])])
        self._failures += [Failure(o, errno.EEXIST, FOREIGN) for o in (recorded, operation)]
        self._barred[operation.key] = (errno.EEXIST, FOREIGN)
        return 0

    def _remove_destinations(self, operations: list[Operation]) -> None:
        removed = [o for o in operations if server_of(self._family, _key(o)) not in self._deleted]
        drained = [o for o in removed if _key(o)[_protocol_at(self._family)] != Protocol.UDP]
        deleted = [o for o in removed if _key(o)[_protocol_at(self._family)] == Protocol.UDP and o.key not in self._staying]
        if drained:
            self._drains.begin(self._family, _keys(drained))
            refused = self._send_destinations(SET_DESTINATION, drained, 0)
            self._drains.forget(self._family, [_key(operation) for operation, _ in refused])
            self._fail_all(refused)
        if deleted:
            self._fail_all(self._send_destinations(DEL_DESTINATION, deleted, None))

    def _fail_all(self, refused: Iterable[tuple[Operation, int]]) -> None:
        for operation, number in refused:
            if number not in _GONE:
                self._fail(operation, number, bar=False)

    def _place(self, verb: Verb, operations: list[Operation]) -> None:
        """Put destinations in place; one that is there with another weight keeps its connections (G3)."""
        back: set[bytes] = set()
        if verb is Verb.ADD and (self._drains or self._staying):
            back = {key for key in _keys(operations) if key in self._staying or self._drains.holds(self._family, key)}
        fresh = [o for o in operations if o.key not in back] if back else operations
        self._put(NEW_DESTINATION if verb is Verb.ADD else SET_DESTINATION, fresh)
        if back:
            self._put(SET_DESTINATION, [o for o in operations if o.key in back])
            self._drains.forget(self._family, back)

    def _put(self, command: int, operations: list[Operation]) -> None:
        for weight, alike in _by_value(operations):
            for operation, refused in self._send_destinations(command, alike, weight):
                number = refused
                if refused in (errno.EEXIST, errno.ENOENT):
                    # Somebody was faster, or took it away: what counts is that it is there with its weight.
                    other = SET_DESTINATION if refused == errno.EEXIST else NEW_DESTINATION
                    (number,) = self._doors.ipvs.write([self._destination(other, operation, weight)])
                if number:
                    self._fail(operation, number, bar=False)

    def _destination(self, command: int, operation: Operation, weight: int | None) -> bytes:
        key = _key(operation)
        backend = backend_of(self._family, key)
        return destination_message(command, kernel_key(self._family, key), Destination(*backend), weight)

    def _send_destinations(self, command: int, operations: list[Operation], weight: int | None) -> list[tuple[Operation, int]]:
        return self._send(destination_messages(command, int(self._family), _keys(operations), weight), operations)

    def _send(self, messages: Sequence[bytes], operations: list[Operation]) -> list[tuple[Operation, int]]:
        """Write a message for each operation; return those that were refused."""
        numbers = self._doors.ipvs.write(messages)
        return [(o, number) for o, number in zip(operations, numbers, strict=True) if number] if any(numbers) else []


def _staying(batches: Sequence[Batch]) -> frozenset[Key]:
    """Return the destinations that pass from one of their two tables to the other, so that only their weight changes."""
    places = [batch for batch in batches if BY_NAME[batch.table.name].kind is Kind.DESTINATION]
    if not any(batch.table.name == "spared" for batch in places):
        return frozenset()
    removed = {o.key for batch in places if batch.verb is Verb.REMOVE for o in batch.operations}
    return frozenset(o.key for batch in places if batch.verb is not Verb.REMOVE for o in batch.operations if o.key in removed)


def _keys(operations: Iterable[Operation]) -> list[bytes]:
    return list(map(_KEY, operations))


def _by_value(operations: list[Operation]) -> Iterator[tuple[Any, list[Operation]]]:
    """Put together the operations that want the same value; a value is what its table holds, so its type is known there."""
    values = set(map(_NEW, operations))
    if len(values) == 1:
        yield values.pop(), operations
        return
    alike: dict[Value, list[Operation]] = {}
    for operation in operations:
        alike.setdefault(operation.new, []).append(operation)
    yield from alike.items()


def _key(operation: Operation) -> bytes:
    assert isinstance(operation.key, bytes)
    return operation.key


def _protocol_at(family: Family) -> int:
    return 4 if family == Family.IPV4 else 16
