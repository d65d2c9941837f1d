"""
The door to the kernel: netlink sockets opened through pyroute2.

Datagrams are packed by `kpx.kernel.wire` and sent as they are; pyroute2 opens the sockets. One thread only.
Send and receive buffers are raised past the system's limit where CAP_NET_ADMIN allows it, since a first sync is one datagram
of some ten megabytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator

from pyroute2.netns import create_socket

from kpx.errors import CapabilityError, KernelError, NoAnswer, PermissionDenied
from kpx.kernel.legible import legible
from kpx.kernel.wire.message import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    Acknowledgement,
    Message,
    acknowledgement,
    end_of_dump,
    messages,
)

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NETLINK_GENERIC = 16
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
TIMEVAL = struct.Struct("@ll")

BUFFER_BYTES = 32 << 20
RECEIVE_BYTES = 1 << 20
TIMEOUT_S = 30.0
"""How long the kernel may take for one answer; a commit of a million elements takes a few seconds."""


def open_socket(protocol: int, groups: tuple[int, ...] = ()) -> socket.socket:
    """
    Open a netlink socket in this network namespace.

    Raises:
        CapabilityError: the kernel has no such protocol. PermissionDenied, KernelError: a group cannot be joined.
    """
    try:
        opened: socket.socket = create_socket(
            None, family=socket.AF_NETLINK, socket_type=socket.SOCK_RAW | socket.SOCK_CLOEXEC, proto=protocol
        )
    except OSError as error:
        raise CapabilityError(f"this kernel has no netlink protocol {protocol} ({error.strerror})") from error
    for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
        with contextlib.suppress(PermissionError):
            opened.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    opened.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
    opened.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
    # By the kernel: Python's own timeout would wait in calls that are not to wait, and costs a poll(2) for each.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, TIMEVAL.pack(int(TIMEOUT_S), 0))
    opened.bind((0, 0))
    try:
        for group in groups:
            opened.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    except OSError as error:
        opened.close()
        kind = PermissionDenied if error.errno == errno.EPERM else KernelError
        raise kind("subscribe to netlink notifications", error.errno or errno.EIO) from error
    return opened


class Netlink:
    """A netlink socket: transactions, requests and dumps, one at a time."""

    def __init__(self, protocol: int = NETLINK_NETFILTER, opened: socket.socket | None = None) -> None:
        """
        Take the place of whoever speaks on a socket.

        Args:
            opened: a socket of this protocol instead of a fresh one.
        """
        self._socket = opened or open_socket(protocol)
        # Allocated once: a megabyte for each answer takes seven times as long as receiving it.
        self._buffer = bytearray(RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._sequence = int.from_bytes(os.urandom(3), "big")
        self._answered = True
        self.interrupted = False
        self.datagrams = 0
        self.written_bytes = 0

    @property
    def port(self) -> int:
        """The port id the kernel knows this socket by; notifications of what it did carry it."""
        port: int = self._socket.getsockname()[0]
        return port

    @property
    def datagram_max_bytes(self) -> int:
        """The largest datagram the socket can send."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2 - 4096

    def sequences(self, count: int) -> range:
        """Reserve sequence numbers, which tell answers apart."""
        first = self._sequence + 1
        self._sequence += count
        return range(first, first + count)

    def transact(self, datagram: bytes, first: int, last: int) -> list[Acknowledgement]:
        """
        Send a transaction and return the kernel's complaints; none means it took effect.

        Args:
            datagram: batch begin, messages, batch end.
            first: sequence number of batch begin. last: of the only message that asks for an acknowledgement.

        Raises:
            PermissionDenied, KernelError: the transaction as a whole was refused.
        """
        complaints: list[Acknowledgement] = []
        for _, _, answer in self.complaints(datagram, first, last):
            if answer.sequence == first:
                raise refusal("nf_tables transaction", answer)
            complaints.append(answer)
        return complaints

    def complaints(self, datagram: bytes | bytearray, first: int, last: int) -> Iterator[tuple[bytes, Message, Acknowledgement]]:
        """
        Send messages and yield the kernel's complaints, each with the datagram and the message it came in.

        Args:
            datagram: messages, of which only the last asks for an acknowledgement.
            first, last: sequence numbers of the first and the last message.

        Raises:
            NoAnswer: not all answers came. KernelError: nothing was sent.
        """
        for received, reply in self._answers(datagram, first, last, NLMSG_ERROR):
            if reply.kind == NLMSG_ERROR:
                answer = _read(acknowledgement, received, reply)
                if answer.errno:
                    yield received, reply, answer

    def request(self, datagram: bytes, sequence: int, what: str) -> list[tuple[bytes, Message]]:
        """
        Send one message that asks for an acknowledgement; return what came besides.

        Raises:
            PermissionDenied, KernelError: the kernel refused; `what` names the request. NoAnswer: nobody knows.
        """
        answers: list[tuple[bytes, Message]] = []
        for received, reply in self._answers(datagram, sequence, sequence, NLMSG_ERROR):
            if reply.kind != NLMSG_ERROR:
                answers.append((received, reply))
            elif (answer := _read(acknowledgement, received, reply)).errno:
                raise refusal(what, answer)
        return answers

    def ask(self, datagram: bytes, sequence: int, what: str) -> tuple[bytes, Message]:
        """Send a request that has an answer besides its acknowledgement, and return that; raises as `request` does."""
        answers = self.request(datagram, sequence, what)
        if not answers:
            raise NoAnswer(what, errno.EBADMSG, "the kernel acknowledged and told nothing")
        return answers[0]

    def dump(self, datagram: bytes, sequence: int, what: str) -> Iterator[tuple[bytes, Message]]:
        """
        Send a dump request and yield its messages as they come, so that a large table is never held whole.

        The generator must be run to its end before the next request. `interrupted` tells afterwards whether the table changed
        meanwhile (U9).

        Raises:
            PermissionDenied, KernelError: the kernel refused, or gave up midway; `what` names the request.
            NoAnswer: not all came.
        """
        self.interrupted = False
        for received, reply in self._answers(datagram, sequence, sequence, NLMSG_DONE):
            self.interrupted = self.interrupted or bool(reply.flags & NLM_F_DUMP_INTR)
            if reply.kind in (NLMSG_ERROR, NLMSG_DONE):
                answer = _read(acknowledgement if reply.kind == NLMSG_ERROR else end_of_dump, received, reply)
                if answer.errno:
                    raise refusal(what, answer)
            else:
                yield received, reply

    def close(self) -> None:
        """Close the socket; nothing in the kernel changes."""
        self._socket.close()

    def _answers(self, datagram: bytes | bytearray, first: int, last: int, end: int) -> Iterator[tuple[bytes, Message]]:
        """
        Send messages and yield what answers to them.

        Args:
            end: the kind of message that answers `last` when nothing more is to come; an error always does.
        """
        self._forget_answers()
        self._send(datagram)
        self._answered = ended = False
        # When the last answer has come all others are queued; one that came in another order must not be missed.
        while (received := self._receive(socket.MSG_DONTWAIT if ended else 0)) is not None:
            try:
                replies = list(messages(received))
            except ValueError as error:
                raise NoAnswer("netlink receive", errno.EBADMSG, str(error)) from error
            for reply in replies:
                if first <= reply.sequence <= last:
                    ended = ended or (reply.sequence == last and reply.kind in (end, NLMSG_ERROR))
                    yield received, reply
        self._answered = True

    def _forget_answers(self) -> None:
        """
        Read away what was not read of the request before.

        The kernel refuses a dump (EBUSY) while another one of the same socket is not read to its end.
        """
        while not self._answered:
            try:
                self._answered = self._receive(socket.MSG_DONTWAIT) is None
            except NoAnswer as error:
                if error.errno not in (errno.ENOBUFS, errno.EINTR, errno.EMSGSIZE):
                    raise

    def _send(self, datagram: bytes | bytearray) -> None:
        self.datagrams += 1
        self.written_bytes += len(datagram)
        try:
            self._socket.send(datagram)
        except OSError as error:
            remedy = "raise net.core.wmem_max or give kpx CAP_NET_ADMIN" if error.errno == errno.EMSGSIZE else ""
            raise KernelError("netlink send", error.errno or errno.EIO, remedy) from error

    def _receive(self, flags: int) -> bytes | None:
        """Return the next datagram; None when there is none and `flags` say not to wait."""
        try:
            size = self._socket.recv_into(self._buffer, 0, flags | socket.MSG_TRUNC)
        except BlockingIOError as error:
            if flags & socket.MSG_DONTWAIT:
                return None
            raise NoAnswer("netlink receive", errno.ETIMEDOUT, f"no answer within {TIMEOUT_S:.0f} s") from error
        except OSError as error:
            raise NoAnswer("netlink receive", error.errno or errno.EIO) from error
        if size > RECEIVE_BYTES:
            raise NoAnswer("netlink receive", errno.EMSGSIZE, f"an answer of {size} bytes was cut")
        return bytes(self._view[:size])


def _read(read: Callable[[bytes, Message], Acknowledgement], received: bytes, reply: Message) -> Acknowledgement:
    with legible("netlink receive"):
        return read(received, reply)


def refusal(what: str, answer: Acknowledgement) -> KernelError:
    """Turn a negative answer into the error to raise."""
    kind = PermissionDenied if answer.errno in (errno.EPERM, errno.EACCES) else KernelError
    return kind(what, answer.errno, answer.text)
