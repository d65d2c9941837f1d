"""
Session affinity: chains that send a client where it went before, and chains that remember where it went.

A client is remembered for all frontends of a service port at once (A1), and these may not all lead to the same endpoints: with a
Local policy some frontends have fewer than others, or fewer for outsiders. So what is remembered may be an endpoint that this
frontend must not use for this client (A2, A8), and a chain `stick-` then has a rule for each endpoint that makes the difference:
those that are allowed, or those that are not, whichever are fewer. With one of the two being the endpoints of this node, they
are few. An endpoint that must not be used is forgotten under this frontend: the kernel refreshes an element that is there and
leaves its value as it is (nft_dynset.c), so the client would be sent somewhere else each time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from kpx.dataplanes.nftables.choices import Choice
from kpx.dataplanes.nftables.rules import Chain, Rule, Words
from kpx.dataplanes.nftables.schema import endpoint_value, frontend_key
from kpx.kernel.wire import nft_expression as x
from kpx.kernel.wire.nft import NFT_GOTO
from kpx.model.addresses import Family, format_address, format_endpoint, parse_address
from kpx.policy.desired import Backend, Frontend

_BACK: Final = re.compile(r"^session affinity: (not )?back to \[?([0-9a-f.:]+?)\]?:([0-9]+) #[0-9a-f]+$")
_RECORD: Final = re.compile(r"^record-([0-9]+)$")
_RECORD_FRONTEND: Final = re.compile(r"^(?:\[?([0-9a-f.:]+?)\]?|nodePort):([0-9]+) for ([0-9]+)s #[0-9a-f]+$")


class Restriction(NamedTuple):
    """
    Which of the endpoints that may be remembered a client is sent back to.

    Args:
        allowed: to these only; else to all but these. backends: sorted.
    """

    allowed: bool
    backends: tuple[Backend, ...]


ANYWHERE: Final = Restriction(False, ())


def restriction(pool: tuple[Backend, ...], remembered: Collection[Backend]) -> Restriction:
    """
    Return the shorter way to say which of the endpoints that may be remembered are in a pool.

    Args:
        pool: sorted. remembered: the endpoints of all frontends of the service port.
    """
    others = tuple(sorted(set(remembered).difference(pool)))
    return Restriction(False, others) if len(others) <= len(pool) else Restriction(True, pool)


def restriction_of(comments: Iterable[str]) -> Restriction:
    """Read the restriction back from the comments of a chain's rules."""
    found = [match for match in map(_BACK.match, comments) if match]
    backends = tuple(Backend(parse_address(match[2]), int(match[3])) for match in found)
    return Restriction(not found[0][1], backends) if found else ANYWHERE


def stick_chain(family: Family, choice: Choice, to: Restriction = ANYWHERE) -> Chain:
    """Send a client that is remembered to its endpoint, if that may be (A2), others to one of the slots."""
    w = Words(family)
    if choice.node_port:
        key: tuple[bytes, ...] = (w.source(0), w.protocol(w.width), w.port(w.width + 1))
    else:
        key = (w.source(0), w.destination(w.width), w.protocol(2 * w.width), w.port(2 * w.width + 1))
    remembered = (*key, x.map_value("nodeport-affinity" if choice.node_port else "affinity", 0, 0))
    pick = x.verdict(NFT_GOTO, choice.pick_name)
    anew = (*key, *_forget(w, choice.node_port, to.backends[0]), pick) if to.backends else (pick,)
    rules = [_back_rule(w, remembered, to.allowed, backend, anew) for backend in to.backends]
    if not to.allowed:
        rules.append(Rule("session affinity: where this client went before", (*remembered, w.dnat())))
    rules.append(Rule("a new client", anew if to.allowed else (pick,)))
    name = f"{choice.stick_name}-{_digest(rules)}" if to.backends else choice.stick_name
    return Chain(name, tuple(rules))


def _forget(w: Words, node_port: bool, backend: Backend) -> tuple[bytes, ...]:
    """Forget the client whose key is in the registers, wherever it went; `backend` is any, since a map wants a value here."""
    name, data = ("nodeport-affinity", w.width + 2) if node_port else ("affinity", 2 * w.width + 2)
    value = (x.load(backend.address, data), x.load(backend.port.to_bytes(2, "big"), data + w.width))
    return (*value, x.delete_from_map(name, 0, data))


