"""
Probes: one new flow, and what became of it.

An outcome is what a client can tell without privileges: answered (by whom, and as whom the server saw it), refused at
once, or silence.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import select
import socket
import time
from typing import NamedTuple

from tests.lab.netns import PATIENCE, Namespace
from tests.lab.traffic import open_socket

ANSWER_S = 0.6 * PATIENCE
"""How long an answer may take."""
SILENCE_S = 0.2 * PATIENCE
"""How long silence is listened to where it is expected: many times as long as an answer takes."""
IP_RECVERR = 11
IPV6_RECVERR = 25
REFUSALS = {errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE}
UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.ENOPROTOOPT, errno.EPROTO}
_source_ports = itertools.cycle(range(20000, 30000))


class Outcome(NamedTuple):
    """
    What a client saw.

    Args:
        verdict: "answered", "refused" (a port unreachable or a reset), "unreachable" (another ICMP error) or "silence".
        server: who answered; "" unless answered.
        seen: the client's address as the server saw it.
        seen_port: likewise its port, 0 unless answered.
    """

    verdict: str
    server: str = ""
    seen: str = ""
    seen_port: int = 0

    def __str__(self) -> str:
        return f"answered by {self.server}, seen as {self.seen}:{self.seen_port}" if self.server else self.verdict


class Flow:
    """
    A client's end of a flow; `ask` may be called again later to see whether the flow still works.

    Args:
        source: the client's address; "" lets the kernel choose.
        source_port: 0 for any.
    """

    def __init__(
        self, namespace: Namespace, protocol: str, source: str, destination: str, port: int, source_port: int = 0
    ) -> None:
        self.protocol = protocol
        self._destination = (destination, port)
        self._connected = False
        self._question_bytes = 5
        self._socket = open_socket(namespace, destination, protocol)
        self._source_port = source_port or (next(_source_ports) if protocol == "SCTP" else 0)
        if protocol == "TCP":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # veth delivers within the sender's own system call. A refusal that arrives while connect(2) still holds
            # the socket is dropped (LockDroppedIcmps) until the SYN goes out again a second later, unless it is queued.
            level, option = (socket.IPPROTO_IPV6, IPV6_RECVERR) if ":" in destination else (socket.IPPROTO_IP, IP_RECVERR)
            self._socket.setsockopt(level, option, 1)
        if source or source_port:
            anywhere = "::" if ":" in destination else "0.0.0.0"
            self._socket.bind((source or anywhere, 0 if protocol == "SCTP" else source_port))

    def ask(self, timeout_s: float = ANSWER_S, question_bytes: int = 5) -> Outcome:
        """Send something, over UDP so much of it, and wait for what comes back, at most this long."""
        self._question_bytes = question_bytes
        deadline = time.monotonic() + timeout_s
        try:
            self._send(deadline)
            return self._receive(deadline)
        except TimeoutError:
            return Outcome("silence")
        except OSError as error:
            if error.errno in REFUSALS:
                return Outcome("refused")
            if error.errno in UNREACHABLE:
                return Outcome("unreachable")
            raise

    def close(self) -> None:
        """End the flow."""
        self._socket.close()

    def _send(self, deadline: float) -> None:
        if self.protocol == "TCP" and not self._connected:
            code = self._socket.connect_ex(self._destination)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, "connect")
            self._wait(select.POLLOUT, deadline)
            self._connected = True
            return
        if not self._connected:
            self._socket.connect((self._destination[0], 0) if self.protocol == "SCTP" else self._destination)
            self._connected = True
        # A rule in the output hook may say no: a drop shows as silence, a reject as an ICMP error that is read next.
        with contextlib.suppress(PermissionError):
            self._socket.send(self._question())

    def _question(self) -> bytes:
        if self.protocol != "SCTP":
            return b"who?\n".rjust(self._question_bytes)
        from tests.lab import sctp

        return sctp.init(self._source_port, self._destination[1])

    def _receive(self, deadline: float) -> Outcome:
        while True:
            self._wait(select.POLLIN, deadline)
            data = self._socket.recv(65535)
            if self.protocol == "SCTP":
                from tests.lab import sctp

                data = sctp.cookie_of(data, self._socket.family, self._source_port) or b""
            elif not data:
                raise ConnectionResetError(errno.ECONNRESET, "closed by the server")
            if data:
                server, seen, seen_port = data.decode().splitlines()[-1].split()
                return Outcome("answered", server, seen, int(seen_port))

    def _wait(self, events: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, events)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, "socket")


def probe(
    namespace: Namespace,
    protocol: str,
    source: str,
    destination: str,
    port: int,
    source_port: int = 0,
    timeout_s: float = ANSWER_S,
) -> Outcome:
    """Open one new flow and tell what became of it."""
    flow = Flow(namespace, protocol, source, destination, port, source_port)
    try:
        return flow.ask(timeout_s)
    finally:
        flow.close()
