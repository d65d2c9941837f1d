"""What a rule can ask of a packet, as the bytes the kernel would put into a register. Pure."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from kpx.dataplanes.way import Traveller
from kpx.kernel.wire import nft
from kpx.kernel.wire import nft_expression as x
from kpx.kernel.wire.nft_instruction import Instruction
from kpx.model.addresses import Address, Family

_RTN_UNICAST: Final = 1
_CT_DIRECTION, _CT_SRC_IP, _CT_SRC_IP6 = 1, 19, 21
_CT_STATUS_SNAT_BIT: Final = 16
_FIB_F_SADDR: Final = 1
_META_NFPROTO: Final = 15
_IP_PROTOCOL_OFFSET: Final = {Family.IPV4: 9, Family.IPV6: 6}

IsLocal = Callable[[Address], bool]


def network_header(packet: Traveller) -> bytes:
    """Return the bytes of the IP header that say who sends what to whom; all others are zero."""
    header = bytearray(20 if packet.family is Family.IPV4 else 40)
    header[_IP_PROTOCOL_OFFSET[packet.family]] = packet.protocol
    width = len(packet.source)
    header[-2 * width :] = packet.source + packet.destination
    return bytes(header)


def transport_header(packet: Traveller) -> bytes:
    """Return the ports of the packet; its own is not known, and 0."""
    return bytes(2) + packet.port.to_bytes(2, "big")


def _payload(one: Instruction, packet: Traveller, _: IsLocal) -> bytes:
    base, offset, length = one.number(2), one.number(3), one.number(4)
    data = {x.PAYLOAD_NETWORK: network_header, x.PAYLOAD_TRANSPORT: transport_header}[base](packet)
    if offset + length > len(data):
        raise ValueError(f"a rule reads {length} bytes at {offset} of header {base}, of which the walk knows nothing")
    return data[offset : offset + length]


def _meta(one: Instruction, packet: Traveller, _: IsLocal) -> bytes:
    key = one.number(2)
    if key == x.META_MARK:
        return packet.mark.to_bytes(4, sys.byteorder)
    if key == x.META_IIFNAME:
        return packet.interface.encode().ljust(16, b"\0")
    if key == x.META_L4PROTO:
        return bytes((packet.protocol,))
    if key == _META_NFPROTO:
        return bytes((nft.NFPROTO_IPV4 if packet.family is Family.IPV4 else nft.NFPROTO_IPV6,))
    raise ValueError(f"the walk knows no meta key {key}")


def _ct(one: Instruction, packet: Traveller, _: IsLocal) -> bytes:
    """What connection tracking knows of a flow at its first packet."""
    key = one.number(2)
    if key == x.CT_STATE:
        return x.CT_STATE_NEW_BIT.to_bytes(4, sys.byteorder)
    if key == x.CT_STATUS:
        status = x.CT_STATUS_DNAT_BIT * packet.by_conntrack | _CT_STATUS_SNAT_BIT * packet.masqueraded
        return status.to_bytes(4, sys.byteorder)
    if key == _CT_DIRECTION:
        return bytes((x.CT_DIR_ORIGINAL,))
    if key == x.CT_PROTO_DST:
        return packet.asked.port.to_bytes(2, "big")
    if key in (x.CT_DST_IP, x.CT_DST_IP6):
        return packet.asked.address
    if key in (_CT_SRC_IP, _CT_SRC_IP6):
        return packet.source
    raise ValueError(f"the walk knows no ct key {key}")


def _fib(one: Instruction, packet: Traveller, is_local: IsLocal) -> bytes:
    if one.number(2) != x.FIB_ADDRTYPE:
        raise ValueError(f"the walk knows no result {one.number(2)} of fib")
    address = packet.source if one.number(3) & _FIB_F_SADDR else packet.destination
    return (x.RTN_LOCAL if is_local(address) else _RTN_UNICAST).to_bytes(4, sys.byteorder)


FACTS: Final[dict[str, Callable[[Instruction, Traveller, IsLocal], bytes]]] = {
    "payload": _payload,
    "meta": _meta,
    "ct": _ct,
    "fib": _fib,
}
"""By expression; each fills the one register it names."""
