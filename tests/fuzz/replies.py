"""Replies of a kernel that lays them out otherwise, or that are cut, or whose lengths lie."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

from hypothesis import strategies as st
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from kpx.dataplanes.nftables import observe, watch
from kpx.errors import KpxError
from kpx.kernel.conntrack import ConntrackFlows
from kpx.kernel.ipset import IpSets
from kpx.kernel.ipvs import Ipvs
from kpx.kernel.legible import legible
from kpx.kernel.netlink import Netlink
from kpx.kernel.netlink_addresses import addresses_in
from kpx.kernel.wire import conntrack, generic, ipset, ipvs, nft, nft_element
from kpx.kernel.wire.attr import attr, be32, nested, string
from kpx.kernel.wire.message import HEADER_BYTES, NLM_F_MULTI, NLMSG_DONE, NLMSG_ERROR, message, nfgenmsg
from kpx.model.addresses import Family

KINDS = (
    NLMSG_ERROR, NLMSG_DONE, 0, 0x10, 0x20, conntrack.IPCTNL_MSG_CT_NEW,
    *(6 << 8 | kind for kind in (7, 12)), *(10 << 8 | kind for kind in (0, 3, 6, 9, 12)),
)  # fmt: skip


def _join(fields: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(attr(kind & 0xFFFF, payload[:60_000]) for kind, payload in fields)


TREES = st.recursive(
    st.binary(max_size=20),
    lambda inner: st.lists(st.tuples(st.integers(0, 30) | st.integers(0x8000, 0x8010), inner), max_size=5).map(_join),
    max_leaves=12,
)
_OURS = nfgenmsg(2) + string(1, "kpx") + string(2, "x")
_KEY = ipvs.ServerKey(4, b"\x0a\x60\0\1", 6, 80)
_FLOW = conntrack.Flow(4, 17, b"\x0a\1\1\1", b"\x0a\1\1\2", 1, 2, b"\x0a\1\1\3", 3, b"\x0a\1\1\1", 4, 0, 7)
_CT = conntrack.delete_request(_FLOW, 1)[HEADER_BYTES:]
_VALUE = nft_element.element(b"k" * 16, nft_element.value_data(b"v" * 8))
_VERDICT = nft_element.element(b"k" * 12, nft_element.verdict_data(-4, "pick-2"))
RIGHT = (
    nfgenmsg(2) + string(1, "kpx") + string(2, "frontends") + be32(3, 8) + be32(4, 1) + be32(5, 8) + be32(6, 0),
    nfgenmsg(2) + string(1, "kpx") + string(2, "pick-2") + attr(7, b"\0\5kpx\0\0"),
    *(
        head
        for head, _, _ in nft_element.element_messages(
            2, "kpx", "endpoints", [nft_element.element(b"k" * 16, nft_element.value_data(b"v" * 8))] * 3
        )
    ),
    *(
        head
        for head, _, _ in nft_element.element_messages(
            2, "kpx", "frontends", [nft_element.element(b"k" * 12, nft_element.verdict_data(-4, "pick-2"))] * 3
        )
    ),
    generic.genlmsghdr(1) + string(2, "IPVS") + attr(1, b"\x20\0"),
    ipvs.server_message(ipvs.NEW_SERVER, _KEY, ipvs.ServerSettings("rr", 0, 0)),
    ipvs.destination_message(ipvs.NEW_DESTINATION, _KEY, ipvs.Destination(b"\x0a\1\1\1", 80), 1),
    *(body for body, _, _ in ipset.element_messages("KPX-X", [ipset.Element(b"\x0a\1\1\1", None, 6, 80)] * 2)),
    ipset.create(ipset.SetShape("KPX-X", "hash:ip", 4, 10)),
    _CT,
    _CT + nested(conntrack.CTA_TUPLE_REPLY, _CT[8:]),
)
"""Payloads that are what some reader wants, or nearly."""


class Reply(NamedTuple):
    """A message of an answer; `flags` as in the netlink header."""

    kind: int
    flags: int
    payload: bytes


REPLIES = st.builds(
    Reply,
    st.sampled_from(KINDS),
    st.sampled_from([0, NLM_F_MULTI, 0x10, 0x200, 0x300]),
    st.sampled_from(RIGHT) | TREES | st.binary(max_size=24) | TREES.map(lambda tree: _OURS + tree),
)
BENDS = st.tuples(st.integers(0, 400), st.sampled_from([0, 1, 3, 4, 5, 8, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))


@st.composite
def conversations(draw: st.DrawFn) -> list[list[bytes]]:
    """For each request, the datagrams that answer it: messages without sequence numbers, some bytes of which were changed."""
    return draw(st.lists(st.lists(datagrams(), max_size=3), min_size=1, max_size=6))


@st.composite
def datagrams(draw: st.DrawFn) -> bytes:
    """A datagram."""
    replies = draw(st.lists(REPLIES, min_size=1, max_size=3))
    data = bytearray(b"".join(message(kind, flags, 0, payload + bytes(-len(payload) % 4)) for kind, flags, payload in replies))
    for place, value in draw(st.lists(BENDS, max_size=3)):
        data[place % len(data)] = value
    return bytes(data[: draw(st.integers(1, len(data)))] if not draw(st.integers(0, 6)) else data)


class _Answering:
    """What a `Netlink` does with its socket: each request is answered with the next of what was prepared, and DONE in the end."""

    def __init__(self, said: list[list[bytes]]) -> None:
        self._said = list(said)
        self._queue: list[bytes] = []
        self.requests = 0

    def send(self, data: bytes) -> int:
        self.requests += 1
        assert self.requests < 200, "it asks again and again"
        (sequence,) = struct.unpack_from("=I", data, 8)
        prepared = self._said.pop(0) if self._said else []
        self._queue = [_numbered(datagram, sequence) for datagram in prepared]
        self._queue += [message(NLMSG_DONE, NLM_F_MULTI, sequence, bytes(4)), message(NLMSG_ERROR, 0, sequence, bytes(4))]
        return len(data)

    def recv_into(self, buffer: Any, _size: int = 0, _flags: int = 0) -> int:
        if not self._queue:
            raise BlockingIOError
        datagram = self._queue.pop(0)
        memoryview(buffer)[: len(datagram)] = datagram
        return len(datagram)

    def getsockopt(self, *_: int) -> int:
        return 1 << 20

    def close(self) -> None:
        """There is nothing to close."""


def _numbered(datagram: bytes, sequence: int) -> bytes:
    """Give all messages, as far as lengths lead, the sequence number of the request."""
    data, position = bytearray(datagram), 0
    while position + HEADER_BYTES <= len(data):
        struct.pack_into("=I", data, position + 8, sequence)
        (length,) = struct.unpack_from("=I", data, position)
        if length < HEADER_BYTES:
            break
        position += (length + 3) & ~3
    return bytes(data)


def answering(said: list[list[bytes]]) -> Netlink:
    """Return a socket that answers each request with the next of what was prepared."""
    return Netlink(opened=cast(socket.socket, _Answering(said)))


def check_nftables(said: list[list[bytes]]) -> None:
    """Read our tables."""
    with contextlib.suppress(KpxError):
        observe.misshapen(answering(said), Family.IPV4)
    with contextlib.suppress(KpxError):
        observe.observe_family(answering([[], *said]), Family.IPV4)
    for name in ("endpoints", "frontends", "affinity"):
        with contextlib.suppress(KpxError):
            observe.elements_of(answering(said), Family.IPV4, name)
    sets = [[message(10 << 8 | 9, 0, 0, nfgenmsg(2) + string(1, "kpx") + string(2, schema.name)) for schema in observe.SCHEMAS]]
    with contextlib.suppress(KpxError):
        observe.observe_family(answering([[], *sets, *(list(answer) for answer in said * 10)]), Family.IPV4)
    for datagram in (datagram for answer in said for datagram in answer):
        with contextlib.suppress(ValueError):  # it ends within a message, which `Notifications` takes for a lost one
            watch._about_us(datagram)
    with contextlib.suppress(KpxError):
        answering(said).transact(nft.batch_begin(1), 1, 2)


def check_ipset(said: list[list[bytes]]) -> None:
    """List sets and their elements, and write some."""
    with contextlib.suppress(KpxError):
        sets = IpSets(answering([[], *said]))
        for ask in (sets.names, lambda: sets.shape("KPX-X"), lambda: sets.count("KPX-X"), lambda: list(sets.elements("KPX-X"))):
            with contextlib.suppress(KpxError):
                ask()
        sets.write([("KPX-X", True, [ipset.Element(b"\x0a\1\1\1", None, 6, 80)])])


def check_ipvs(said: list[list[bytes]]) -> None:
    """List virtual servers and destinations."""
    found = message(16, 0, 0, generic.genlmsghdr(1) + string(2, "IPVS") + attr(1, b"\x20\0"))
    version = message(0x20, 0, 0, generic.genlmsghdr(1) + attr(1, b"\1\2\1\0"))
    with contextlib.suppress(KpxError):
        Ipvs(answering(said))
    with contextlib.suppress(KpxError):
        plane = Ipvs(answering([[found], [version], *said]))
        for ask in (plane.servers, lambda: plane.destinations(_KEY), plane.timeouts, lambda: plane.write([ipvs.dump_servers()])):
            with contextlib.suppress(KpxError):
                ask()


def check_conntrack(said: list[list[bytes]]) -> None:
    """List tracked flows, and delete those that were told of."""
    flows = ConntrackFlows(answering(said))
    with contextlib.suppress(KpxError):
        flows.delete(flows.udp(4))


ADDRESS = struct.pack("=BBBBI", 2, 24, 0, 0, 1) + attr(1, b"\xc0\0\2\1") + attr(2, b"\xc0\0\2\1")
LINK = struct.pack("=BxHiII", 0, 1, 1, 0, 0) + string(3, "eth0")


@st.composite
def rtnetlink(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """What links and addresses are listed as: messages some bytes of which were changed."""
    listed = []
    for kind, body in ((16, LINK), (20, ADDRESS)):
        payload = draw(st.just(body) | TREES.map(lambda tree, body=body: body[:8] + tree) | st.binary(max_size=24))
        data = bytearray(message(kind, NLM_F_MULTI, 1, payload + bytes(-len(payload) % 4)))
        for place, value in draw(st.lists(BENDS, max_size=3)):
            data[min(HEADER_BYTES + place % 60, len(data) - 1)] = value
        listed.append(bytes(data))
    return listed[0], listed[1]


def check_rtnetlink(said: tuple[bytes, bytes]) -> None:
    """List the addresses of interfaces."""
    links, addresses = said
    with contextlib.suppress(KpxError, OSError), legible("list addresses"):  # OSError is a KernelError one step further up
        addresses_in(MarshalRtnl().parse(links), MarshalRtnl().parse(addresses))
