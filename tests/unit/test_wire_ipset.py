"""ipset messages: what a kernel sent is read, what kpx sends is what another decoder reads."""

from __future__ import annotations

import struct

import pytest
from pyroute2.netlink.nfnetlink.ipset import ipset_msg

from kpx.kernel.wire import ipset as wire
from kpx.kernel.wire import ipset_element
from kpx.kernel.wire.attr import attr, nested
from kpx.kernel.wire.ipset import Element, SetShape
from kpx.kernel.wire.message import NLM_F_REQUEST, NLMSG_ERROR, message, messages, nfgenmsg
from kpx.model.addresses import parse_address

A, B = parse_address("10.0.0.1"), parse_address("10.0.0.5")
SIX, SIX_B = parse_address("fd00::5"), parse_address("fd00::7")

# Lists by Linux 6.1 and 6.18 on x86-64; ipset(8) printed the same as the line above each.
# create nn hash:net,net family inet maxelem 16777216; add nn 10.0.0.1,10.0.0.5
NET_NET = (
    "a400000007060200445d40007c000000020000000500010006000000070002006e6e000011000300686173683a6e65742c6e657400000000"
    "050005000200000005000400000000002c00078008001240000004000800134001000000080019400000000008001a400000029008001840"
    "00000001 30000880 2c000780 0c00018008000100 0a000001 0c00148008000100 0a000005 0500030020000000 0500150020000000"
)
# create s3-4 hash:ip,port,ip family inet maxelem 16777216 timeout 0; add s3-4 10.0.0.7,tcp:80,10.0.0.1 timeout 90
WITH_TIMEOUT = (
    "bc00000007060200455d40007c000000"
    "0200000005000100060000000900020073332d340000000014000300686173683a69702c706f72742c697000050005000200000005000400"
    "010000003400078008001240000004000800134001000000080019400000000008001a400000017008001840000000020800064000000000"
    "38000880 34000780 0c00018008000100 0a000007 0c00148008000100 0a000001 0600044000500000 0500070006000000"
    "080006400000005a"
)


def first(text: str) -> tuple[bytes, object]:
    datagram = bytearray.fromhex(text)
    datagram[:4] = struct.pack("=I", len(datagram))
    whole = bytes(datagram)
    return whole, next(messages(whole))


def decoded(kind: int, body: bytes) -> ipset_msg:
    found = ipset_msg(message(kind, NLM_F_REQUEST, 7, body))
    found.decode()
    return found


def test_elements_of_a_real_kernel_are_read():
    assert list(wire.read_elements(*first(NET_NET))) == [Element(A, 32, 0, 0, B, 32)]
    seven = parse_address("10.0.0.7")
    assert list(wire.read_elements(*first(WITH_TIMEOUT))) == [Element(seven, None, 6, 80, A, None, 90)]


def test_the_shape_and_the_count_of_a_real_set_are_read():
    assert wire.read_shape(*first(NET_NET)) == SetShape("nn", "hash:net,net", 4, 16777216)
    assert wire.read_shape(*first(WITH_TIMEOUT)) == SetShape("s3-4", "hash:ip,port,ip", 4, 16777216, timeout=True)
    assert wire.read_count(*first(NET_NET)) == 1
    assert wire.read_name(*first(NET_NET)) == "nn"


def test_elements_laid_out_alike_are_read_the_short_way(monkeypatch):
    """The first is read attribute by attribute; what differs from it is again."""
    item = bytes.fromhex("2000 0780  0c00 0180 0800 0100 0a000001  0600 0440 0050 0000  0500 0700 06 000000")
    other = bytes.fromhex("2000 0780  0600 0440 0051 0000  0500 0700 11 000000  0c00 0180 0800 0100 0a000005")
    datagram = message(wire.LIST, 0, 7, nfgenmsg(2) + attr(wire.ATTR_ADT | 0x8000, item * 50 + other + item * 2))
    walked = []
    slow = wire._any_element
    monkeypatch.setattr(wire, "_any_element", lambda *at: walked.append(at) or slow(*at))

    found = list(wire.read_elements(datagram, next(messages(datagram))))

    assert found == [Element(A, None, 6, 80)] * 50 + [Element(B, None, 17, 81)] + [Element(A, None, 6, 80)] * 2
    assert len(walked) == 2


def test_an_element_without_an_address_is_left_out():
    """Sets of sets and of ports are other people's."""
    item = nested(7, attr(0x4004, b"\0\x50")) + nested(7, nested(1, attr(1, A)))
    datagram = message(wire.LIST, 0, 7, nfgenmsg(2) + nested(wire.ATTR_ADT, item))

    assert list(wire.read_elements(datagram, next(messages(datagram)))) == [Element(A)]


def test_creating_a_set_is_these_bytes():
    body = wire.create(SetShape("KPX-DRAINING", "hash:ip,port,ip", 4, 16777216, timeout=True))

    expected = (
        "02 00 0000"  # struct nfgenmsg
        "0500 0100 06 000000"  # protocol 6
        "1100 0200" + b"KPX-DRAINING\0".hex() + "000000"
        "1400 0300" + b"hash:ip,port,ip\0".hex() + "0500 0400 01 000000"  # revision 1
        "0500 0500 02 000000"  # NFPROTO_IPV4
        "1400 0780"
        "0800 1340 01000000"  # maxelem, network order
        "0800 0640 00000000"  # elements may have timeouts; those without stay for ever
    )
    assert bytes.fromhex(expected) == body


