"""
SCTP without an SCTP socket: INIT and INIT-ACK by scapy on raw sockets, no module is ever loaded (P5).

That is as far as a proxy matters: the first packet decides where an association goes. The INIT-ACK carries the lab's
answer line in its state cookie.
"""

from __future__ import annotations

import socket

from scapy.layers.sctp import (
    SCTP,
    SCTPChunkInit,
    SCTPChunkInitAck,
    SCTPChunkParamStateCookie,
)

TAG = 0x6B7078


def init(source_port: int, port: int) -> bytes:
    """Return an INIT packet, from the SCTP header on, with its CRC32c."""
    chunk = SCTPChunkInit(init_tag=TAG, a_rwnd=65535, n_out_streams=1, n_in_streams=1)
    return bytes(SCTP(sport=source_port, dport=port, tag=0) / chunk)


def init_ack(source_port: int, port: int, tag: int, cookie: bytes) -> bytes:
    """Return an INIT-ACK packet that carries a cookie."""
    padded = cookie + b" " * (-len(cookie) % 4)
    chunk = SCTPChunkInitAck(
        init_tag=TAG, a_rwnd=65535, n_out_streams=1, n_in_streams=1, params=[SCTPChunkParamStateCookie(cookie=padded)]
    )
    return bytes(SCTP(sport=source_port, dport=port, tag=tag) / chunk)


def payload(packet: bytes, family: socket.AddressFamily) -> bytes:
    """Strip the IPv4 header that raw IPv4 sockets deliver and raw IPv6 sockets do not."""
    return packet[(packet[0] & 15) * 4 :] if family == socket.AF_INET else packet


def answer_init(server: socket.socket, name: str, address: str, port: int) -> None:
    """Read one packet; if it is an INIT for the port, send the INIT-ACK that says who was reached and who is seen."""
    packet, peer = server.recvfrom(65535)
    parsed = SCTP(payload(packet, server.family))
    if parsed.dport != port or SCTPChunkInit not in parsed:
        return
    cookie = f"{name} {peer[0]} {parsed.sport}\n".encode()
    server.sendto(init_ack(port, parsed.sport, parsed[SCTPChunkInit].init_tag, cookie), (peer[0], 0))


def cookie_of(packet: bytes, family: socket.AddressFamily, source_port: int) -> bytes | None:
    """Return the cookie if the packet is an INIT-ACK for this source port, else None."""
    parsed = SCTP(payload(packet, family))
    if parsed.dport != source_port or SCTPChunkParamStateCookie not in parsed:
        return None
    return bytes(parsed[SCTPChunkParamStateCookie].cookie).strip()
