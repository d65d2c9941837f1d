"""
Carry a plan out: IPVS and ipsets have no transactions, so every prefix of what is written is legal (16.2, D16, D22).

A plan comes ordered by rank; writes go out in that order, as many to a datagram as belong to one kernel interface. What is
special here: a removed TCP destination is not deleted but drained (G1); a virtual server of somebody else is never touched, and
keeps the whole frontend out (D18); one destination that is refused keeps nothing else out (16.11).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

from kpx.dataplanes.ipvs.doors import Doors
from kpx.dataplanes.ipvs.draining import Drains, kernel_key
from kpx.dataplanes.ipvs.schema import BY_NAME, Kind, backend_of, element_of, server_of, set_name
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
from kpx.model.addresses import Family
from kpx.model.names import Protocol
from kpx.reconcile.plan import Failure, Operation, Verb

FOREIGN: Final = "somebody else's virtual server has this address and port (see ipvsadm -Ln); remove it, and kpx takes over"
_GONE: Final = frozenset((errno.ESRCH, errno.ENOENT))
_SERVER_KINDS: Final = frozenset((Kind.SERVER, Kind.VIRTUAL_SERVER, Kind.DESTINATION))


class Writer:
    """
    Writes operations of one family.

    Args:
        foreign: tells whether a virtual server is there that is not ours, as of now.
        drains: what is draining; told of destinations that begin to, asked about those that come back.
    """

    def __init__(self, doors: Doors, family: Family, foreign: Callable[[bytes], bool], drains: Drains) -> None:
        self._doors = doors
        self._family = family
        self._foreign = foreign
        self._drains = drains
        self._failures: list[Failure] = []
        self._barred: dict[bytes, tuple[int, str]] = {}
        self._recorded: dict[bytes, Operation] = {}
        self._deleted: frozenset[bytes] = frozenset()

    def write(self, operations: Sequence[Operation]) -> list[Failure]:
        """Write operations in their order; return those that did not take effect."""
        for operation in operations:
            if operation.table.name == "virtual-servers" and operation.verb is not Verb.CHANGE:
                assert isinstance(operation.key, bytes)
                if operation.verb is Verb.REMOVE:
                    self._deleted |= {operation.key}
                elif self._foreign(operation.key):
                    self._barred[operation.key] = (errno.EEXIST, FOREIGN)
        for (is_set, name, removes), group in groupby(operations, _batch):
            able = list(self._able(group))
            if is_set:
                self._write_elements(name, able, removes)
            elif name == "virtual-servers":
                self._write_servers(able)
            else:
                self._write_destinations(able)
        return self._failures

    def _able(self, operations: Iterable[Operation]) -> Iterator[Operation]:
        """Leave out what belongs to a server that cannot be had: half a frontend is worse than none."""
        for operation in operations:
            barred = None
            if self._barred and BY_NAME[operation.table.name].kind in _SERVER_KINDS:
                assert isinstance(operation.key, bytes)
                barred = self._barred.get(server_of(self._family, operation.key))
            if barred is None:
                yield operation
            else:
                self._failures.append(Failure(operation, *barred))

    def _fail(self, operation: Operation, number: int, bar: bool) -> None:
        reason = ERRORS.get(number) or os.strerror(number)
        if number == errno.ENOENT and isinstance(operation.new, ServerSettings):
            reason = f"the kernel has no scheduler {operation.new.scheduler}"
        self._failures.append(Failure(operation, number, reason))
        if bar and isinstance(operation.key, bytes):
            self._barred[server_of(self._family, operation.key)] = (number, f"its virtual server is not in place: {reason}")

    def _write_elements(self, name: str, operations: list[Operation], removes: bool) -> None:
        schema = BY_NAME[name]
        elements = [element_of(schema, self._family, operation.key) for operation in operations]
        refused = self._doors.sets.write([(set_name(self._family, name), not removes, elements)]) if elements else []
        failed = set()
        for _, index, number in refused:
            failed.add(index)
            self._fail(operations[index], number, schema.kind is Kind.SERVER)
        if name == "servers" and not removes:
            self._recorded = {o.key: o for i, o in enumerate(operations) if i not in failed and isinstance(o.key, bytes)}

    def _write_servers(self, operations: list[Operation]) -> None:
        commands = {Verb.ADD: NEW_SERVER, Verb.CHANGE: SET_SERVER, Verb.REMOVE: DEL_SERVER}
        for operation, refused in self._send(operations, lambda o: self._server(commands[o.verb], o)):
            if operation.verb is Verb.REMOVE and refused in _GONE:
                continue
            number = refused
            if operation.verb is Verb.ADD and refused == errno.EEXIST:
                number = self._meet(operation)
            elif operation.verb is Verb.CHANGE and refused == errno.ESRCH:
                (number,) = self._doors.ipvs.write([self._server(NEW_SERVER, operation)])
            if number:
                self._fail(operation, number, bar=True)
        gone = [o.key for o in operations if o.verb is Verb.REMOVE and isinstance(o.key, bytes)]
        if gone:
            self._drains.servers_gone(self._family, gone)

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
        if recorded is None:
            return self._doors.ipvs.write([self._server(SET_SERVER, operation)])[0]
        element = element_of(BY_NAME["servers"], self._family, operation.key)
        self._doors.sets.write([(set_name(self._family, "servers"), False, [element])])
        self._failures += [Failure(o, errno.EEXIST, FOREIGN) for o in (recorded, operation)]
        self._barred[operation.key] = (errno.EEXIST, FOREIGN)
        return 0

    def _write_destinations(self, operations: list[Operation]) -> None:
        removed = [o for o in operations if o.verb is Verb.REMOVE and server_of(self._family, _key(o)) not in self._deleted]
        draining = [o for o in removed if _key(o)[_protocol_at(self._family)] == Protocol.TCP]
        for operation, number in self._drain(draining):
            if number not in _GONE:
                self._fail(operation, number, bar=False)
        deleted = [o for o in removed if _key(o)[_protocol_at(self._family)] != Protocol.TCP]
        for operation, number in self._send(deleted, lambda o: self._destination(DEL_DESTINATION, o, None)):
            if number not in _GONE:
                self._fail(operation, number, bar=False)
        self._place([o for o in operations if o.verb is not Verb.REMOVE])

    def _drain(self, operations: list[Operation]) -> Iterator[tuple[Operation, int]]:
        self._drains.begin(self._family, [_key(o) for o in operations])
        for operation, number in self._send(operations, lambda o: self._destination(SET_DESTINATION, o, 0)):
            self._drains.forget(self._family, [_key(operation)])
            yield operation, number

    def _place(self, operations: list[Operation]) -> None:
        """Put destinations in place; one that drains gets its weight back and keeps its connections (G3)."""
        back = [_key(o) for o in operations if o.verb is Verb.ADD and self._drains.holds(self._family, _key(o))]
        returning = set(back)

        def message(operation: Operation) -> bytes:
            fresh = operation.verb is Verb.ADD and operation.key not in returning
            assert isinstance(operation.new, int)
            return self._destination(NEW_DESTINATION if fresh else SET_DESTINATION, operation, operation.new)

        for operation, refused in self._send(operations, message):
            number = refused
            if refused in (errno.EEXIST, errno.ENOENT):
                # Somebody was faster, or took it away: what counts is that it is there with its weight.
                command = SET_DESTINATION if refused == errno.EEXIST else NEW_DESTINATION
                assert isinstance(operation.new, int)
                (number,) = self._doors.ipvs.write([self._destination(command, operation, operation.new)])
            if number:
                self._fail(operation, number, bar=False)
        if back:
            self._drains.forget(self._family, back)

    def _destination(self, command: int, operation: Operation, weight: int | None) -> bytes:
        key = _key(operation)
        backend = backend_of(self._family, key)
        return destination_message(command, kernel_key(self._family, key), Destination(*backend), weight)

    def _send(self, operations: list[Operation], message: Callable[[Operation], bytes]) -> Iterator[tuple[Operation, int]]:
        """Write a message for each operation; yield those that were refused, after all were written."""
        numbers = self._doors.ipvs.write([message(operation) for operation in operations]) if operations else []
        yield from [(operation, number) for operation, number in zip(operations, numbers, strict=True) if number]


def _batch(operation: Operation) -> tuple[bool, str, bool]:
    name = operation.table.name
    return BY_NAME[name].is_set, name, operation.verb is Verb.REMOVE


def _key(operation: Operation) -> bytes:
    assert isinstance(operation.key, bytes)
    return operation.key


def _protocol_at(family: Family) -> int:
    return 4 if family == Family.IPV4 else 16
