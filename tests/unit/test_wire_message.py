"""The netlink frame: attributes, headers, acknowledgements."""

from __future__ import annotations

import struct

import pytest

from kpx.kernel.wire.attr import attr, attrs, be32, nested, string, text, walk
from kpx.kernel.wire.message import (
    NLM_F_ACK_TLVS,
    NLM_F_CAPPED,
    NLMSG_DONE,
    NLMSG_ERROR,
    Acknowledgement,
    acknowledgement,
    end_of_dump,
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


@pytest.mark.parametrize("missing", [1, 4, 5, 19, 21])
def test_a_datagram_that_ends_within_a_message_is_refused(missing: int):
    whole = message(20, 1, 7, nfgenmsg(2)) + message(21, 5, 8, nfgenmsg(2))

    with pytest.raises(ValueError, match="ends within the message at byte"):
        list(messages(whole[:-missing]))


def test_the_padding_behind_the_last_message_may_be_missing():
    datagram = struct.pack("=IHHII", 17, 20, 1, 7, 0) + b"x"

    assert [m.end for m in messages(datagram)] == [17]


@pytest.mark.parametrize(("told", "errno"), [(0, 0), (-12, 12)])
def test_the_end_of_a_dump_says_whether_it_was_given_up(told: int, errno: int):
    datagram = message(NLMSG_DONE, 2, 9, struct.pack("=i", told))
    (reply,) = messages(datagram)

    assert end_of_dump(datagram, reply) == Acknowledgement(9, errno)


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
