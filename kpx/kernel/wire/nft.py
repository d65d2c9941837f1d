"""
nf_tables objects on the wire: tables, chains, rules, sets (include/uapi/linux/netfilter/nf_tables.h).

These are written once per start and favour plainness; elements, which are the hot path, are in `nft_element`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kpx.kernel.wire.attr import attr, be32, nested, string, text
from kpx.kernel.wire.message import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    message,
    nfgenmsg,
)

NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN = 0x10
NFNL_MSG_BATCH_END = 0x11

NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN, DELCHAIN = 3, 4, 5
NEWRULE, GETRULE, DELRULE = 6, 7, 8
NEWSET, GETSET, DELSET = 9, 10, 11
NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14

NFPROTO_IPV4, NFPROTO_IPV6 = 2, 10
HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}

SET_INTERVAL, SET_MAP, SET_TIMEOUT, SET_EVAL, SET_CONCAT = 0x4, 0x8, 0x10, 0x20, 0x80
DATA_VERDICT = 0xFFFFFF00

NF_DROP, NF_ACCEPT = 0, 1
NFT_JUMP, NFT_GOTO, NFT_RETURN = -3, -4, -5


def request(kind: int, flags: int, sequence: int, family: int, payload: bytes) -> bytes:
    """Pack one nf_tables message."""
    return message(NFNL_SUBSYS_NFTABLES << 8 | kind, NLM_F_REQUEST | flags, sequence, nfgenmsg(family) + payload)


def batch_begin(sequence: int) -> bytes:
    """Open a transaction; everything up to `batch_end` takes effect together or not at all."""
    return message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, sequence, nfgenmsg(0, NFNL_SUBSYS_NFTABLES))


def batch_end(sequence: int) -> bytes:
    """Close a transaction."""
    return message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, sequence, nfgenmsg(0, NFNL_SUBSYS_NFTABLES))


def comment(kind: int, words: str) -> bytes:
    """
    Pack a comment as nft's user data (libnftnl udata: type, length, NUL-terminated text; at most 128 bytes).

    Args:
        kind: 0 for tables, chains and rules, 7 for sets, as libnftnl numbers them.
    """
    raw = words.encode()[:127] + b"\0"
    return bytes((kind, len(raw))) + raw


def read_comment(userdata: bytes, kind: int) -> str:
    """Find a comment in nft's user data, "" without one."""
    position = 0
    while position + 2 <= len(userdata):
        found, length = userdata[position], userdata[position + 1]
        if found == kind:
            return text(userdata[position + 2 : position + 2 + length])
        position += 2 + length
    return ""


def new_table(sequence: int, family: int, name: str, words: str) -> bytes:
    """Create a table, or find it there; its comment is set only when it is created (kernel 5.10)."""
    return request(NEWTABLE, NLM_F_CREATE, sequence, family, string(1, name) + attr(6, comment(0, words)))


def delete_table(sequence: int, family: int, name: str) -> bytes:
    """Delete a table with all it holds; ENOENT when it is not there."""
    return request(DELTABLE, NLM_F_ACK, sequence, family, string(1, name))


class BaseHook(NamedTuple):
    """Where a base chain is called: type "nat" or "filter", hook by name, priority as the kernel sorts it."""

    type: str
    hook: str
    priority: int


def new_chain(sequence: int, family: int, table: str, name: str, hook: BaseHook | None = None, words: str = "") -> bytes:
    """Create a chain, or find it there; a base chain's policy is accept."""
    payload = string(1, table) + string(3, name)
    if hook is not None:
        payload += nested(4, be32(1, HOOKS[hook.hook]), be32(2, hook.priority)) + be32(5, NF_ACCEPT) + string(7, hook.type)
    if words:
        payload += attr(12, comment(0, words))
    return request(NEWCHAIN, NLM_F_CREATE, sequence, family, payload)


