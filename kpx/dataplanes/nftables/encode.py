"""
Operations to nf_tables messages, pure.

A run of operations of one verb on one table becomes one message (or as many as 64 KiB each allow); a changed element is deleted
and added in the same transaction, as the kernel has no other way. Which message stands for which operations is kept, so that the
kernel's complaint about a message finds its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from kpx.dataplanes.nftables.chains import chain_of
from kpx.dataplanes.nftables.rules import Chain
from kpx.dataplanes.nftables.schema import BY_NAME, FAMILIES, NFPROTOS, SCHEMAS, TABLE, Value, shape
from kpx.dataplanes.nftables.skeleton import HOOKS
from kpx.kernel.wire import nft, nft_element
from kpx.kernel.wire.message import NLM_F_CREATE, NLM_F_REQUEST, message
from kpx.model.addresses import Family, Prefix
from kpx.reconcile.plan import Operation, Verb
from kpx.reconcile.rows import Table

_RUN = attrgetter("table", "verb")

Sequencer = Callable[[], int]
Constant = dict[Family, dict[str, Chain]]
"""The constant chains by family and name, so that a row of theirs finds its rules."""


class Written(NamedTuple):
    """One message and the operations it carries out, none for what prepares the table."""

    sequence: int
    bytes: bytes
    operations: tuple[Operation, ...]


def encode_table(family: Family, sequencer: Sequencer) -> Iterator[Written]:
    """Create the table and its sets and maps, or find them there."""
    proto = NFPROTOS[family]
    sequence = sequencer()
    yield Written(sequence, nft.new_table(sequence, proto, TABLE, "kpx: Services of this node; written by the kpx agent"), ())
    for number, schema in enumerate(SCHEMAS, 1):
        sequence = sequencer()
        kind = shape(schema, family)
        yield Written(sequence, nft.new_set(sequence, proto, TABLE, schema.name, kind, number, schema.comment), ())


def encode(
    operations: Iterable[Operation], single: frozenset[int], constant: Constant, sequencer: Sequencer
) -> Iterator[Written]:
    """
    Yield the messages of operations, in their order.

    Args:
        single: id() of operations that get a message of their own, so that a complaint names exactly one row.
        constant: see `Constant`. sequencer: gives the next sequence number.
    """
    apart = (lambda o: (o.table, o.verb, id(o) if id(o) in single else 0)) if single else _RUN
    for (table, verb, *_), group in groupby(operations, apart):
        run = tuple(group)
        if table.name == "chains":
            yield from _encode_chains(table, verb, run, constant, sequencer)
        elif BY_NAME[table.name].interval:
            yield from _encode_ranges(table, run, sequencer)
        else:
            yield from _encode_elements(table, verb, run, sequencer)


def _encode_elements(table: Table, verb: Verb, run: tuple[Operation, ...], sequencer: Sequencer) -> Iterator[Written]:
    keys: list[bytes] = [o.key for o in run]  # type: ignore[misc]  # rows of this table have packed keys
    if verb is not Verb.ADD:
        yield from _messages(nft.DELSETELEM, table, nft_element.members(keys), run, sequencer)
    if verb is not Verb.REMOVE:
        packed = _pack(BY_NAME[table.name].value, keys, run)
        yield from _messages(nft.NEWSETELEM, table, packed, run, sequencer)


def _pack(value: Value, keys: list[bytes], run: tuple[Operation, ...]) -> list[bytes]:
    if value is Value.ENDPOINT:
        return nft_element.pairs(keys, [o.new for o in run])  # type: ignore[misc]  # see the schema
    if value is Value.VERDICT:
        return [nft_element.element(key, pack_verdict(o.new)) for key, o in zip(keys, run, strict=True)]
    return nft_element.members(keys)


def _messages(
    kind: int, table: Table, packed: Sequence[bytes], run: tuple[Operation, ...], sequencer: Sequencer
) -> Iterator[Written]:
    flags = NLM_F_REQUEST | (NLM_F_CREATE if kind == nft.NEWSETELEM else 0)
    proto = NFPROTOS[FAMILIES[table.family]]
    for payload, first, last in nft_element.element_messages(proto, TABLE, table.name, packed):
        sequence = sequencer()
        yield Written(sequence, message(nft.NFNL_SUBSYS_NFTABLES << 8 | kind, flags, sequence, payload), run[first:last])


@lru_cache(maxsize=4096)
def pack_verdict(verdict: str) -> bytes:
    """Pack a verdict row's value: `drop`, `return`, `goto CHAIN`, `jump CHAIN`."""
    word, _, chain = verdict.partition(" ")
    codes = {"drop": nft.NF_DROP, "return": nft.NFT_RETURN, "goto": nft.NFT_GOTO, "jump": nft.NFT_JUMP}
    return nft_element.verdict_data(codes[word], chain)


def _encode_ranges(table: Table, run: tuple[Operation, ...], sequencer: Sequencer) -> Iterator[Written]:
    """Write a set of ranges as a whole: empty it, then fill it."""
    proto = NFPROTOS[FAMILIES[table.family]]
    for operation in run:
        if operation.verb is not Verb.ADD:
            sequence = sequencer()
            flush = nft.flush_set(sequence, proto, TABLE, table.name)
            yield Written(sequence, flush, (operation,))
        if operation.verb is not Verb.REMOVE and isinstance(operation.new, tuple):
            packed = [half for prefix in operation.new for half in range_elements(prefix)]
            yield from _fill_range(table, packed, operation, sequencer)


def _fill_range(table: Table, packed: list[bytes], operation: Operation, sequencer: Sequencer) -> Iterator[Written]:
    for written in _messages(nft.NEWSETELEM, table, packed, (operation,), sequencer):
        yield written._replace(operations=(operation,))


def range_elements(prefix: Prefix) -> list[bytes]:
    """Pack a range as the kernel's interval sets want it: its first address, and the first behind it as its end."""
    width = len(prefix.address)
    behind = int.from_bytes(prefix.address, "big") + (1 << (width * 8 - prefix.length))
    halves = [nft_element.element(prefix.address)]
    if behind < 1 << (width * 8):
        halves.append(nft_element.element(behind.to_bytes(width, "big"), flags=nft_element.ELEMENT_INTERVAL_END))
    return halves


def _encode_chains(
    table: Table, verb: Verb, run: tuple[Operation, ...], constant: Constant, sequencer: Sequencer
) -> Iterator[Written]:
    family = FAMILIES[table.family]
    proto = NFPROTOS[family]
    if verb is not Verb.REMOVE:
        for o in run:
            name = str(o.key)
            yield _one(nft.new_chain(sequence := sequencer(), proto, TABLE, name, HOOKS.get(name)), sequence, o)
    if verb is not Verb.ADD:
        for o in run:
            yield _one(nft.flush_chain(sequence := sequencer(), proto, TABLE, str(o.key)), sequence, o)
    for o in run:
        if verb is Verb.REMOVE:
            yield _one(nft.delete_chain(sequence := sequencer(), proto, TABLE, str(o.key)), sequence, o)
            continue
        for rule in _chain(family, o, constant).rules:
            yield _one(
                nft.new_rule(sequence := sequencer(), proto, TABLE, str(o.key), rule.expressions, rule.comment), sequence, o
            )


def _chain(family: Family, operation: Operation, constant: Constant) -> Chain:
    known = constant[family].get(str(operation.key))
    comments = operation.new if isinstance(operation.new, tuple) else ()
    return known if known is not None else chain_of(family, str(operation.key), comments)


def _one(packed: bytes, sequence: int, operation: Operation) -> Written:
    return Written(sequence, packed, (operation,))
