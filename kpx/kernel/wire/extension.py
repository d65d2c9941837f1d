"""
Questions about netfilter's extensions: does the kernel have a type of ipset, or a match of iptables.

Both make the kernel load the module that has it, where that is permitted, and change nothing else.

Source: include/uapi/linux/netfilter/ipset/ip_set.h (IPSET_CMD_TYPE), include/uapi/linux/netfilter/nf_tables_compat.h,
include/uapi/linux/netfilter/x_tables.h (struct xt_get_revision).
"""

from __future__ import annotations

import struct

from kpx.kernel.wire.attr import attr, be32, string
from kpx.kernel.wire.message import NLM_F_ACK, NLM_F_REQUEST, message, nfgenmsg

NFNL_SUBSYS_IPSET, NFNL_SUBSYS_NFT_COMPAT = 6, 11
IPSET_CMD_TYPE = 13
IPSET_PROTOCOL = 6
"""The protocol every kernel since 2.6.39 speaks."""
IPSET_ERR_FIND_TYPE = 4098
"""ipset's own error numbers begin at 4096."""
NFNL_MSG_COMPAT_GET = 0

SO_GET_REVISION_MATCH = {2: 66, 10: 68}
"""Socket options IPT_SO_GET_REVISION_MATCH and IP6T_SO_GET_REVISION_MATCH, by address family."""

_REVISION = struct.Struct("=29sB")


def set_type_request(sequence: int, family: int, kind: str) -> bytes:
    """
    Ask for the revisions of a type of ipset.

    Args:
        family: NFPROTO_IPV4 (2) or NFPROTO_IPV6 (10).
        kind: for example "hash:ip,port".
    """
    body = nfgenmsg(family) + attr(1, bytes((IPSET_PROTOCOL,))) + string(3, kind) + attr(5, bytes((family,)))
    return message(NFNL_SUBSYS_IPSET << 8 | IPSET_CMD_TYPE, NLM_F_REQUEST | NLM_F_ACK, sequence, body)


def match_request(sequence: int, family: int, name: str, revision: int) -> bytes:
    """Ask whether iptables rules that are kept by nf_tables may use a match; ENOENT when there is none of that name."""
    body = nfgenmsg(family) + string(1, name) + be32(2, revision) + be32(3, 0)
    return message(NFNL_SUBSYS_NFT_COMPAT << 8 | NFNL_MSG_COMPAT_GET, NLM_F_REQUEST | NLM_F_ACK, sequence, body)


def match_revision(name: str, revision: int) -> bytes:
    """Pack the value of `SO_GET_REVISION_MATCH`, the same question to the tables of ip_tables and ip6_tables."""
    return _REVISION.pack(name.encode(), revision)