def _back_rule(w: Words, remembered: tuple[bytes, ...], allowed: bool, backend: Backend, anew: tuple[bytes, ...]) -> Rule:
    """
    Send the client back to one endpoint, or not back to it.

    A comparison takes 16 bytes, thus of IPv6 the address alone: endpoints that differ in nothing but the port are one here.
    """
    same = (*remembered, x.compare(x.CMP_EQ, endpoint_value(*backend)[:16], 0))
    constant = (x.load(backend.address, 0), x.load(backend.port.to_bytes(2, "big"), w.width), w.dnat())
    words = f"session affinity: {'' if allowed else 'not '}back to {format_endpoint(*backend)}"
    return Rule(words, (*same, *(constant if allowed else anew)))


def record_chain(family: Family, timeout_s: int) -> Chain:
    """Remember for `timeout_s` seconds, from now, where this client of this frontend went (A3)."""
    w = Words(family)
    data = 2 * w.width + 2
    update = (
        w.source(0),
        w.original_destination(w.width),
        w.protocol(2 * w.width),
        w.original_port(2 * w.width + 1),
        w.destination(data),
        w.port(data + w.width),
        x.update_map("affinity", 0, data, timeout_s * 1000),
    )
    return Chain(f"record-{timeout_s}", (Rule(f"remember for {timeout_s}s", update),))


def record_port_chain(family: Family, frontends: Iterable[Frontend], timeout_s: int) -> Chain:
    """
    Remember where a client went under every frontend of its service port (A1: the kinds of VIP share affinity).

    An nft rule cannot look one map's answer up in another map, so a client's endpoint cannot be kept under a name of the service
    port; it is kept once under each frontend instead, all written by the first packet of a flow.
    """
    rules = tuple(_record_rule(family, f.address, f.port, timeout_s) for f in sorted(frontends))
    return Chain(f"record-{_digest(rules)}-all", rules)


def _digest(rules: Iterable[Rule]) -> str:
    return hashlib.blake2s("\n".join(rule.comment for rule in rules).encode(), digest_size=8).hexdigest()


def _record_rule(family: Family, address: bytes, port: int, timeout_s: int) -> Rule:
    w = Words(family)
    constant = frontend_key(address, 0, port)[-4:]
    if address:
        place = f"[{format_address(address)}]" if len(address) == 16 else format_address(address)
        table, next_word = "affinity", 2 * w.width
        key: tuple[bytes, ...] = (w.source(0), x.load(address, w.width))
    else:
        place, table, next_word = "nodePort", "nodeport-affinity", w.width
        key = (w.source(0),)
    data = next_word + 2
    update = (
        *key,
        w.protocol(next_word),
        x.load(constant[:2], next_word + 1),
        w.destination(data),
        w.port(data + w.width),
        x.update_map(table, 0, data, timeout_s * 1000),
    )
    return Rule(f"{place}:{port} for {timeout_s}s", update)


def record_chain_of(family: Family, name: str, comments: tuple[str, ...]) -> Chain:
    """
    Return the chain that a row which remembers stands for.

    Raises:
        ValueError: no chain of this data plane has that name.
    """
    if match := _RECORD.match(name):
        return record_chain(family, int(match[1]))
    found = [_RECORD_FRONTEND.match(comment) for comment in comments]
    if not found or not all(found):
        raise ValueError(f"{name} is not a chain kpx makes")
    rules = [_record_rule(family, parse_address(m[1]) if m[1] else b"", int(m[2]), int(m[3])) for m in found if m is not None]
    return Chain(name, tuple(rules))


def affinity_timeout_s(name: str, comments: tuple[str, ...]) -> int | None:
    """Return the timeout a record chain writes, None when the name is not one's."""
    if match := _RECORD.match(name):
        return int(match[1])
    match = _RECORD_FRONTEND.match(comments[0]) if comments else None
    return int(match[3]) if match else None
