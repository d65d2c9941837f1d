"""IPVS and ipset codecs: what we pack, pyroute2 reads as we meant it, and we read back ourselves."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import hypothesis.strategies as st
from hypothesis import given
from pyroute2.netlink.generic.ipvs import ipvsmsg
from pyroute2.netlink.nfnetlink.ipset import ipset_msg

from kpx.kernel.wire import ipset, ipvs
from kpx.kernel.wire.attr import attr
from kpx.kernel.wire.generic import GENLMSGHDR_BYTES, genlmsghdr
from kpx.kernel.wire.ipset import Element
from kpx.kernel.wire.ipvs import Destination, DestinationState, ServerKey, ServerSettings
from kpx.kernel.wire.message import NLM_F_REQUEST, message, messages, nfgenmsg

ports = st.integers(0, 0xFFFF)
protocols = st.sampled_from([6, 17, 132])
numbers = st.integers(0, 0xFFFFFFFF)
families = st.sampled_from([4, 6])
schedulers = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=15)


def addresses(family: int) -> st.SearchStrategy[bytes]:
    size = 4 if family == 4 else 16
    return st.binary(min_size=size, max_size=size)


servers = families.flatmap(lambda family: st.builds(ServerKey, st.just(family), addresses(family), protocols, ports, st.just(0)))
by_mark = st.builds(ServerKey, families, st.just(b""), st.just(0), st.just(0), st.integers(1, 0xFFFFFFFF))
settings = st.builds(ServerSettings, schedulers, numbers.map(lambda bits: bits & ~ipvs.IP_VS_SVC_F_HASHED), numbers)
with_destination = servers.flatmap(
    lambda key: st.tuples(st.just(key), st.builds(Destination, addresses(key.family), ports), st.integers(0, 0x7FFFFFFF))
)


@given(servers | by_mark, settings)
def test_a_virtual_server_comes_back_from_our_own_reader(key, wanted):
    datagram = message(32, NLM_F_REQUEST, 1, ipvs.server_message(ipvs.SET_SERVER, key, wanted))

    assert ipvs.read_server(datagram, next(messages(datagram))) == (key, wanted)


@given(servers, settings)
def test_pyroute2_reads_a_virtual_server_as_packed(key, wanted):
    found = ipvsmsg(message(32, NLM_F_REQUEST, 1, ipvs.server_message(ipvs.NEW_SERVER, key, wanted)))
    found.decode()
    read = dict(found.get_attr("IPVS_CMD_ATTR_SERVICE")["attrs"])

    assert (found["cmd"], found["version"]) == (1, 1)
    assert ip_address(read["IPVS_SVC_ATTR_ADDR"]).packed == key.address
    assert read["IPVS_SVC_ATTR_AF"] == {4: 2, 6: 10}[key.family]
    assert (read["IPVS_SVC_ATTR_PROTOCOL"], read["IPVS_SVC_ATTR_PORT"]) == (key.protocol, key.port)
    assert (read["IPVS_SVC_ATTR_SCHED_NAME"], read["IPVS_SVC_ATTR_TIMEOUT"]) == (wanted.scheduler, wanted.timeout_s)
    assert read["IPVS_SVC_ATTR_FLAGS"]["flags"] == wanted.flags
    assert read["IPVS_SVC_ATTR_FLAGS"]["mask"] == 0xFFFFFFFF


@given(with_destination)
def test_a_destination_is_packed_as_the_plain_encoder_would(case):
    """The hot path takes ready-made pieces; attribute by attribute it must be the same bytes."""
    key, destination, weight = case
    body = ipvs.destination_message(ipvs.NEW_DESTINATION, key, destination, weight)
    service = ipvs.server_message(ipvs.DEL_SERVER, key)[GENLMSGHDR_BYTES:]
    plain = attr(1, destination.address) + attr(2, destination.port.to_bytes(2, "big"))
    plain += b"".join(attr(kind, struct.pack("=I", value)) for kind, value in ((3, 0), (4, weight), (5, 0), (6, 0)))

    assert body == genlmsghdr(5) + service + attr(0x8002, plain)
    assert ipvs.destination_message(ipvs.DEL_DESTINATION, key, destination) == genlmsghdr(7) + service + attr(
        0x8002, attr(1, destination.address) + attr(2, destination.port.to_bytes(2, "big"))
    )


@given(with_destination, st.tuples(numbers, numbers, numbers, numbers, numbers), st.randoms(use_true_random=False))
def test_destinations_are_read_whatever_the_order_of_attributes(case, state, random):
    """The short way for the order all kernels use, and the long way, read the same."""
    key, destination, _ = case
    weight, method, active, inactive, persistent = state
    parts = [
        attr(1, destination.address.ljust(16, b"\0")),
        attr(2, destination.port.to_bytes(2, "big")),
        attr(3, struct.pack("=I", method)),
        attr(4, struct.pack("=I", weight)),
        attr(13, b"\0"),
        attr(14, b"\0\0"),
        attr(15, b"\0\0"),
        *(attr(kind, struct.pack("=I", value)) for kind, value in ((5, 0), (6, 0), (7, active), (8, inactive), (9, persistent))),
        attr(11, struct.pack("=H", {4: 2, 6: 10}[key.family])),
    ]
    shuffled = random.sample(parts, len(parts))
    expected = destination, DestinationState(*state)
    for order in (parts, shuffled):
        datagram = message(32, 0, 1, genlmsghdr(5) + attr(0x8002, b"".join(order)))
        assert ipvs.read_destination(datagram, next(messages(datagram))) == expected


@st.composite
def like_elements(draw):
    """Elements for one set: of any kind, even such as no set has, all with the same fields."""
    family = draw(families)
    size = 4 if family == 4 else 16
    prefixed, ported, paired, second_prefixed, timed = draw(st.tuples(*[st.booleans()] * 5))
    one = st.builds(
        Element,
        addresses(family),
        st.integers(1, size * 8) if prefixed else st.none(),
        protocols if ported else st.just(0),
        ports if ported else st.just(0),
        addresses(family) if paired else st.just(b""),
        st.integers(1, size * 8) if second_prefixed and paired else st.none(),
        st.integers(0, 2147483) if timed else st.none(),
    )
    return draw(st.lists(one, min_size=1, max_size=30))


@given(like_elements(), like_elements())
def test_elements_come_back_from_our_own_reader(some, others):
    """The kernel's order and ours are the same, but it does not mark addresses as in network order, and tells no lines."""
    elements = some + others
    ((body, first, end),) = ipset.element_messages("KPX-X", elements)
    datagram = message(ipset.LIST, 0, 1, body)

    assert (first, end) == (0, len(elements))
    assert list(ipset.read_elements(datagram, next(messages(datagram)))) == elements