def delete_chain(sequence: int, family: int, table: str, name: str) -> bytes:
    """Delete a chain and its rules; EBUSY while something jumps to it."""
    return request(DELCHAIN, 0, sequence, family, string(1, table) + string(3, name))


def new_rule(sequence: int, family: int, table: str, chain: str, expressions: Iterable[bytes], words: str) -> bytes:
    """Append a rule to a chain."""
    payload = string(1, table) + string(2, chain)
    payload += nested(4, *(nested(1, e) for e in expressions)) + attr(7, comment(0, words))
    return request(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, sequence, family, payload)


def flush_chain(sequence: int, family: int, table: str, chain: str) -> bytes:
    """Delete all rules of a chain."""
    return request(DELRULE, 0, sequence, family, string(1, table) + string(2, chain))


class SetShape(NamedTuple):
    """
    The type of a set or map.

    Args:
        key_type, data_type: nft's own type numbers, which let `nft list` print elements; `data_type` None for a set.
        field_bytes: size of each part of the key, each padded to four bytes in the key.
        size: most elements it may hold, 0 for no bound. A set that rules fill needs one (the kernel's own is 65,535; A6).
        dynamic: rules fill it, and each element lives for a time of its own.
    """

    key_type: int
    field_bytes: tuple[int, ...]
    data_type: int | None = None
    data_bytes: int = 0
    interval: bool = False
    dynamic: bool = False
    size: int = 0

    @property
    def key_bytes(self) -> int:
        """Length of a packed key."""
        return sum((n + 3) & ~3 for n in self.field_bytes)

    @property
    def flags(self) -> int:
        """The NFT_SET_* bits."""
        bits = SET_INTERVAL if self.interval else 0
        bits |= SET_TIMEOUT | SET_EVAL if self.dynamic else 0
        bits |= SET_MAP if self.data_type is not None else 0
        return bits | (SET_CONCAT if self.interval and len(self.field_bytes) > 1 else 0)


def new_set(sequence: int, family: int, table: str, name: str, shape: SetShape, number: int, words: str) -> bytes:
    """Create a set or map, or find one of the same type there (EEXIST when the type differs)."""
    payload = string(1, table) + string(2, name) + be32(3, shape.flags) + be32(4, shape.key_type) + be32(5, shape.key_bytes)
    if shape.data_type is not None:
        payload += be32(6, shape.data_type) + be32(7, shape.data_bytes)
    desc = be32(1, shape.size) if shape.size else b""
    if shape.interval and len(shape.field_bytes) > 1:
        desc += nested(2, *(nested(1, be32(1, n)) for n in shape.field_bytes))
    if desc:
        payload += nested(9, desc)
    payload += be32(10, number) + attr(13, comment(7, words))
    return request(NEWSET, NLM_F_CREATE, sequence, family, payload)


def verdict(code: int, chain: str = "") -> bytes:
    """Pack NFTA_DATA_VERDICT."""
    return nested(2, be32(1, code) + (string(2, chain) if chain else b""))


def dump(kind: int, sequence: int, family: int, table: str, name: str = "") -> bytes:
    """Ask for a dump of a table's chains, rules, sets, or (with a set's name) elements; nobody else's are read."""
    payload = string(1, table) + (string(2, name) if name else b"")
    return request(kind, NLM_F_DUMP, sequence, family, payload)


def get_table(sequence: int, family: int, name: str) -> bytes:
    """Ask for one table; ENOENT when it is not there."""
    return request(GETTABLE, NLM_F_ACK, sequence, family, string(1, name))


def flush_set(sequence: int, family: int, table: str, name: str) -> bytes:
    """Delete all elements of a set."""
    return request(DELSETELEM, 0, sequence, family, string(1, table) + string(2, name))


def get_chain(sequence: int, family: int, table: str, name: str) -> bytes:
    """Ask for one chain; ENOENT when it is not there."""
    return request(GETCHAIN, NLM_F_ACK, sequence, family, string(1, table) + string(3, name))
