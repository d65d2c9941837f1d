"""
The instructions of a rule, carried out on one packet as the kernel would (net/netfilter/nf_tables_core.c, nft_*.c). Pure.

What it reads are the bytes the kernel is given, so that it is no second telling of what the rules were meant to do. Where the
kernel would draw a number, all numbers are drawn. An instruction that rules of kpx do not use is an error, not a guess.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from kpx.dataplanes.nftables.encode import pack_verdict
from kpx.dataplanes.nftables.packet_facts import FACTS
from kpx.dataplanes.nftables.sets import Sets
from kpx.dataplanes.way import Traveller
from kpx.kernel.wire import nft
from kpx.kernel.wire import nft_expression as x
from kpx.kernel.wire.nft_element import read_data
from kpx.kernel.wire.nft_instruction import VERDICT, Instruction
from kpx.model.addresses import Address, Family

GO_ON, NEXT_RULE, REJECT = "go on", "next rule", "reject"
"""What an instruction makes of a rule, besides a verdict of the kernel's: NEXT_RULE leaves it."""

_WORDS: Final = 16


class Ended(NamedTuple):
    """How an instruction, or a whole rule, ended: `code` is a verdict of the kernel's or a word of this module."""

    code: int | str
    chain: str = ""


class Running(NamedTuple):
    """A rule being carried out: the packet, what registers hold, and the rows that were found so far, as people write them."""

    packet: Traveller
    registers: tuple[bytes | None, ...] = (None,) * _WORDS
    rows: tuple[str, ...] = ()

    def load(self, word: int, data: bytes) -> Running:
        """Return it with data in registers from a word on, the last one padded with zeros."""
        registers = list(self.registers)
        for offset in range(0, len(data), 4):
            registers[word + offset // 4] = data[offset : offset + 4].ljust(4, b"\0")
        return self._replace(registers=tuple(registers))

    def fetch(self, word: int, length: int) -> bytes:
        """Return what registers hold from a word on."""
        parts = self.registers[word : word + (length + 3) // 4]
        if None in parts:
            raise ValueError(f"a rule reads register {word}, {length} bytes, that none of its expressions wrote")
        return b"".join(part for part in parts if part is not None)[:length]


class Machine:
    """Carries rules out."""

    def __init__(self, sets: Sets, is_local: Callable[[Address], bool]) -> None:
        self._sets = sets
        self._is_local = is_local
        self._deeds = {
            "lookup": self._lookup,
            "immediate": self._immediate,
            "bitwise": self._bitwise,
            "cmp": self._compare,
            "range": self._range,
            "dynset": self._dynset,
            "nat": self._nat,
            "masq": self._masquerade,
            "reject": self._reject,
        }

    def run(self, instructions: Sequence[Instruction], running: Running) -> Iterator[tuple[Running, Ended]]:
        """Yield all ends of a rule."""
        if not instructions:
            yield running, Ended(NEXT_RULE)
            return
        for after, ended in self._step(instructions[0], running):
            if ended.code == GO_ON:
                yield from self.run(instructions[1:], after)
            else:
                yield after, ended

    def _step(self, one: Instruction, running: Running) -> Iterator[tuple[Running, Ended]]:
        if one.name == "numgen":
            first = one.number(4)
            for number in range(first, first + one.number(2)):
                yield running.load(one.registers[0], number.to_bytes(4, sys.byteorder)), Ended(GO_ON)
        elif one.name in FACTS:
            yield running.load(one.registers[0], FACTS[one.name](one, running.packet, self._is_local)), Ended(GO_ON)
        elif one.name in self._deeds:
            yield self._deeds[one.name](one, running)
        else:
            raise ValueError(f"the walk knows no expression {one.name!r}")

    def _bitwise(self, one: Instruction, running: Running) -> tuple[Running, Ended]:
        value = running.fetch(one.registers[0], one.number(3))
        masked = bytes(byte & mask ^ flip for byte, mask, flip in zip(value, one.data(4), one.data(5), strict=True))
        return running.load(one.registers[1], masked), Ended(GO_ON)

    def _immediate(self, one: Instruction, running: Running) -> tuple[Running, Ended]:
        if one.registers[0] == VERDICT:
            return running, Ended(*one.verdict(2))
        return running.load(one.registers[0], one.data(2)), Ended(GO_ON)

    def _compare(self, one: Instruction, running: Running) -> tuple[Running, Ended]:
        wanted = one.data(3)
        held = running.fetch(one.registers[0], len(wanted))
        holds = (held == wanted, held != wanted, held < wanted, held <= wanted, held > wanted, held >= wanted)[one.number(2)]
        return running, Ended(GO_ON if holds else NEXT_RULE)

    def _range(self, one: Instruction, running: Running) -> tuple[Running, Ended]:
        first, last = one.data(3), one.data(4)
        inside = first <= running.fetch(one.registers[0], len(first)) <= last
        return running, Ended(GO_ON if inside != bool(one.number(2)) else NEXT_RULE)

    def _lookup(self, one: Instruction, running: Running) -> tuple[Running, Ended]:
        name, inverted = one.word(1), bool(one.number(5) & 1)
        found = self._sets.find(name, running.fetch(one.registers[0], self._sets.key_bytes(name)), running.packet.memory)
        if (found is None) is not inverted:
            return running, Ended(NEXT_RULE)
        if found is None:
            return running, Ended(GO_ON)
        running = running._replace(rows=(*running.rows, found.printed))
        if len(one.registers) == 1:
            return running, Ended(GO_ON)
        if one.registers[1] == VERDICT:
            return running, _verdict(str(found.value))
        assert isinstance(found.value, bytes)
        return running.load(one.registers[1], found.value), Ended(GO_ON)

    def _dynset(self, one: Instruction, running: Running) -> tuple[Running, Ended]:
        name, packet = one.word(1), running.packet
        key = running.fetch(one.registers[0], self._sets.key_bytes(name))
        if one.number(3) == x.DYNSET_DELETE:
            memory = self._sets.forgotten(name, key, packet.memory)
            return running._replace(packet=packet._replace(memory=memory)), Ended(GO_ON)
        data = running.fetch(one.registers[1], self._sets.data_bytes(name)) if len(one.registers) > 1 else b""
        memory = self._sets.written(name, key, data, packet.memory)
        written = f"{name} remembers {self._sets.printed(name, key, data)}"
        return running._replace(packet=packet._replace(memory=memory), rows=(*running.rows, written)), Ended(GO_ON)

    def _nat(self, one: Instruction, running: Running) -> tuple[Running, Ended]:
        if one.number(1) != x.NAT_DNAT:
            raise ValueError("the walk knows no translation of sources but masquerading")
        width = 4 if running.packet.family is Family.IPV4 else 16
        address = Address(running.fetch(one.registers[0], width))
        port = int.from_bytes(running.fetch(one.registers[1], 2), "big") if len(one.registers) > 1 else running.packet.port
        packet = running.packet._replace(destination=address, port=port, translated=True, by_conntrack=True, settled=True)
        return running._replace(packet=packet), Ended(nft.NF_ACCEPT)

    def _masquerade(self, one: Instruction, running: Running) -> tuple[Running, Ended]:
        return running._replace(packet=running.packet._replace(masqueraded=True)), Ended(nft.NF_ACCEPT)

    def _reject(self, one: Instruction, running: Running) -> tuple[Running, Ended]:
        return running, Ended(REJECT)


def _verdict(words: str) -> Ended:
    try:
        packed = pack_verdict(words)
    except KeyError:
        raise ValueError(f"a row says {words!r}, which kpx would not write") from None
    verdict = read_data(packed[4:])
    assert isinstance(verdict, tuple)
    return Ended(*verdict)