@given(like_elements(), like_elements())
def test_elements_as_the_kernel_lays_them_out_are_read(some, others):
    datagram = message(ipset.LIST, 0, 1, nfgenmsg(2) + attr(0x8008, b"".join(as_the_kernel(one) for one in some + others)))

    assert list(ipset.read_elements(datagram, next(messages(datagram)))) == some + others


def as_the_kernel(element: Element) -> bytes:
    kind = 1 if len(element.address) == 4 else 2
    parts = attr(0x8001, attr(kind, element.address))
    if element.second:
        parts += attr(0x8014, attr(kind, element.second))
    if element.length is not None:
        parts += attr(3, bytes([element.length]))
    if element.second_length is not None:
        parts += attr(21, bytes([element.second_length]))
    if element.protocol:
        parts += attr(0x4004, element.port.to_bytes(2, "big")) + attr(7, bytes([element.protocol]))
    if element.timeout_s is not None:
        parts += attr(0x4006, element.timeout_s.to_bytes(4, "big"))
    return attr(0x8007, parts)


@given(like_elements())
def test_pyroute2_reads_elements_as_packed(elements):
    ((body, _, _),) = ipset.element_messages("KPX-X", elements)
    found = ipset_msg(message(ipset.ADD, NLM_F_REQUEST, 1, body))
    found.decode()
    read = []
    for _, item in found.get_attr("IPSET_ATTR_ADT")["attrs"]:
        ip = {name: nest["attrs"][0][1] for name, nest in item["attrs"] if name in ("IPSET_ATTR_IP_FROM", "IPSET_ATTR_IP2")}
        second = ip.get("IPSET_ATTR_IP2")
        read.append(
            Element(
                ip_address(ip["IPSET_ATTR_IP_FROM"]).packed,
                item.get_attr("IPSET_ATTR_CIDR"),
                item.get_attr("IPSET_ATTR_PROTO") or 0,
                item.get_attr("IPSET_ATTR_PORT_FROM") or 0,
                b"" if second is None else ip_address(second).packed,
                item.get_attr("IPSET_ATTR_CIDR2"),
                item.get_attr("IPSET_ATTR_TIMEOUT"),
            )
        )

    assert read == elements


@given(st.binary(max_size=300))
def test_noise_is_no_element_and_no_error(noise):
    datagram = message(ipset.LIST, 0, 1, nfgenmsg(2) + attr(0x8008, noise))

    for element in ipset.read_elements(datagram, next(messages(datagram))):
        assert isinstance(element.address, bytes)
