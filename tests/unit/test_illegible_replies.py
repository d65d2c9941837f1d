"""What fuzzing found in the reading of the kernel's replies, one test each: every one of these hung or ended the agent."""

from __future__ import annotations

import itertools
import struct

import pytest

from kpx.dataplanes.nftables import observe
from kpx.errors import NoAnswer
from kpx.kernel.ipset import IpSets
from kpx.kernel.ipvs import Ipvs
from kpx.kernel.wire import nft_element
from kpx.kernel.wire.attr import attr, string
from kpx.kernel.wire.message import NLMSG_ERROR, message, nfgenmsg
from kpx.model.addresses import Family
from tests.fuzz.replies import answering


def test_an_element_of_no_length_ends_the_list() -> None:
    """Nothing is behind it, so to go on from there is to stay there."""
    inner = struct.pack("=HHHH", 16, 1, 12, 1) + b"k" * 8 + nft_element.value_data(b"v" * 8)  # as the kernel writes it
    payload = nfgenmsg(2) + attr(0x8003, attr(0x8001, inner) + struct.pack("=HH", 0, 0x8001) + inner)
    read = itertools.islice(nft_element.read_pairs(payload, 0, len(payload), 8), 10)

    assert [key for key, _ in read] == [b"k" * 8]


def test_an_element_that_ends_behind_its_list_is_left_out() -> None:
    payload = nfgenmsg(2) + attr(0x8003, struct.pack("=HH", 200, 0x8001) + bytes(40))

    assert list(nft_element.read_pairs(payload, 0, len(payload), 8)) == []


def test_a_set_without_a_name() -> None:
    with pytest.raises(NoAnswer, match="the answer is not laid out as expected: KeyError"):
        observe.misshapen(answering([[message(10 << 8 | 9, 0, 0, nfgenmsg(2) + string(1, "kpx"))]]), Family.IPV4)


def test_an_acknowledgement_without_a_number() -> None:
    with pytest.raises(NoAnswer, match="the answer is not laid out as expected"):
        answering([[message(NLMSG_ERROR, 0, 0, b"")]]).request(message(1, 0, 1, b""), 1, "ask")


def test_a_list_of_sets_without_names() -> None:
    with pytest.raises(NoAnswer, match="list the sets"):
        IpSets(answering([[], [message(6 << 8 | 7, 0, 0, nfgenmsg(2))]])).names()


def test_a_family_without_a_number() -> None:
    with pytest.raises(NoAnswer, match="look for IPVS"):
        Ipvs(answering([[message(16, 0, 0, bytes(4) + string(2, "IPVS"))]]))
