"""
The language of our iptables rules, read back: which packets a rule matches, and what it does with them. Pure.

Only what `rules` writes is understood; anything else is an error, so that no rule is ever walked past by mistake.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from kpx.dataplanes.way import Traveller
from kpx.model.addresses import Address
from kpx.model.names import Protocol


class Asked(NamedTuple):
    """
    What matches of a rule ask beyond the packet itself.

    Args:
        member: the name of a set, "src" and "dst" in the order of its fields, and a packet to whether it is in the set.
        is_local: an address to whether it is this host's.
    """

    member: Callable[[str, str, Traveller], bool]
    is_local: Callable[[Address], bool]


Test = Callable[[Traveller, Asked], bool]


class Target(NamedTuple):
    """What a rule does: `name` is a target or a chain, `goes` says it does not come back from there; `mark` is value and mask."""

    name: str
    goes: bool = False
    mark: tuple[int, int] = (0, 0)


class RuleText(NamedTuple):
    """A rule: all its tests must hold. `sets` names the sets it asks."""

    tests: tuple[Test, ...]
    target: Target
    sets: tuple[str, ...]

    def matches(self, packet: Traveller, asked: Asked) -> bool:
        """Tell whether a packet matches."""
        return all(test(packet, asked) for test in self.tests)


@lru_cache(maxsize=1024)
def read(text: str) -> RuleText:
    """
    Read a rule.

    Raises:
        ValueError: it says something that this walk does not understand.
    """
    words = shlex.split(text)
    tests: list[Test] = []
    sets: list[str] = []
    target = None
    inverted = False
    while words:
        word = words.pop(0)
        if word == "!":
            inverted = True
        elif word == "-m":
            words.pop(0)  # the options that follow say all
        elif word in ("-j", "-g"):
            target = _target(words, word == "-g")
        elif word in _TESTS:
            if word == "--match-set":
                sets.append(words[0])
            test = _TESTS[word](words)
            tests.append(_not(test) if inverted else test)
            inverted = False
        else:
            raise ValueError(f"the walk does not understand {word!r} in the rule {text!r}")
    if target is None:
        raise ValueError(f"the rule {text!r} does nothing")
    return RuleText(tuple(tests), target, tuple(sets))


def _not(test: Test) -> Test:
    return lambda packet, asked: not test(packet, asked)


def _target(words: list[str], goes: bool) -> Target:
    name = words.pop(0)
    options, words[:] = list(words), []
    if name == "MARK" and options[0] == "--set-xmark":
        value, mask = options[1].split("/")
        return Target(name, goes, (int(value, 0), int(mask, 0)))
    if options and name not in ("REJECT", "MASQUERADE"):
        raise ValueError(f"the walk does not understand {options} of {name}")
    return Target(name, goes)


def _protocol(words: list[str]) -> Test:
    name = words.pop(0)
    number = {"tcp": Protocol.TCP, "udp": Protocol.UDP, "sctp": Protocol.SCTP}.get(name)
    return lambda packet, _: packet.protocol == number


def _in_set(words: list[str]) -> Test:
    name, directions = words.pop(0), words.pop(0)
    return lambda packet, asked: asked.member(name, directions, packet)


def _state(words: list[str]) -> Test:
    states = frozenset(words.pop(0).split(","))
    return lambda packet, _: "NEW" in states or ("DNAT" in states and packet.by_conntrack)


def _status(words: list[str]) -> Test:
    statuses = frozenset(words.pop(0).split(","))
    if not statuses <= {"CONFIRMED"}:
        raise ValueError(f"the walk does not know the status {', '.join(statuses)} of a flow")
    return lambda packet, _: packet.confirmed


def _mark(words: list[str]) -> Test:
    value, _, mask = words.pop(0).partition("/")
    wanted, bits = int(value, 0), int(mask or "0xffffffff", 0)
    return lambda packet, _: packet.mark & bits == wanted


def _destination_type(words: list[str]) -> Test:
    kind = words.pop(0)
    if kind != "LOCAL":
        raise ValueError(f"the walk does not know addresses of type {kind}")
    return lambda packet, asked: asked.is_local(packet.destination)


def _tcp_flags(words: list[str]) -> Test:
    looked_at, wanted = (frozenset(words.pop(0).split(",")) for _ in range(2))
    return lambda packet, _: packet.protocol == Protocol.TCP and looked_at & {"SYN"} == wanted


def _interface(words: list[str]) -> Test:
    name = words.pop(0)
    if name.endswith("+"):
        return lambda packet, _: packet.interface.startswith(name[:-1])
    return lambda packet, _: packet.interface == name


_TESTS: dict[str, Callable[[list[str]], Test]] = {
    "-p": _protocol,
    "-i": _interface,
    "--match-set": _in_set,
    "--ctstate": _state,
    "--ctstatus": _status,
    "--mark": _mark,
    "--dst-type": _destination_type,
    "--tcp-flags": _tcp_flags,
}
