"""The netlink frame: attributes, headers, acknowledgements."""

from __future__ import annotations

import struct

from kpx.kernel.wire.attr import attr, attrs, be32, nested, string, text, walk
from kpx.kernel.wire.message import (
    NLM_F_ACK_TLVS,
    NLM_F_CAPPED,
    NLMSG_ERROR,
    Acknowledgement,
    acknowledgement,
    message,
    messages,
    nfgenmsg,
)


def test_an_attribute_is_padded_to_four_bytes_and_its_length_says_so_before_padding():
    packed = attr(3, b"abcde")

    assert packed == struct.pack("=HH", 9, 3) + b"abcde\0\0\0"


def test_nested_attributes_come_back_by_type():
    packed = nested(4, be32(1, 7), string(2, "kpx"))
    ((kind, first, last),) = walk(packed, 0, len(packed))

    assert kind == 4
    assert dict(attrs(packed, first, last).items()) == {1: b"\0\0\0\7", 2: b"kpx\0"}
    assert text(b"kpx\0") == "kpx"


def test_a_negative_number_is_twos_complement():
    assert be32(1, -4) == struct.pack("=HH", 8, 1) + b"\xff\xff\xff\xfc"


def test_a_truncated_attribute_ends_the_walk():
    packed = attr(1, b"abcd") + struct.pack("=HH", 400, 2)

    assert [kind for kind, _, _ in walk(packed, 0, len(packed))] == [1]


def test_a_datagram_falls_apart_into_its_messages():
    datagram = message(20, 1, 7, nfgenmsg(2)) + message(21, 5, 8, b"")

    assert [(m.kind, m.flags, m.sequence, m.end - m.start) for m in messages(datagram)] == [(20, 1, 7, 4), (21, 5, 8, 0)]


def test_an_acknowledgement_carries_the_kernels_words_and_the_offset_of_what_it_refused():
    words = attr(1, b"too bad\0") + attr(2, struct.pack("=I", 36))
    echoed = struct.pack("=IHHII", 48, 0xA0C, 5, 9, 0)
    datagram = message(NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, 9, struct.pack("=i", -17) + echoed + words)
    (reply,) = messages(datagram)

    assert acknowledgement(datagram, reply) == Acknowledgement(9, 17, 36, "too bad")


def test_success_is_errno_zero():
    datagram = message(NLMSG_ERROR, NLM_F_CAPPED, 4, struct.pack("=i", 0) + bytes(16))
    (reply,) = messages(datagram)

    assert acknowledgement(datagram, reply).errno == 0