def test_a_set_of_the_other_family_has_the_other_number():
    found = decoded(wire.CREATE, wire.create(SetShape("KPX6-PODS", "hash:net", 6, 1 << 24)))

    assert found.get_attr("IPSET_ATTR_FAMILY") == 10
    assert found.get_attr("IPSET_ATTR_TYPENAME") == "hash:net"
    assert found.get_attr("IPSET_ATTR_DATA").get_attr("IPSET_ATTR_MAXELEM") == 16777216
    assert found.get_attr("IPSET_ATTR_DATA").get_attr("IPSET_ATTR_TIMEOUT") is None


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        (Element(A), {"IPSET_ATTR_IP_FROM": "10.0.0.1"}),
        (Element(SIX, 64), {"IPSET_ATTR_IP_FROM": "fd00::5", "IPSET_ATTR_CIDR": 64}),
        (Element(A, None, 132, 80), {"IPSET_ATTR_IP_FROM": "10.0.0.1", "IPSET_ATTR_PORT_FROM": 80, "IPSET_ATTR_PROTO": 132}),
        (
            Element(SIX, 128, 0, 0, SIX_B, 127),
            {"IPSET_ATTR_IP_FROM": "fd00::5", "IPSET_ATTR_IP2": "fd00::7", "IPSET_ATTR_CIDR": 128, "IPSET_ATTR_CIDR2": 127},
        ),
        (
            Element(A, None, 6, 65535, B, None, 3600),
            {
                "IPSET_ATTR_IP_FROM": "10.0.0.1",
                "IPSET_ATTR_IP2": "10.0.0.5",
                "IPSET_ATTR_PORT_FROM": 65535,
                "IPSET_ATTR_PROTO": 6,
                "IPSET_ATTR_TIMEOUT": 3600,
            },
        ),
    ],
    ids=["ip", "net", "ip,port", "net,net", "ip,port,ip"],
)
def test_pyroute2_reads_an_element_as_packed(element, expected):
    ((body, first_index, end),) = wire.element_messages("KPX-X", [element])
    found = decoded(wire.ADD, body)
    (item,) = (data for _, data in found.get_attr("IPSET_ATTR_ADT")["attrs"])
    read = {}
    for name, value in item["attrs"]:
        read[name] = value["attrs"][0][1] if name.startswith("IPSET_ATTR_IP") else value

    assert (first_index, end) == (0, 1)
    assert found.get_attr("IPSET_ATTR_SETNAME") == "KPX-X"
    assert read == {**expected, "IPSET_ATTR_CADT_LINENO": 1}


def test_elements_are_split_over_messages_and_numbered_through():
    """One attribute holds 64 KiB at most; the kernel names the refused one by its line number."""
    elements = [Element(parse_address(f"10.1.{i >> 8}.{i & 255}"), None, 6, 80) for i in range(4000)]
    pieces = list(wire.element_messages("KPX-X", elements))

    assert [(start, end) for _, start, end in pieces] == [(0, 1500), (1500, 3000), (3000, 4000)]
    assert all(len(body) < 1 << 16 for body, _, _ in pieces)
    lines = []
    for body, _, _ in pieces:
        for _, item in decoded(wire.ADD, body).get_attr("IPSET_ATTR_ADT")["attrs"]:
            lines.append(item.get_attr("IPSET_ATTR_CADT_LINENO"))
    assert lines == list(range(1, 4001))


def test_no_elements_are_no_message():
    assert list(wire.element_messages("KPX-X", [])) == []


def test_a_refusal_names_its_line():
    """ip_set_core.c, call_ad(): the kernel sends the message back with the line number filled in."""
    ((body, _, _),) = wire.element_messages("KPX-X", [Element(A), Element(B)])
    filled = body.replace(attr(9, bytes(4)), attr(9, struct.pack(">I", 2)), 1)
    refused = message(NLMSG_ERROR, 0, 7, struct.pack("=i", -4352) + message(wire.ADD, 5, 7, filled))
    whole = message(NLMSG_ERROR, 0x100, 7, struct.pack("=i", -2) + message(wire.ADD, 5, 7, body)[:16])

    assert wire.refused_line(refused, next(messages(refused))) == 2
    assert wire.refused_line(whole, next(messages(whole))) == 0


def test_names_and_flags_of_requests():
    assert decoded(wire.SWAP, wire.pair("a", "b")).get_attr("IPSET_ATTR_TYPENAME") == "b"
    assert decoded(wire.LIST, wire.list_names()).get_attr("IPSET_ATTR_FLAGS") == 1 << 1
    header = decoded(wire.LIST, wire.list_header("a"))
    assert (header.get_attr("IPSET_ATTR_SETNAME"), header.get_attr("IPSET_ATTR_FLAGS")) == ("a", 1 << 2)
    assert decoded(wire.DESTROY, wire.named("a")).get_attr("IPSET_ATTR_SETNAME") == "a"
    assert wire.DESTROY == 0x603


def test_a_layout_is_made_once():
    signature = ipset_element.signature_of(Element(A))

    assert ipset_element.layout_of(signature) is ipset_element.layout_of(signature)
