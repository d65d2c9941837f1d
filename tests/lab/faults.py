"""
Netlink sockets on which something goes wrong, for tests of what is above them.

They are real sockets to the kernel of this namespace. At chosen calls they do what a kernel in trouble does: refuse to send or to
receive, refuse a message, lose an answer and say so, cut one, or deliver two in the other order. A message that is refused never
reaches the kernel, so what the kernel holds is what it would hold had it refused by itself; of a transaction of nf_tables that is
nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from kpx.kernel.netlink import NETLINK_GENERIC, RECEIVE_BYTES, TIMEVAL, Netlink, open_socket
from kpx.kernel.wire import nft
from kpx.kernel.wire.message import HEADER_BYTES, NLM_F_ACK, NLMSG_ERROR, Message, message, messages
from tests.lab.netns import PATIENCE

SILENCE_S = 0.1 * PATIENCE
"""How long these sockets wait for an answer. The kernel answers before it returns from send(2)."""

_ERRNO = struct.Struct("=i")


class Fault(NamedTuple):
    """
    One way to go wrong.

    Args:
        call: "send", "receive", or "refuse" for a message that is refused with `number`.
        number: errno. 0: see `name`.
    """

    name: str
    call: str
    number: int = 0


def _numbered(call: str, *names: str) -> tuple[Fault, ...]:
    return tuple(Fault(f"{call} {name}", call, getattr(errno, name)) for name in names)


REFUSALS = _numbered("refuse", "EBUSY", "ENOMEM", "EPERM", "ENOSPC")
FAULTS = (
    *_numbered("send", "ENOBUFS", "EAGAIN", "EINTR", "ENOMEM", "EPERM"),
    *_numbered("receive", "EAGAIN", "EINTR", "ENOMEM"),
    # An answer that found no room is lost, and the next call says so (netlink(7)).
    *_numbered("receive", "ENOBUFS"),
    Fault("silence", "receive"),
    Fault("cut", "receive"),
    Fault("cut without a word", "receive"),
    Fault("in the other order", "receive"),
    *REFUSALS,
    Fault("refuse all ENOMEM", "refuse", errno.ENOMEM),
    Fault("refuse all EPERM", "refuse", errno.EPERM),
    Fault("others delete", "send"),
)


class Strike(NamedTuple):
    """
    A fault, and where it strikes.

    Args:
        at: at which call of its kind, counted over all sockets from 0. part: which message of the datagram, or which byte, modulo
            how many there are.
    """

    fault: Fault
    at: int
    part: int = 0


class Faults:
    """
    What goes wrong, on all sockets of one agent.

    Args:
        strikes: each strikes once.
        others: what "others delete" does.

    Attributes:
        calls: how many there were, by kind. struck: the faults that did strike.
        refuses: the errno with which a message is refused, each time it is sent; 0 for none.
    """

    def __init__(self, strikes: Iterable[Strike] = (), others: Callable[[], object] = lambda: None) -> None:
        self._strikes = list(strikes)
        self._others = others
        self.calls = {"send": 0, "receive": 0, "refuse": 0}
        self.struck: list[Fault] = []
        self.refuses: Callable[[bytes], int] = lambda _: 0

    def strike(self, *strikes: Strike) -> None:
        """Let more go wrong."""
        self._strikes += strikes

    def end(self) -> None:
        """Let nothing go wrong any more."""
        self._strikes.clear()
        self.refuses = lambda _: 0

    def due(self, call: str) -> Strike | None:
        """Count a call; return what strikes at it."""
        number = self.calls[call]
        self.calls[call] += 1
        found = next((each for each in self._strikes if each.fault.call == call and each.at == number), None)
        if found:
            self.struck.append(found.fault)
            if found.fault.name == "others delete":
                self._others()
        return found

    def netlink(self, protocol: int) -> Netlink:
        """Open a socket on which this goes wrong."""
        return Netlink(protocol, FaultySocket(protocol, self))


class FaultySocket(socket.socket):
    """A netlink socket on which `faults` go wrong."""

    def __init__(self, protocol: int, faults: Faults) -> None:
        super().__init__(fileno=open_socket(protocol).detach())
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, TIMEVAL.pack(int(SILENCE_S), int(SILENCE_S % 1 * 1e6)))
        self._faults = faults
        self._is_generic = protocol == NETLINK_GENERIC
        self._ahead: deque[bytes] = deque()
        """Answers that come before what the kernel has queued."""
        self._behind: deque[bytes] = deque()
        """Answers that come after it."""

    def send(self, datagram: Any, *flags: int) -> int:
        """Send, unless that goes wrong."""
        strike = self._faults.due("send")
        if strike and strike.fault.number:
            raise OSError(strike.fault.number, os.strerror(strike.fault.number))
        whole = bytes(datagram)
        parts = list(messages(whole))
        refused = {index: number for index, part in enumerate(parts) if (number := self._refuses(whole, part))}
        strike = self._faults.due("refuse")
        if strike:
            inner = range(1, len(parts) - 1) if _is_batch(parts) else range(len(parts))
            all_of_it = strike.fault.name.startswith("refuse all") and _is_batch(parts)
            refused[0 if all_of_it else inner[strike.part % len(inner)]] = strike.fault.number
        if not refused:
            super().send(whole)
        elif _is_batch(parts):
            self._abort(whole, parts, refused)
        else:
            self._leave_out(whole, parts, refused)
        return len(whole)

    def _refuses(self, whole: bytes, part: Message) -> int:
        return self._faults.refuses(whole[part.start - HEADER_BYTES : part.end])

    def _abort(self, whole: bytes, parts: list[Message], refused: dict[int, int]) -> None:
        """Answer as nf_tables does to a transaction it takes nothing of."""
        if 0 in refused:
            self._ahead.append(_refusal(whole, parts[0], refused[0]))
            return
        for index, part in enumerate(parts):
            if index in refused or part.flags & NLM_F_ACK:
                self._ahead.append(_refusal(whole, part, refused.get(index, 0)))

    def _leave_out(self, whole: bytes, parts: list[Message], refused: dict[int, int]) -> None:
        """Answer as the kernel does to messages that are done each by itself."""
        last = len(parts) - 1
        rest = [whole[p.start - HEADER_BYTES : p.end] for index, p in enumerate(parts) if index not in refused]
        for index, number in refused.items():
            (self._behind if index == last else self._ahead).append(_refusal(whole, parts[index], number))
        if rest:
            super().send(b"".join(rest))

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive, unless that goes wrong."""
        # A call that only looks whether there is more counts when there is.
        first = self._next(flags)
        strike = self._faults.due("receive")
        if strike is None:
            return _give(first, buffer, flags)
        fault = strike.fault
        if fault.number:
            if fault.number != errno.ENOBUFS:
                self._ahead.appendleft(first)
            raise OSError(fault.number, os.strerror(fault.number))
        if fault.name == "silence":
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._next(socket.MSG_DONTWAIT)
            raise BlockingIOError(errno.EAGAIN, "silence")
        if fault.name == "in the other order":
            with contextlib.suppress(BlockingIOError):
                second = self._next(socket.MSG_DONTWAIT)
                self._ahead.appendleft(first)
                first = second
            return _give(first, buffer, flags)
        whole_ends = {part.end for part in messages(first)}
        length = 1 + strike.part % (len(first) - 1)
        length -= 8 if length in whole_ends else 0
        size = _give(first[:length], buffer, flags)
        # With MSG_TRUNC the kernel says how much there was.
        return RECEIVE_BYTES + 1 if fault.name == "cut" else size

    def _next(self, flags: int) -> bytes:
        if self._ahead:
            return self._ahead.popleft()
        try:
            return super().recv(1 << 20, flags | (socket.MSG_DONTWAIT if self._behind else 0))
        except BlockingIOError:
            if not self._behind:
                raise
            return self._behind.popleft()


def _give(datagram: bytes, buffer: Any, flags: int) -> int:
    """Put what fits into the buffer; return what recv(2) returns."""
    room = len(buffer)
    buffer[: min(room, len(datagram))] = datagram[:room]
    return len(datagram) if flags & socket.MSG_TRUNC else min(room, len(datagram))


def _is_batch(parts: list[Message]) -> bool:
    return parts[0].kind == nft.NFNL_MSG_BATCH_BEGIN


def _refusal(whole: bytes, part: Message, number: int) -> bytes:
    """The kernel's answer to a message; it quotes the header (NETLINK_CAP_ACK)."""
    header = whole[part.start - HEADER_BYTES : part.start]
    return message(NLMSG_ERROR, 0, part.sequence, _ERRNO.pack(-number) + header)
