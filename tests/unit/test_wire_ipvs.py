"""IPVS messages: what a kernel sent is read, what kpx sends is what another decoder reads."""

from __future__ import annotations

import struct

import pytest
from pyroute2.netlink.generic.ipvs import ipvsmsg

from kpx.kernel.wire import generic, ipvs_config
from kpx.kernel.wire import ipvs as wire
from kpx.kernel.wire.attr import attr, nested
from kpx.kernel.wire.ipvs import Destination, DestinationState, ServerKey, ServerSettings
from kpx.kernel.wire.message import NLM_F_MULTI, NLM_F_REQUEST, message, messages
from kpx.model.addresses import parse_address

KEY_4 = ServerKey(4, parse_address("10.96.0.1"), 6, 80)
KEY_6 = ServerKey(6, parse_address("fd00::1"), 17, 53)
BY_MARK = ServerKey(4, b"", 0, 0, 77)

_STATISTICS = (  # counters of a server or destination nobody has used, twice: 32 and 64 bits wide
    "5c000a000800010000000000080002000000000008000300000000000c00040000000000000000000c0005000000000000000000"
    "080006000000000008000700000000000800080000000000080009000000000008000a0000000000"
    "7c000c000c00010000000000000000000c00020000000000000000000c00030000000000000000000c00040000000000000000000c00050000"
    "000000000000000c00060000000000000000000c00070000000000000000000c00080000000000000000000c00090000000000000000000c00"
    "0a000000000000000000"
)
# Dumped by Linux 6.1 on x86-64; ipvsadm(8) printed the same as the line above each.
# TCP 10.96.0.1:80 mh (mh-fallback,mh-port) persistent 10800
SERVER_4 = (
    "4001000020000200ec66dd007c000000010100002c01010006000100020000000600020006000000140003000a6000010000000000000000"
    "000000000600040000500000070006006d6800000c0007001b000000ffffffff08000800302a000008000900ffffffff" + _STATISTICS
)
# UDP [fd00::1]:53 rr
SERVER_6 = (
    "4001000020000200ec66dd007c000000010100002c010100060001000a000000060002001100000014000300fd0000000000000000000000"
    "00000001060004000035000007000600727200000c00070002000000ffffffff08000800000000000800090080000000" + _STATISTICS
)
# FWM 77 rr
SERVER_BY_MARK = (
    "2401000020000200ec66dd007c00000001010000100101000600010002000000080005004d00000007000600727200000c00070002000000"
    "ffffffff080008000000000008000900ffffffff" + _STATISTICS
)
# -> 10.0.0.5:8080 Masq 0
DESTINATION_4 = (
    "6401000020000200ed66dd007c0000000501000050010200140001000a000005000000000000000000000000060002001f90000008000300"
    "000000000800040000000000 05000d0000000000 06000e0000000000 06000f0000000000 0800050000000000 0800060000000000"
    "0800070000000000 0800080000000000 0800090000000000 06000b0002000000" + _STATISTICS
)
# -> [fd00::5]:53 Masq 3
DESTINATION_6 = (
    "6401000020000200ee66dd007c000000050100005001020014000100fd000000000000000000000000000005060002000035000008000300"
    "000000000800040003000000 05000d0000000000 06000e0000000000 06000f0000000000 0800050000000000 0800060000000000"
    "0800070000000000 0800080000000000 0800090000000000 06000b000a000000" + _STATISTICS
)


def decoded(body: bytes) -> ipvsmsg:
    found = ipvsmsg(message(32, NLM_F_REQUEST, 7, body))
    found.decode()
    return found


