"""Packets made by hand, for both IP versions with the same words: headers, errors, and what an error quotes."""

from __future__ import annotations

from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
    fragment6,
)
from scapy.packet import Packet, Raw

from tests.lab.topology import version

UNREACHABLE, TOO_BIG, TIME_EXCEEDED = "unreachable", "too big", "time exceeded"
_ICMP_KINDS = {(3, 3): UNREACHABLE, (3, 4): TOO_BIG, (11, 0): TIME_EXCEEDED}
_ICMPV6_KINDS = {ICMPv6DestUnreach: UNREACHABLE, ICMPv6PacketTooBig: TOO_BIG, ICMPv6TimeExceeded: TIME_EXCEEDED}


def ip(source: str, to: str, hops: int = 64) -> Packet:
    """An IP header; `hops` is the TTL or hop limit."""
    return IP(src=source, dst=to, ttl=hops) if version(to) == 4 else IPv6(src=source, dst=to, hlim=hops)


def hops_left(packet: Packet) -> int:
    """The TTL or hop limit of a packet."""
    return int(packet.ttl if IP in packet else packet.hlim)


def echo_request(source: str, to: str) -> Packet:
    """A ping."""
    return ip(source, to) / (ICMP(id=7, seq=1) if version(to) == 4 else ICMPv6EchoRequest(id=7, seq=1))


def is_echo_reply(packet: Packet) -> bool:
    """Tell whether it answers a ping."""
    return ICMPv6EchoReply in packet or (ICMP in packet and packet[ICMP].type == 0)


def error(kind: str, source: str, to: str, about: Packet) -> Packet:
    """An ICMP error that quotes a packet; too big means bigger than 1300 bytes."""
    quoted = bytes(about)
    if version(to) == 4:
        number, code = next(key for key, value in _ICMP_KINDS.items() if value == kind)
        return ip(source, to) / ICMP(type=number, code=code, nexthopmtu=1300 if kind == TOO_BIG else 0) / Raw(quoted)
    layer = {
        UNREACHABLE: ICMPv6DestUnreach(code=4),
        TOO_BIG: ICMPv6PacketTooBig(mtu=1300),
        TIME_EXCEEDED: ICMPv6TimeExceeded(),
    }[kind]
    return ip(source, to) / layer / Raw(quoted)


def error_kind(packet: Packet) -> str:
    """What an ICMP error says; "" when it is none, or another one."""
    if IPv6 in packet:
        return next((kind for layer, kind in _ICMPV6_KINDS.items() if layer in packet), "")
    return _ICMP_KINDS.get((packet[ICMP].type, packet[ICMP].code), "") if ICMP in packet else ""


def quoted(packet: Packet) -> Packet:
    """The packet that an ICMP error quotes."""
    if IPv6 in packet:
        layer = next(layer for layer in _ICMPV6_KINDS if layer in packet)
        return IPv6(bytes(packet[layer].payload))
    return IP(bytes(packet[ICMP].payload))


def transport(packet: Packet) -> Packet:
    """The TCP or UDP header of a packet."""
    return packet[TCP] if TCP in packet else packet[UDP]


def fragments(packet: Packet, size: int = 800) -> list[Packet]:
    """Cut a packet into fragments of at most so many bytes of payload."""
    if IP in packet:
        return list(fragment(packet, fragsize=size))
    header, payload = packet[IPv6].copy(), packet[IPv6].payload.copy()
    header.remove_payload()
    return list(fragment6(header / IPv6ExtHdrFragment(id=0x6B7078) / payload, size))
