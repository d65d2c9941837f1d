"""
Tracked flows on the wire: list them, read them, delete exactly one of them (ctnetlink).

A dump may hold hundreds of thousands of entries, and all that matters here are UDP flows. So the kernel is asked for UDP alone,
reading stops at the first attribute that shows another protocol, and nothing is built but the `Flow`.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c. The filter of dumps
(CTA_FILTER) is there since Linux 5.8; older kernels do not know the attribute and send all protocols, which is only slower.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kpx.kernel.wire.attr import NLA_F_NESTED, attr, attrs, be32, nested, walk
from kpx.kernel.wire.message import NFGENMSG_BYTES, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, message, messages, nfgenmsg
from kpx.model.addresses import format_endpoint

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_NEW = NFNL_SUBSYS_CTNETLINK << 8
IPCTNL_MSG_CT_GET = IPCTNL_MSG_CT_NEW | 1
IPCTNL_MSG_CT_DELETE = IPCTNL_MSG_CT_NEW | 2

CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_ZONE, CTA_FILTER = 1, 2, 12, 18, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO, CTA_TUPLE_ZONE = 1, 2, 3
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
CTA_FILTER_FLAG_PROTO_NUM = 1 << 3

IPPROTO_UDP = 17
_UDP = bytes([IPPROTO_UDP])
_NFPROTO = {4: 2, 6: 10}
_VERSION = {2: 4, 10: 6}
_ATTR = struct.Struct("=HH")
_FLAGS = struct.Struct("=I")


class Flow(NamedTuple):
    """
    A tracked UDP flow as the kernel keeps it; addresses are packed, ports are numbers.

    Args:
        family: IP version, 4 or 6.
        protocol: always 17 when it comes from a dump.
        orig_src, orig_dst, orig_sport, orig_dport: what the client sent.
        reply_src, reply_sport, reply_dst, reply_dport: what an answer looks like before it is translated back; where a
            destination was translated, `reply_src` and `reply_sport` are the endpoint.
        zone: conntrack zone of the original direction, 0 ordinarily.
        id: the kernel's number for this very entry, opaque; 0 when unknown.
    """

    family: int
    protocol: int
    orig_src: bytes
    orig_dst: bytes
    orig_sport: int
    orig_dport: int
    reply_src: bytes
    reply_sport: int
    reply_dst: bytes
    reply_dport: int
    zone: int = 0
    id: int = 0

    def __str__(self) -> str:
        client, frontend = format_endpoint(self.orig_src, self.orig_sport), format_endpoint(self.orig_dst, self.orig_dport)
        return f"{client} -> {frontend}, answered by {format_endpoint(self.reply_src, self.reply_sport)}"


class _Tuple(NamedTuple):
    src: bytes
    dst: bytes
    sport: int
    dport: int
    zone: int


def _layout(address_bytes: int, source: int) -> tuple[struct.Struct, tuple[bytes, ...]]:
    """Return how a kernel lays out a tuple, and the attribute headers a tuple of this layout has."""
    layout = struct.Struct(f">8s{address_bytes}s4s{address_bytes}s8sB3x4sH2x4sH2x")
    address, nest = address_bytes + 4, NLA_F_NESTED
    headers = (
        _ATTR.pack(4 + 2 * address, CTA_TUPLE_IP | nest) + _ATTR.pack(address, source),
        _ATTR.pack(address, source + 1),
        _ATTR.pack(28, CTA_TUPLE_PROTO | nest) + _ATTR.pack(5, CTA_PROTO_NUM),
        _ATTR.pack(6, CTA_PROTO_SRC_PORT),
        _ATTR.pack(6, CTA_PROTO_DST_PORT),
    )
    return layout, headers


_LAYOUTS = {layout.size: (layout, headers) for layout, headers in (_layout(4, CTA_IP_V4_SRC), _layout(16, CTA_IP_V6_SRC))}


def dump_request(family: int, sequence: int) -> bytes:
    """
    Pack a request for all tracked UDP flows of a family.

    Args:
        family: IP version, 4 or 6.
        sequence: netlink sequence number, which the answers carry.
    """
    wanted = nested(CTA_TUPLE_ORIG, nested(CTA_TUPLE_PROTO, attr(CTA_PROTO_NUM, _UDP)))
    flags = nested(
        CTA_FILTER,
        attr(CTA_FILTER_ORIG_FLAGS, _FLAGS.pack(CTA_FILTER_FLAG_PROTO_NUM)),
        attr(CTA_FILTER_REPLY_FLAGS, _FLAGS.pack(0)),
    )
    payload = nfgenmsg(_NFPROTO[family]) + wanted + flags
    return message(IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, sequence, payload)


def delete_request(flow: Flow, sequence: int) -> bytes:
    """
    Pack a request to delete a flow, acknowledged by the kernel.

    Only the very entry that was read is deleted: if it is gone, or another flow has taken its place, or it is in another
    zone, the answer is ENOENT.
    """
    source, destination = (CTA_IP_V4_SRC, CTA_IP_V4_DST) if flow.family == 4 else (CTA_IP_V6_SRC, CTA_IP_V6_DST)
    original = nested(
        CTA_TUPLE_ORIG,
        nested(CTA_TUPLE_IP, attr(source, flow.orig_src), attr(destination, flow.orig_dst)),
        nested(
            CTA_TUPLE_PROTO,
            attr(CTA_PROTO_NUM, bytes([flow.protocol])),
            attr(CTA_PROTO_SRC_PORT, flow.orig_sport.to_bytes(2, "big")),
            attr(CTA_PROTO_DST_PORT, flow.orig_dport.to_bytes(2, "big")),
        ),
    )
    payload = nfgenmsg(_NFPROTO[flow.family]) + original
    if flow.zone:
        payload += attr(CTA_ZONE, flow.zone.to_bytes(2, "big"))
    if flow.id:
        payload += be32(CTA_ID, flow.id)
    return message(IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, sequence, payload)


def parse_flows(datagram: bytes) -> list[Flow]:
    """
    Read the UDP flows of a datagram, in order.

    Messages that are not entries, entries of other protocols and entries cut short are left out.
    """
    flows = []
    for entry in messages(datagram):
        if entry.kind == IPCTNL_MSG_CT_NEW and entry.start + NFGENMSG_BYTES <= entry.end:
            flow = _flow(datagram, entry.start, entry.end)
            if flow is not None:
                flows.append(flow)
    return flows


def _flow(buffer: bytes, start: int, end: int) -> Flow | None:
    family = _VERSION.get(buffer[start])
    original = reply = None
    zone = identity = 0
    for kind, first, last in walk(buffer, start + NFGENMSG_BYTES, end):
        if kind == CTA_TUPLE_ORIG:
            original = _tuple(buffer, first, last)
            if original is None:
                return None
        elif kind == CTA_TUPLE_REPLY:
            reply = _tuple(buffer, first, last)
        elif kind == CTA_ZONE:
            zone = int.from_bytes(buffer[first:last], "big")
        elif kind == CTA_ID:
            identity = int.from_bytes(buffer[first:last], "big")
    if family is None or original is None or reply is None:
        return None
    src, dst, sport, dport, own_zone = original
    back_src, back_dst, back_sport, back_dport, _ = reply
    zone = zone or own_zone
    return Flow(family, IPPROTO_UDP, src, dst, sport, dport, back_src, back_sport, back_dst, back_dport, zone, identity)


def _tuple(buffer: bytes, start: int, end: int) -> _Tuple | None:
    """Read one direction; None unless it is UDP and complete."""
    layout, headers = _LAYOUTS.get(end - start, (None, ()))
    if layout is not None:
        # What every kernel so far sends, unless a zone holds for one direction alone; five times as fast as looking around.
        ip, src, to, dst, proto, protocol, first, sport, second, dport = layout.unpack_from(buffer, start)
        if (ip, to, proto, first, second) == headers:
            return _Tuple(src, dst, sport, dport, 0) if protocol == IPPROTO_UDP else None
    return _any_tuple(buffer, start, end)


def _any_tuple(buffer: bytes, start: int, end: int) -> _Tuple | None:
    """Read one direction, whatever the order of its attributes."""
    parts = attrs(buffer, start, end)
    ip, proto = attrs(parts.get(CTA_TUPLE_IP, b"")), attrs(parts.get(CTA_TUPLE_PROTO, b""))
    src, dst = ip.get(CTA_IP_V4_SRC, ip.get(CTA_IP_V6_SRC)), ip.get(CTA_IP_V4_DST, ip.get(CTA_IP_V6_DST))
    sport, dport = proto.get(CTA_PROTO_SRC_PORT), proto.get(CTA_PROTO_DST_PORT)
    if proto.get(CTA_PROTO_NUM) != _UDP or not (src and dst and sport and dport):
        return None
    zone = parts.get(CTA_TUPLE_ZONE, b"")
    return _Tuple(src, dst, int.from_bytes(sport, "big"), int.from_bytes(dport, "big"), int.from_bytes(zone, "big"))
