"""
Servers that say who they are and whom they see.

The answer to anything is one line: `<name> <client address> <client port>`, name and addresses without blanks. TCP says it
on accept and again for every line it gets, so that a connection can be asked later whether it still lives. One thread
serves all sockets of all namespaces; a socket belongs to the namespace it was opened in.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
from collections.abc import Callable

from tests.lab.netns import Namespace

IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75
SOCKET_PROTOCOL = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": 132}


def socket_family(address: str) -> socket.AddressFamily:
    """The socket family an address needs."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def answer(name: str, client: str, port: int) -> bytes:
    """What a server says."""
    return f"{name} {client} {port}\n".encode()


def open_socket(namespace: Namespace, address: str, protocol: str) -> socket.socket:
    """Open a non-blocking socket inside a namespace; SCTP is raw, for no SCTP module may be loaded (P5)."""
    kind = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM, "SCTP": socket.SOCK_RAW}[protocol]
    with namespace.entered():
        return socket.socket(socket_family(address), kind | socket.SOCK_NONBLOCK, SOCKET_PROTOCOL[protocol])


class Responder:
    """All servers of a lab; `close` ends them. A second server on the same address and port is refused by the kernel."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._on_readable: dict[int, Callable[[], None]] = {}
        self._sockets: dict[int, socket.socket] = {}
        self._wake, wakes = socket.socketpair()
        self._running = True
        self._watch(wakes, lambda: None)
        self._thread = threading.Thread(target=self._serve, name="lab-servers", daemon=True)
        self._thread.start()

    def listen(self, namespace: Namespace, name: str, protocol: str, address: str, port: int) -> None:
        """Serve on an address and port; packets are answered as soon as this returns."""
        server = open_socket(namespace, address, protocol)
        # The fabric answers for addresses it does not have.
        level, option = (socket.IPPROTO_IPV6, IPV6_TRANSPARENT) if ":" in address else (socket.IPPROTO_IP, IP_TRANSPARENT)
        server.setsockopt(level, option, 1)
        if protocol == "TCP":
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, port))
            server.listen(128)
            self._watch(server, lambda: self._accept(server, name))
        elif protocol == "UDP":
            server.bind((address, port))
            self._watch(server, lambda: _answer_datagram(server, name))
        else:
            from tests.lab import sctp

            server.bind((address, 0))
            self._watch(server, lambda: sctp.answer_init(server, name, address, port))

    def close(self) -> None:
        """Stop serving; connections that are open are cut."""
        self._running = False
        self._wake.send(b"x")
        self._thread.join()
        for each in [*self._sockets.values(), self._wake]:
            each.close()
        self._epoll.close()

    def _watch(self, watched: socket.socket, on_readable: Callable[[], None]) -> None:
        self._sockets[watched.fileno()] = watched
        self._on_readable[watched.fileno()] = on_readable
        self._epoll.register(watched.fileno(), select.EPOLLIN)

    def _serve(self) -> None:
        while self._running:
            for descriptor, _ in self._epoll.poll():
                # A client that has gone, or that no route leads back to, is its own loss and not the server's.
                with contextlib.suppress(OSError):
                    self._on_readable[descriptor]()

    def _accept(self, server: socket.socket, name: str) -> None:
        connection, peer = server.accept()
        connection.setblocking(False)
        greeting = answer(name, peer[0], peer[1])
        try:
            connection.send(greeting)
        except OSError:
            # Whoever only wanted to know whether somebody listens has gone already.
            connection.close()
            return
        self._watch(connection, lambda: self._answer_line(connection, greeting))

    def _answer_line(self, connection: socket.socket, greeting: bytes) -> None:
        try:
            if connection.recv(4096):
                connection.send(greeting)
                return
        except ConnectionError:
            pass
        self._epoll.unregister(connection.fileno())
        del self._sockets[connection.fileno()], self._on_readable[connection.fileno()]
        connection.close()


def _answer_datagram(server: socket.socket, name: str) -> None:
    _, peer = server.recvfrom(65535)
    server.sendto(answer(name, peer[0], peer[1]), peer)


def main(arguments: list[str]) -> None:
    """
    Serve in the namespace of this process until it is killed: `NAME PROTOCOL ADDRESS PORT [PROTOCOL ADDRESS PORT ...]`.

    Writes `ready` and a newline to stdout once everything listens.
    """
    name, rest = arguments[0], arguments[1:]
    here = Namespace.current(name)
    responder = Responder()
    for protocol, address, port in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        responder.listen(here, name, protocol, address, int(port))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
