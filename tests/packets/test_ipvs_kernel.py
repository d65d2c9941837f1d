"""IPVS of a real kernel, in a namespace of its own: what is written is there, what is refused is named, asking makes nothing."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from kpx.kernel.ipvs import DATAGRAM_MESSAGES, Ipvs
from kpx.kernel.wire import ipvs as wire
from kpx.kernel.wire.ipvs import (
    DEL_DESTINATION,
    DEL_SERVER,
    NEW_DESTINATION,
    NEW_SERVER,
    SET_DESTINATION,
    SET_SERVER,
    Destination,
    DestinationState,
    ServerKey,
    ServerSettings,
    destination_message,
    server_message,
)
from kpx.model.addresses import parse_address
from tests.lab.netns import Namespace

pytestmark = [pytest.mark.packets, pytest.mark.needs("ip_vs")]

VIPS = {4: parse_address("10.96.0.1"), 6: parse_address("fd10::1")}
BACKENDS = {4: parse_address("10.0.0.5"), 6: parse_address("fd01::5")}
TCP, UDP, SCTP = 6, 17, 132
RR = ServerSettings("rr", 0, 0)


def server(family: int = 4, protocol: int = TCP, port: int = 80) -> ServerKey:
    return ServerKey(family, VIPS[family], protocol, port)


def backend(family: int = 4, port: int = 8080) -> Destination:
    return Destination(BACKENDS[family], port)


@pytest.fixture
def host() -> Iterator[Namespace]:
    namespace = Namespace("host")
    yield namespace
    namespace.close()


@pytest.fixture
def ipvs(host: Namespace) -> Iterator[Ipvs]:
    with host.entered():
        opened = Ipvs()
    yield opened
    opened.close()


def listed(host: Namespace) -> str:
    return host.run("ipvsadm", "-Sn").stdout


def test_a_fresh_namespace_has_no_virtual_server_and_a_version(ipvs):
    assert ipvs.servers() == []
    assert ipvs.version() == (1, 2, 1)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", [TCP, UDP, SCTP])
def test_virtual_servers_and_destinations_come_back_as_written(ipvs, family, protocol):
    key, settings = server(family, protocol), ServerSettings("rr", wire.IP_VS_SVC_F_PERSISTENT, 10800)
    messages = [server_message(NEW_SERVER, key, settings), destination_message(NEW_DESTINATION, key, backend(family), 1)]

    assert ipvs.write(messages) == [0, 0]
    assert ipvs.servers() == [(key, settings)]
    assert ipvs.destinations(key) == [(backend(family), DestinationState(1, wire.IP_VS_CONN_F_MASQ, 0, 0, 0))]

    assert ipvs.write([destination_message(SET_DESTINATION, key, backend(family), 0)]) == [0]
    assert [state.weight for _, state in ipvs.destinations(key)] == [0]
    assert ipvs.write([destination_message(DEL_DESTINATION, key, backend(family)), server_message(DEL_SERVER, key)]) == [0, 0]
    assert ipvs.servers() == []


def test_ipvsadm_sees_what_was_meant(host, ipvs):
    key = server()
    settings = ServerSettings("rr", wire.IP_VS_SVC_F_PERSISTENT, 7200)
    ipvs.write([server_message(NEW_SERVER, key, settings), destination_message(NEW_DESTINATION, key, backend(), 3)])
    ipvs.write([server_message(NEW_SERVER, server(6, UDP, 53), RR)])

    assert listed(host).splitlines() == [
        "-A -t 10.96.0.1:80 -s rr -p 7200",
        "-a -t 10.96.0.1:80 -r 10.0.0.5:8080 -m -w 3",
        "-A -u [fd10::1]:53 -s rr",
    ]


def test_settings_change_in_place_and_flags_that_are_not_asked_for_are_cleared(ipvs):
    key = server()
    ipvs.write([server_message(NEW_SERVER, key, ServerSettings("rr", wire.IP_VS_SVC_F_PERSISTENT, 10800))])
    ipvs.write([destination_message(NEW_DESTINATION, key, backend(), 1)])

    assert ipvs.write([server_message(SET_SERVER, key, RR)]) == [0]
    assert ipvs.servers() == [(key, RR)]
    assert len(ipvs.destinations(key)) == 1


@pytest.mark.needs("scheduler mh")
def test_schedulers_and_their_flags_are_set(host, ipvs):
    flags = wire.IP_VS_SVC_F_SCHED1 | wire.IP_VS_SVC_F_SCHED2
    key, settings = server(), ServerSettings("mh", flags, 0)

    assert ipvs.write([server_message(NEW_SERVER, key, settings)]) == [0]
    assert ipvs.servers() == [(key, settings)]
    assert "-s mh -b mh-fallback,mh-port" in listed(host)


def test_each_refusal_is_told_with_its_message_and_the_others_are_done(ipvs):
    key, other = server(), server(port=81)
    messages = [
        server_message(NEW_SERVER, key, RR),
        server_message(NEW_SERVER, key, RR),
        server_message(SET_SERVER, other, RR),
        server_message(DEL_SERVER, other),
        server_message(NEW_SERVER, other, ServerSettings("nosuch", 0, 0)),
        destination_message(NEW_DESTINATION, other, backend(), 1),
        destination_message(SET_DESTINATION, key, backend(), 1),
        destination_message(DEL_DESTINATION, key, backend()),
        destination_message(NEW_DESTINATION, key, backend(), 1),
        destination_message(NEW_DESTINATION, key, backend(), 1),
        destination_message(NEW_DESTINATION, key, Destination(parse_address("224.0.0.1"), 80), 1),
        server_message(NEW_SERVER, other, RR),
    ]

    assert [errno.errorcode.get(number, number) for number in ipvs.write(messages)] == [
        0,
        "EEXIST",
        "ESRCH",
        "ESRCH",
        "ENOENT",
        "ESRCH",
        "ENOENT",
        "ENOENT",
        0,
        "EEXIST",
        "EINVAL",
        0,
    ]
    assert sorted(key for key, _ in ipvs.servers()) == [key, other]


def test_more_messages_than_fit_a_datagram_keep_their_numbers(ipvs):
    count = DATAGRAM_MESSAGES + 100
    key = server()
    ipvs.write([server_message(NEW_SERVER, key, RR)])
    before = ipvs.datagrams
    messages = [destination_message(DEL_DESTINATION, key, backend(port=1))] * count
    messages[DATAGRAM_MESSAGES + 7] = destination_message(NEW_DESTINATION, key, backend(), 1)
    numbers = ipvs.write(messages)

    assert [index for index, number in enumerate(numbers) if not number] == [DATAGRAM_MESSAGES + 7]
    assert set(numbers) == {0, errno.ENOENT}
    assert ipvs.datagrams == before + 2
    assert ipvs.write([]) == []


def test_many_virtual_servers_and_destinations_are_all_listed(ipvs):
    keys = [ServerKey(4, bytes((10, 97, n >> 8, n & 255)), TCP, 80) for n in range(1_000)]
    ipvs.write([server_message(NEW_SERVER, key, RR) for key in keys])
    targets = [Destination(bytes((10, 1, n >> 8, n & 255)), 8080) for n in range(500)]

    assert set(ipvs.write([destination_message(NEW_DESTINATION, keys[7], target, 1) for target in targets])) == {0}
    assert sorted(key for key, _ in ipvs.servers()) == keys
    assert sorted(target for target, _ in ipvs.destinations(keys[7])) == targets
    assert ipvs.destinations(keys[8]) == []


def test_the_destinations_of_a_virtual_server_that_is_not_there_are_none(ipvs):
    assert ipvs.destinations(server()) == []


@pytest.mark.parametrize("name", ["rr", "wrr", "mh", "sh", "twos", "nosuch"])
def test_asking_for_a_scheduler_says_what_trying_it_does(ipvs, name):
    said = ipvs.has_scheduler(name)
    tried = ipvs.write([server_message(NEW_SERVER, server(), ServerSettings(name, 0, 0))])

    assert tried == ([0] if said else [errno.ENOENT])


def test_asking_for_a_scheduler_makes_no_virtual_server(host, ipvs):
    assert (ipvs.has_scheduler("rr"), ipvs.has_scheduler("nosuch")) == (True, False)
    assert ipvs.servers() == []
    assert listed(host) == ""


def test_other_peoples_servers_are_recognised(host, ipvs):
    """By mark, with other flags, and with another forwarding method."""
    host.run("ipvsadm", "-A", "-f", "77", "-s", "rr")
    host.run("ipvsadm", "-A", "-u", "192.0.2.1:80", "-s", "rr", "-o")
    host.run("ipvsadm", "-a", "-u", "192.0.2.1:80", "-r", "192.0.2.7:80", "-g", "-w", "5")
    theirs = ServerKey(4, parse_address("192.0.2.1"), UDP, 80)

    assert sorted(ipvs.servers()) == [
        (ServerKey(4, b"", 0, 0, 77), RR),
        (theirs, ServerSettings("rr", wire.IP_VS_SVC_F_ONEPACKET, 0)),
    ]
    assert ipvs.destinations(theirs) == [(Destination(parse_address("192.0.2.7"), 80), DestinationState(5, 3, 0, 0, 0))]


def test_timeouts_are_set_and_zero_leaves_one_alone(ipvs):
    before = ipvs.timeouts()
    ipvs.set_timeouts(901, 0, 31)

    assert ipvs.timeouts() == (901, before.tcp_fin_s, 31)


def test_namespaces_have_virtual_servers_of_their_own(ipvs):
    ipvs.write([server_message(NEW_SERVER, server(), RR)])
    other = Namespace("other")
    try:
        with other.entered():
            there = Ipvs()
        assert there.servers() == []
        there.close()
    finally:
        other.close()