@pytest.mark.parametrize(
    ("dumped", "expected"),
    [
        (SERVER_4, (KEY_4, ServerSettings("mh", 0x19, 10800))),
        (SERVER_6, (KEY_6, ServerSettings("rr", 0, 0))),
        (SERVER_BY_MARK, (BY_MARK, ServerSettings("rr", 0, 0))),
    ],
    ids=["IPv4", "IPv6", "by mark"],
)
def test_a_virtual_server_of_a_real_kernel_is_read(dumped, expected):
    """The kernel's own flag (HASHED) is left out, so that what is read can be compared with what is wanted."""
    datagram = bytes.fromhex(dumped)
    (one,) = messages(datagram)

    assert wire.read_server(datagram, one) == expected


@pytest.mark.parametrize(
    ("dumped", "expected"),
    [
        (DESTINATION_4, (Destination(parse_address("10.0.0.5"), 8080), DestinationState(0, 0, 0, 0, 0))),
        (DESTINATION_6, (Destination(parse_address("fd00::5"), 53), DestinationState(3, 0, 0, 0, 0))),
    ],
    ids=["IPv4", "IPv6"],
)
def test_a_destination_of_a_real_kernel_is_read(dumped, expected, monkeypatch):
    datagram = bytes.fromhex(dumped)
    (one,) = messages(datagram)
    slow = wire._any_destination(datagram, one)
    monkeypatch.delattr(wire, "_any_destination")  # what every kernel sends is read the short way

    assert wire.read_destination(datagram, one) == slow == expected


def test_a_destination_laid_out_as_no_kernel_does_is_read_too():
    """Before 5.3 there were no attributes of tunnels."""
    numbers = [(6, 5), (5, 4), (9, 3), (7, 2), (8, 1), (4, 10), (3, 0)]
    body = b"".join(attr(kind, struct.pack("=I", value)) for kind, value in numbers)
    body += attr(11, struct.pack("=H", 2)) + attr(2, b"\x1f\x90") + attr(1, parse_address("10.0.0.5") + bytes(12))
    datagram = message(32, NLM_F_MULTI, 7, generic.genlmsghdr(wire.IPVS_CMD_NEW_DEST) + nested(2, body))
    (one,) = messages(datagram)

    found = wire.read_destination(datagram, one)

    assert found == (Destination(parse_address("10.0.0.5"), 8080), DestinationState(10, 0, 2, 1, 3))


def test_a_message_about_something_else_is_no_server_and_no_destination():
    datagram = message(32, 0, 7, generic.genlmsghdr(ipvs_config.IPVS_CMD_GET_INFO) + attr(3, b""))
    (one,) = messages(datagram)

    with pytest.raises(KeyError):
        wire.read_server(datagram, one)
    with pytest.raises(KeyError):
        wire.read_destination(datagram, one)


def test_a_new_virtual_server_is_these_bytes():
    body = wire.server_message(wire.NEW_SERVER, KEY_4, ServerSettings("mh", 0x19, 10800))

    expected = (
        "01 01 0000"  # IPVS_CMD_NEW_SERVICE, version 1
        "4800 0180"  # IPVS_CMD_ATTR_SERVICE
        "0600 0100 0200 0000"  # AF_INET
        "0600 0200 0600 0000"  # TCP
        "0800 0300 0a600001"
        "0600 0400 0050 0000"
        "0700 0600 6d6800 00"
        "0c00 0700 19000000 ffffffff"  # the mask says that all other flags are cleared
        "0800 0800 302a0000"
        "0800 0900 ffffffff"
    )
    assert bytes.fromhex(expected) == body


def test_the_netmask_of_ipv6_is_a_prefix_length_in_host_order():
    """Anything but 1 to 128, read as a native number, is EINVAL."""
    body = wire.server_message(wire.NEW_SERVER, KEY_6, ServerSettings("rr", 0, 0))

    assert body.endswith(attr(9, struct.pack("=I", 128)))


def test_pyroute2_reads_a_virtual_server_by_mark():
    server = decoded(wire.server_message(wire.DEL_SERVER, BY_MARK)).get_attr("IPVS_CMD_ATTR_SERVICE")

    assert dict(server["attrs"]) == {"IPVS_SVC_ATTR_AF": 2, "IPVS_SVC_ATTR_FWMARK": 77}


