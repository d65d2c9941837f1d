"""
Asking a running agent what it found out about endpoints, over the socket that is its lock (docs/decisions/0018).

Whoever connects there is handed a file in memory (memfd_create(2)) with the answer, by one message that always fits, so that no
slow reader can keep the agent waiting. The answer is as old as the question, and gone when the agent is.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from typing import Final

import msgspec

from kpx.agent.lock import NAME
from kpx.model.addresses import format_address, parse_address
from kpx.model.health_check import EndpointHealth, Failing
from kpx.model.names import ObjectName

PATIENCE_S: Final = 2.0
"""How long an agent may take to answer; it may be busy with a round."""

_GREETING: Final = b"kpx health 1\n"
"""Sent along with the descriptor; another number means another format."""


class _Endpoint(msgspec.Struct):
    address: str
    port: int
    why: str


class _Service(msgspec.Struct):
    namespace: str
    name: str
    failing: list[_Endpoint]


def tell(connection: socket.socket, health: Iterable[EndpointHealth]) -> None:
    """Hand what is known to somebody who connected; nothing happens when he is gone already."""
    services = [
        _Service(*one.name, [_Endpoint(format_address(address), port, why) for address, port, why in one.failing])
        for one in health
    ]
    descriptor = os.memfd_create("kpx-health", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(msgspec.json.encode(services))
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            socket.send_fds(connection, [_GREETING], [descriptor])
    finally:
        os.close(descriptor)


def ask(name: str = NAME) -> tuple[EndpointHealth, ...] | None:
    """Return what the agent of this network namespace knows, by Service; None when there is none, or it does not say."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE_S)
        try:
            connection.connect(name)
        except OSError:
            return None
        return receive(connection)


def receive(connection: socket.socket) -> tuple[EndpointHealth, ...] | None:
    """Return what an agent sends over a connection to its lock; None when it is not what `tell` sends."""
    try:
        greeting, descriptors, _, _ = socket.recv_fds(connection, len(_GREETING), 1)
    except OSError:
        return None
    try:
        if greeting != _GREETING or len(descriptors) != 1:
            return None
        with open(descriptors[0], "rb", closefd=False) as file:
            file.seek(0)
            return _read(file.read())
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _read(content: bytes) -> tuple[EndpointHealth, ...]:
    services = msgspec.json.decode(content, type=list[_Service])
    return tuple(
        EndpointHealth(
            ObjectName(one.namespace, one.name),
            tuple(Failing(parse_address(each.address), each.port, each.why) for each in one.failing),
        )
        for one in services
    )
