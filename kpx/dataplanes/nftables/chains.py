"""
Chains made on demand: one for each size of a pool in use, one for each way of recording session affinity.

The name of a chain, with its comments, determines its rules, so these chains are rows like all else: any agent that sees the
row knows what to write, and equal needs make equal chains.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from kpx.dataplanes.nftables.rules import Chain, Rule, Words
from kpx.dataplanes.nftables.schema import frontend_key
from kpx.kernel.wire import nft_expression as x
from kpx.kernel.wire.nft import NFT_GOTO
from kpx.model.addresses import Family, format_address, parse_address
from kpx.policy.desired import Frontend

_SIZED = re.compile(r"^(nodeport-)?(pick|stick)-([0-9]+)$")
_RECORD = re.compile(r"^record-([0-9]+)$")
_RECORD_FRONTEND = re.compile(r"^(?:\[?([0-9a-f.:]+?)\]?|nodePort):([0-9]+) for ([0-9]+)s #[0-9a-f]+$")


def pick_name(node_port: bool, size: int, sticky: bool) -> str:
    """Return the name of the chain that chooses among `size` endpoints."""
    return f"{'nodeport-' if node_port else ''}{'stick' if sticky else 'pick'}-{size}"


def pool_size(verdict: str) -> int | None:
    """Return the number of endpoints a frontend's verdict chooses among, None when it is not one of ours."""
    match = _SIZED.match(verdict.removeprefix("goto "))
    return int(match[3]) if match else None


def pick_chain(family: Family, node_port: bool, size: int) -> Chain:
    """Choose one of the slots 0..size-1 at random, evenly, and send the flow to the endpoint in it (6.5)."""
    w = Words(family)
    key = w.node_port() if node_port else w.frontend()
    slot = 2 if node_port else w.width + 2
    table = "nodeport-endpoints" if node_port else "endpoints"
    choice = (*key, x.random_below(size, slot), x.map_value(table, 0, 0), w.dnat())
    return Chain(pick_name(node_port, size, False), (Rule(f"one of {size} endpoints", choice),))


def stick_chain(family: Family, node_port: bool, size: int) -> Chain:
    """Send a client that is remembered to its endpoint (A2), others to one of the slots."""
    w = Words(family)
    if node_port:
        key: tuple[bytes, ...] = (w.source(0), w.protocol(w.width), w.port(w.width + 1))
    else:
        key = (w.source(0), w.destination(w.width), w.protocol(2 * w.width), w.port(2 * w.width + 1))
    remembered = (*key, x.map_value("nodeport-affinity" if node_port else "affinity", 0, 0), w.dnat())
    return Chain(
        pick_name(node_port, size, True),
        (
            Rule("session affinity: where this client went before", remembered),
            Rule("a new client", (x.verdict(NFT_GOTO, pick_name(node_port, size, False)),)),
        ),
    )


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
    name = hashlib.blake2s("\n".join(rule.comment for rule in rules).encode(), digest_size=8).hexdigest()
    return Chain(f"record-{name}-all", rules)


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


def chain_of(family: Family, name: str, comments: tuple[str, ...]) -> Chain:
    """
    Return the chain a row stands for.

    Raises:
        ValueError: no chain of this data plane has that name.
    """
    if match := _SIZED.match(name):
        make = stick_chain if match[2] == "stick" else pick_chain
        return make(family, bool(match[1]), int(match[3]))
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