def test_pyroute2_reads_a_destination():
    """Thresholds must be told, or the kernel answers EINVAL; method 0 is masquerading, which is not pyroute2's default."""
    found = decoded(wire.destination_message(wire.NEW_DESTINATION, KEY_4, Destination(parse_address("10.0.0.5"), 8080), 3))
    server, destination = found.get_attr("IPVS_CMD_ATTR_SERVICE"), found.get_attr("IPVS_CMD_ATTR_DEST")

    assert found["cmd"] == 5
    assert dict(server["attrs"]) == {
        "IPVS_SVC_ATTR_AF": 2,
        "IPVS_SVC_ATTR_PROTOCOL": 6,
        "IPVS_SVC_ATTR_ADDR": "10.96.0.1",
        "IPVS_SVC_ATTR_PORT": 80,
    }
    assert [name for name, _ in destination["attrs"]] == [
        f"IPVS_DEST_ATTR_{name}" for name in ("ADDR", "PORT", "FWD_METHOD", "WEIGHT", "U_THRESH", "L_THRESH")
    ]
    assert [value for _, value in destination["attrs"]][1:] == [8080, 0, 3, 0, 0]
    assert bytes.fromhex("0800 0100 0a000005") in wire.destination_message(
        wire.NEW_DESTINATION, KEY_4, Destination(parse_address("10.0.0.5"), 8080), 3
    )


def test_deleting_a_destination_names_it_and_nothing_else():
    body = wire.destination_message(wire.DEL_DESTINATION, KEY_4, Destination(parse_address("10.0.0.5"), 8080))

    assert body.endswith(bytes.fromhex("1400 0280  0800 0100 0a000005  0600 0200 1f90 0000"))


def test_dumps_ask_for_everything_or_for_one_server():
    assert wire.dump_servers() == b"\x04\x01\0\0"
    asked = decoded(wire.dump_destinations(KEY_6))
    assert asked["cmd"] == 8
    assert asked.get_attr("IPVS_CMD_ATTR_SERVICE").get_attr("IPVS_SVC_ATTR_ADDR") == "fd00::1"


def test_the_probe_asks_for_a_server_that_cannot_be():
    """A prefix length of 0 is refused, after the scheduler was looked for."""
    server = decoded(wire.probe_scheduler_message("mh")).get_attr("IPVS_CMD_ATTR_SERVICE")
    found = dict(server["attrs"])

    assert found["IPVS_SVC_ATTR_AF"] == 10
    assert found["IPVS_SVC_ATTR_SCHED_NAME"] == "mh"
    assert found["IPVS_SVC_ATTR_NETMASK"] == "0.0.0.0"


def test_only_timeouts_that_are_given_are_set():
    body = ipvs_config.set_timeouts(900, 0, 30)

    assert bytes.fromhex("0c 01 0000  0800 0400 84030000  0800 0600 1e000000") == body


def test_timeouts_and_version_are_read():
    times = message(32, 0, 7, generic.genlmsghdr(12) + bytes.fromhex("08000400840300000800050078000000080006002c010000"))
    info = message(32, 0, 7, generic.genlmsghdr(14) + bytes.fromhex("08000100010201000800020000100000"))

    assert ipvs_config.read_timeouts(times, next(messages(times))) == (900, 120, 300)
    assert ipvs_config.read_version(info, next(messages(info))) == (1, 2, 1)


def test_the_number_of_a_family_is_asked_for_by_name_and_read():
    asked = generic.family_request("IPVS")
    answer = message(16, 0, 7, generic.genlmsghdr(1, 2) + attr(2, b"IPVS\0") + attr(1, struct.pack("=H", 32)))

    assert asked == bytes.fromhex("03 01 0000  0900 0200") + b"IPVS\0\0\0\0"
    assert generic.read_family(answer, next(messages(answer))) == 32
