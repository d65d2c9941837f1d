"""
The ipsets of a network namespace: make and remove sets, write and list elements.

A set is shared between all who know its name, so nothing here makes a set over that another made: what it is is asked first.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence

from kpx.errors import CapabilityError, KernelError, PermissionDenied
from kpx.kernel.legible import legible
from kpx.kernel.netlink import Netlink
from kpx.kernel.wire import ipset as wire
from kpx.kernel.wire.ipset import Element, SetShape
from kpx.kernel.wire.ipset_columns import AlikeElements
from kpx.kernel.wire.message import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, Message, message


class IpSets:
    """The sets, through a netfilter netlink socket, which stays the caller's to close."""

    def __init__(self, netlink: Netlink) -> None:
        """
        Ask whether there are sets; the kernel loads the module `ip_set` by itself where that is permitted.

        Raises:
            CapabilityError: there are none here. PermissionDenied: CAP_NET_ADMIN is missing.
        """
        self._netlink = netlink
        try:
            self._request(wire.PROTOCOL, wire.protocol(), "ask for ipset's version")
        except PermissionDenied:
            raise
        except KernelError as error:
            raise CapabilityError(
                f"this kernel has no ipset ({error}): run `modprobe ip_set`, or choose --proxy-mode nftables"
            ) from error

    @legible("list the sets")
    def names(self) -> list[str]:
        """List the names of all sets, whosever they are."""
        return [wire.read_name(*answer) for answer in self._list(wire.list_names(), "list the sets")]

    @legible("describe a set")
    def shape(self, name: str) -> SetShape | None:
        """Return what a set is, None when there is none of this name."""
        answer = self._header(name)
        return None if answer is None else wire.read_shape(*answer)

    @legible("describe a set")
    def count(self, name: str) -> int | None:
        """Return how many elements a set has, without listing them; None when there is no such set."""
        answer = self._header(name)
        if answer is None:
            return None
        told = wire.read_count(*answer)
        return sum(1 for _ in self.elements(name)) if told is None else told

    def create(self, shape: SetShape) -> None:
        """
        Make an empty set; one that is there and is the same is left as it is, elements and all.

        Raises:
            KernelError: EEXIST when a set of this name is of another shape; it is not touched.
            CapabilityError: the kernel has no sets of this kind.
        """
        there = self.shape(shape.name)
        if there == shape:
            return
        if there is not None:
            raise KernelError(f"create set {shape.name}", errno.EEXIST, f"it is {_described(there)}, not {_described(shape)}")
        try:
            self._request(wire.CREATE, wire.create(shape), f"create set {shape.name} ({_described(shape)})")
        except KernelError as error:
            if error.errno == wire.IPSET_ERR_FIND_TYPE:
                module = "ip_set_" + shape.kind.replace(":", "_").replace(",", "")
                raise CapabilityError(f"this kernel has no ipsets of type {shape.kind}: run `modprobe {module}`") from error
            raise

    def destroy(self, name: str) -> None:
        """Remove a set with its elements; one that is not there is no error. A set that a rule refers to is (4100, in use)."""
        try:
            self._request(wire.DESTROY, wire.named(name), f"destroy set {name}")
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise

    def flush(self, name: str) -> None:
        """Remove all elements of a set."""
        self._request(wire.FLUSH, wire.named(name), f"flush set {name}")

    def write(self, changes: Sequence[tuple[str, bool, Sequence[Element]]]) -> list[tuple[int, int, int]]:
        """
        Add and remove elements, in order; each takes effect before the next is looked at.

        Adding what is there sets its timeout anew, removing what is not there does nothing.

        Args:
            changes: (set, True to add and False to remove, elements, `AlikeElements` being the fastest).

        Returns:
            (index of the change, index of its element, errno) for each element that was refused; all others took effect. Numbers
            beyond 4095 are ipset's own (`kpx.kernel.wire.ipset.ERRORS`).
        """
        refused: list[tuple[int, int, int]] = []
        for change, (name, adding, elements) in enumerate(changes):
            kind = wire.ADD if adding else wire.DEL
            refused += [(change, index, number) for index, number in self._write_elements(kind, name, elements)]
        return refused

    def _write_elements(self, kind: int, name: str, elements: Sequence[Element]) -> Iterator[tuple[int, int]]:
        """Write the elements of one change; after a refusal go on behind the element that was refused."""
        start = 0
        while start < len(elements):
            rest = elements[start:] if start else elements
            packed = rest.messages(name) if isinstance(rest, AlikeElements) else wire.element_messages(name, rest)
            for body, first, end in packed:
                refusal = self._send(kind, body)
                if refusal is None:
                    continue
                number, line = refusal
                if not line:  # the message as a whole: no such set, no right to
                    yield from ((start + index, number) for index in range(first, end))
                    continue
                yield start + line - 1, number
                start += line
                break
            else:
                return

    def elements(self, name: str) -> Iterator[Element]:
        """Yield the elements of a set as they come; run it to its end before the next request."""
        with legible(f"list set {name}"):
            for answer in self._list(wire.named(name), f"list set {name}"):
                yield from wire.read_elements(*answer)

    def _header(self, name: str) -> tuple[bytes, Message] | None:
        try:
            described, *_ = self._list(wire.list_header(name), f"describe set {name}")
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return described

    @legible("write elements of a set")
    def _send(self, kind: int, body: bytes) -> tuple[int, int] | None:
        """Send one message; return the errno and the line of what was refused."""
        (sequence,) = self._netlink.sequences(1)
        packed = message(kind, NLM_F_REQUEST | NLM_F_ACK, sequence, body)
        refusal = None
        for datagram, reply, answer in self._netlink.complaints(packed, sequence, sequence):
            refusal = answer.errno, wire.refused_line(datagram, reply)
        return refusal

    def _request(self, kind: int, body: bytes, what: str) -> list[tuple[bytes, Message]]:
        (sequence,) = self._netlink.sequences(1)
        try:
            return self._netlink.request(message(kind, NLM_F_REQUEST | NLM_F_ACK, sequence, body), sequence, what)
        except KernelError as error:
            raise _worded(error) from error

    def _list(self, body: bytes, what: str) -> Iterator[tuple[bytes, Message]]:
        (sequence,) = self._netlink.sequences(1)
        # Kernels differ in whether a set that is not there is told without NLM_F_ACK.
        asked = message(wire.LIST, NLM_F_REQUEST | NLM_F_ACK | NLM_F_DUMP, sequence, body)
        return self._netlink.dump(asked, sequence, what)


def _worded(error: KernelError) -> KernelError:
    words = wire.ERRORS.get(error.errno)
    return KernelError(error.operation, error.errno, words) if words else error


def _described(shape: SetShape) -> str:
    timeouts = ", timeouts" if shape.timeout else ""
    return f"{shape.kind}, IPv{shape.family}, at most {shape.max_elements} elements{timeouts}"
