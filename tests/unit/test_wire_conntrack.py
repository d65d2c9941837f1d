"""Conntrack messages: what a kernel sent is read, what kpx sends is what another decoder reads."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg

from kpx.kernel.wire import conntrack as wire
from kpx.kernel.wire.attr import attr, be32, nested
from kpx.kernel.wire.conntrack import Flow
from kpx.kernel.wire.message import NLM_F_MULTI, NLMSG_DONE, NLMSG_ERROR, message, nfgenmsg
from kpx.model.addresses import parse_address

# Dumped by Linux 6.18 on x86-64; conntrack(8) printed the same entries as the line above each.
# udp src=192.168.0.2 dst=172.30.3.1 sport=38598 dport=80 src=10.0.1.1 dst=192.168.0.2 sport=8080 dport=38598
TRANSLATED = (
    "a4000000000122009e516f00452c000002000000340001801400018008000100c0a8000208000200ac1e03011c0002800500010011000000"
    "0600020096c6000006000300005000003400028014000180080001000a00010108000200c0a800021c000280050001001100000006000200"
    "1f9000000600030096c6000008000300000001a8080008000000000008000c004c40e56008000b0000000001080007000000001d"
)
# udp src=fd00::99 dst=fd00:1::1 sport=53252 dport=80 src=fd00::99 dst=fd00::99 sport=8080 dport=53252
TRANSLATED_6 = (
    "d4000000000122006c516f00452c00000a0000004c0001802c00018014000300fd00000000000000000000000000009914000400fd000001"
    "0000000000000000000000011c000280050001001100000006000200d004000006000300005000004c0002802c00018014000300fd000000"
    "00000000000000000000009914000400fd0000000000000000000000000000991c0002800500010011000000060002001f90000006000300"
    "d004000008000300000001a8080008000000000008000c00a8e6834608000b0000000001080007000000001d"
)
# udp src=10.0.1.2 dst=10.0.1.2 sport=34930 dport=81 src=10.0.1.2 dst=10.0.1.2 sport=81 dport=34930 zone=7
ZONE = (
    "ac000000000122009e516f00452c0000020000003400018014000180080001000a000102080002000a0001021c0002800500010011000000"
    "060002008872000006000300005100003400028014000180080001000a000102080002000a0001021c000280050001001100000006000200"
    "00510000060003008872000006001200000700000800030000000188080008000000000008000c004ef5172a08000b000000000108000700"
    "0000001d"
)
# udp src=10.0.1.2 dst=10.0.1.2 sport=58013 dport=82 zone-orig=8 src=10.0.1.2 dst=10.0.1.2 sport=82 dport=58013
ZONE_OF_ORIGINAL = (
    "ac000000000122009e516f00452c0000020000003c00018014000180080001000a000102080002000a0001021c0002800500010011000000"
    "06000200e29d0000060003000052000006000300000800003400028014000180080001000a000102080002000a0001021c00028005000100"
    "11000000060002000052000006000300e29d00000800030000000188080008000000000008000c00e24d56a208000b000000000108000700"
    "0000001d"
)
# udp src=10.0.1.2 dst=10.0.1.2 sport=42731 dport=83 src=10.0.1.2 dst=10.0.1.2 sport=83 dport=42731 zone-reply=9
ZONE_OF_REPLY = (
    "ac000000000122009e516f00452c0000020000003400018014000180080001000a000102080002000a0001021c0002800500010011000000"
    "06000200a6eb000006000300005300003c00028014000180080001000a000102080002000a0001021c000280050001001100000006000200"
    "0053000006000300a6eb000006000300000900000800030000000188080008000000000008000c0099d159d408000b000000000108000700"
    "0000001d"
)
# tcp src=10.0.1.1 dst=10.0.1.1 sport=36562 dport=99 src=10.0.1.1 dst=10.0.1.1 sport=99 dport=36562
TCP = (
    "d4000000000122009e516f00452c0000020000003400018014000180080001000a000101080002000a0001011c0002800500010006000000"
    "060002008ed2000006000300006300003400028014000180080001000a000101080002000a0001011c000280050001000600000006000200"
    "00630000060003008ed20000080003000000018e080008000000000008000c00ea9cc11b08000b0000000001080007000000003b30000480"
    "2c0001800500010005000000050002000a000000050003000a00000006000400270000000600050023000000"
)


def flow(src: str, dst: str, sport: int, dport: int, back: str, back_port: int, zone: int = 0, number: int = 0) -> Flow:
    client, frontend, endpoint = map(parse_address, (src, dst, back))
    family = 4 if len(client) == 4 else 6
    return Flow(family, 17, client, frontend, sport, dport, endpoint, back_port, client, sport, zone, number)


KNOWN = {
    TRANSLATED: flow("192.168.0.2", "172.30.3.1", 38598, 80, "10.0.1.1", 8080, number=0x4C40E560),
    TRANSLATED_6: flow("fd00::99", "fd00:1::1", 53252, 80, "fd00::99", 8080, number=0xA8E68346),
    ZONE: flow("10.0.1.2", "10.0.1.2", 34930, 81, "10.0.1.2", 81, zone=7, number=0x4EF5172A),
    ZONE_OF_ORIGINAL: flow("10.0.1.2", "10.0.1.2", 58013, 82, "10.0.1.2", 82, zone=8, number=0xE24D56A2),
    ZONE_OF_REPLY: flow("10.0.1.2", "10.0.1.2", 42731, 83, "10.0.1.2", 83, zone=0, number=0x99D159D4),
}


@pytest.mark.parametrize(("dumped", "expected"), KNOWN.items())
def test_an_entry_of_a_real_kernel_is_read(dumped: str, expected: Flow) -> None:
    assert [expected] == wire.parse_flows(bytes.fromhex(dumped))


def test_a_datagram_holds_many_entries_and_other_things() -> None:
    """It reads UDP entries in order, and leaves out other protocols, the end of the dump and errors."""
    done = message(NLMSG_DONE, NLM_F_MULTI, 7, bytes(4))
    error = message(NLMSG_ERROR, 0, 7, bytes(20))
    datagram = b"".join(bytes.fromhex(text) for text in (TCP, TRANSLATED, TCP, ZONE, TRANSLATED_6)) + error + done

    flows = wire.parse_flows(datagram)

    assert [KNOWN[TRANSLATED], KNOWN[ZONE], KNOWN[TRANSLATED_6]] == flows


@pytest.mark.parametrize("length", range(20, 164, 4))
def test_an_entry_cut_short_is_either_whole_in_what_matters_or_left_out(length: int) -> None:
    whole = bytes.fromhex(TRANSLATED)
    cut = length.to_bytes(4, "little") + whole[4:length]

    flows = wire.parse_flows(cut)

    assert flows in ([], [KNOWN[TRANSLATED]], [KNOWN[TRANSLATED]._replace(id=0)])
    if length < 20 + 52 + 52:  # the two tuples
        assert flows == []


def test_a_dump_request_is_these_bytes() -> None:
    request = wire.dump_request(4, 7)

    expected = (
        "38000000 0101 0103 07000000 00000000"  # 56 bytes, IPCTNL_MSG_CT_GET, REQUEST|DUMP, sequence 7
        "02 00 0000"  # AF_INET
        "1000 0180  0c00 0280  0500 0100 11 000000"  # CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_PROTO_NUM 17
        "1400 1980  0800 0100 08000000  0800 0200 00000000"  # CTA_FILTER: the protocol of the original direction counts
    )
    assert bytes.fromhex(expected.replace(" ", "")) == request


def test_a_dump_request_asks_for_udp_of_the_other_family_too() -> None:
    decoded = nfct_msg(wire.dump_request(6, 7))
    decoded.decode()

    assert decoded["nfgen_family"] == 10
    assert decoded.get_nested("CTA_TUPLE_ORIG", "CTA_TUPLE_PROTO", "CTA_PROTO_NUM") == 17
    assert decoded.get_nested("CTA_FILTER", "CTA_FILTER_ORIG_FLAGS") == 1 << 3


def test_a_delete_request_is_these_bytes() -> None:
    request = wire.delete_request(KNOWN[ZONE_OF_ORIGINAL], 7)

    expected = (
        "58000000 0201 0500 07000000 00000000"  # 88 bytes, IPCTNL_MSG_CT_DELETE, REQUEST|ACK, sequence 7
        "02 00 0000"  # AF_INET
        "3400 0180"  # CTA_TUPLE_ORIG
        "1400 0180  0800 0100 0a000102  0800 0200 0a000102"  # CTA_TUPLE_IP
        "1c00 0280  0500 0100 11 000000  0600 0200 e29d 0000  0600 0300 0052 0000"  # CTA_TUPLE_PROTO
        "0600 1200 0008 0000"  # CTA_ZONE 8
        "0800 0c00 e24d56a2"  # CTA_ID
    )
    assert bytes.fromhex(expected.replace(" ", "")) == request


addresses = st.sampled_from([4, 16]).flatmap(lambda size: st.tuples(*[st.binary(min_size=size, max_size=size)] * 4))
ports = st.integers(0, 0xFFFF)
any_flow = st.builds(
    lambda four, sport, dport, back, there, zone, number: Flow(
        4 if len(four[0]) == 4 else 6, 17, four[0], four[1], sport, dport, four[2], back, four[3], there, zone, number
    ),
    addresses,
    ports,
    ports,
    ports,
    ports,
    ports,
    st.integers(0, 0xFFFFFFFF),
)


@given(any_flow)
def test_a_delete_request_names_the_entry_as_another_decoder_reads_it(one: Flow) -> None:
    decoded = nfct_msg(wire.delete_request(one, 9))
    decoded.decode()

    version = f"V{one.family}"
    ip = dict(decoded.get_nested("CTA_TUPLE_ORIG", "CTA_TUPLE_IP")["attrs"])
    proto = dict(decoded.get_nested("CTA_TUPLE_ORIG", "CTA_TUPLE_PROTO")["attrs"])
    assert decoded["header"]["type"] == wire.IPCTNL_MSG_CT_DELETE
    assert decoded["nfgen_family"] == {4: 2, 6: 10}[one.family]
    assert {name: ip_address(text).packed for name, text in ip.items()} == {
        f"CTA_IP_{version}_SRC": one.orig_src,
        f"CTA_IP_{version}_DST": one.orig_dst,
    }
    assert proto == {"CTA_PROTO_NUM": 17, "CTA_PROTO_SRC_PORT": one.orig_sport, "CTA_PROTO_DST_PORT": one.orig_dport}
    assert (decoded.get_attr("CTA_ZONE") or 0) == one.zone
    assert int(decoded.get_attr("CTA_ID") or 0) == one.id


def entry(one: Flow, order: tuple[int, ...] = (0, 1), padding: bytes = b"") -> bytes:
    """Pack an entry as a kernel would, the parts of each tuple in the given order and more attributes among them."""
    kinds = (1, 2) if one.family == 4 else (3, 4)

    def direction(kind: int, src: bytes, dst: bytes, sport: int, dport: int) -> bytes:
        parts = (
            nested(1, attr(kinds[0], src), attr(kinds[1], dst)),
            nested(2, attr(1, b"\x11"), attr(2, sport.to_bytes(2, "big")), attr(3, dport.to_bytes(2, "big"))),
        )
        return nested(kind, *(parts[index] for index in order), padding)

    return message(
        wire.IPCTNL_MSG_CT_NEW,
        NLM_F_MULTI,
        1,
        nfgenmsg({4: 2, 6: 10}[one.family])
        + direction(1, one.orig_src, one.orig_dst, one.orig_sport, one.orig_dport)
        + be32(3, 0x188)
        + direction(2, one.reply_src, one.reply_dst, one.reply_sport, one.reply_dport)
        + attr(18, one.zone.to_bytes(2, "big"))
        + be32(12, one.id),
    )


@given(any_flow, st.permutations([0, 1]), st.sampled_from([b"", attr(77, b"new"), nested(78, attr(1, b"x"))]))
def test_entries_are_read_whatever_the_order_of_attributes(one: Flow, order: list[int], padding: bytes) -> None:
    """The short way for the order all kernels use, and the long way, read the same."""
    assert [one] == wire.parse_flows(entry(one, tuple(order), padding))


@given(st.binary(max_size=300))
def test_noise_is_no_flow_and_no_error(noise: bytes) -> None:
    header = message(wire.IPCTNL_MSG_CT_NEW, 0, 1, noise)

    for found in wire.parse_flows(header):
        assert found.protocol == 17


def test_a_flow_prints_as_people_say_it() -> None:
    assert str(KNOWN[TRANSLATED]) == "192.168.0.2:38598 -> 172.30.3.1:80, answered by 10.0.1.1:8080"
