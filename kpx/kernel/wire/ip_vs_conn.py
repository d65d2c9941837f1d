"""
The connections IPVS knows, as /proc writes them: there is no netlink message for them.

Source: net/netfilter/ipvs/ip_vs_conn.c, ip_vs_conn_seq_show(). IPv4 addresses are eight hexadecimal digits, IPv6 ones eight
groups.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

_PROTOCOLS: Final = {"TCP": 6, "UDP": 17, "SCTP": 132}


class Connection(NamedTuple):
    """
    One connection, or, with client port 0, a template: where new connections of a client go (session affinity).

    Args:
        client, server, destination: packed addresses. protocol: 0 for a template of a server by firewall mark.
        state: the protocol's, in capitals. expires_in_s: unless a packet or a controlled connection comes.
    """

    protocol: int
    client: bytes
    client_port: int
    server: bytes
    server_port: int
    destination: bytes
    destination_port: int
    state: str
    expires_in_s: int

    @property
    def is_template(self) -> bool:
        """Tell whether this is affinity and not a connection."""
        return self.client_port == 0


def read_connections(lines: Iterable[str]) -> Iterator[Connection]:
    """Read the lines of the file; what is no connection (the heading, or a format of some other kernel) is left out."""
    for line in lines:
        words = line.split()
        if len(words) < 9 or words[0] not in (*_PROTOCOLS, "IP"):
            continue
        try:
            client, server, destination = (_address(words[place]) for place in (1, 3, 5))
            ports = [int(words[place], 16) for place in (2, 4, 6)]
            expires = int(words[8])
        except ValueError:
            continue
        yield Connection(
            _PROTOCOLS.get(words[0], 0), client, ports[0], server, ports[1], destination, ports[2], words[7], expires
        )


def _address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed if ":" in text else bytes.fromhex(text)
