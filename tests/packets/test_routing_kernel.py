"""Policy routing of a real kernel: a rule and a route come and go, and nobody else's does."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from kpx.errors import KernelError
from kpx.kernel import routing
from kpx.kernel.routing import PolicyRoute
from tests.lab.netns import Namespace

pytestmark = [pytest.mark.alike, pytest.mark.packets]

ROUTES = {4: PolicyRoute(4, 1024, 0x1000, 0x1000, 27504), 6: PolicyRoute(6, 1024, 0x1000, 0x1000, 27504)}
SO_MARK = 36


@pytest.fixture
def host() -> Iterator[Namespace]:
    namespace = Namespace("host")
    with namespace.entered():
        yield namespace
    namespace.close()


def listed(host: Namespace, version: int) -> list[str]:
    rules = host.run("ip", f"-{version}", "rule").stdout
    return (rules + host.run("ip", f"-{version}", "route", "show", "table", "27504", check=False).stdout).splitlines()


@pytest.mark.parametrize("version", [4, 6])
def test_rule_and_route_are_made_once_and_removed_without_a_trace(host, version):
    route = ROUTES[version]
    before = listed(host, version)

    assert not routing.present(route)
    assert routing.ensure(route) == [f"added {route.route}", f"added {route.rule}"]
    assert routing.present(route)
    assert routing.ensure(route) == []
    ours = [line.strip() for line in listed(host, version) if "27504" in line]
    assert ours == ["1024:\tfrom all fwmark 0x1000/0x1000 lookup 27504"]

    assert routing.remove(route) == [f"deleted {route.rule}", f"deleted {route.route}"]
    assert routing.remove(route) == []
    assert listed(host, version) == before


@pytest.mark.parametrize("version", [4, 6])
def test_marked_packets_come_in_to_an_address_the_host_does_not_have(host, version):
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = ("10.96.0.1" if version == 4 else "fd10::1", 5353)
    host.ip("link add lab0 type veth peer name lab1", "link set lab0 up", "route add default dev lab0")
    host.ip("route add default dev lab0", version=6)
    host.ip("address add 192.0.2.1/24 dev lab0", "address add 2001:db8::1/64 dev lab0 nodad")
    routing.ensure(ROUTES[version])
    with socket.socket(family, socket.SOCK_DGRAM) as server, socket.socket(family, socket.SOCK_DGRAM) as client:
        server.bind(("", address[1]))
        server.settimeout(5)
        client.setsockopt(socket.SOL_SOCKET, SO_MARK, 0xF000)  # other bits do not matter
        client.sendto(b"x", address)

        assert server.recv(16) == b"x"


def test_half_of_it_is_not_present_and_is_completed(host):
    route = ROUTES[4]
    host.ip("rule add pref 1024 fwmark 0x1000/0x1000 lookup 27504")

    assert not routing.present(route)
    assert routing.ensure(route) == [f"added {route.route}"]
    host.ip("rule del pref 1024")
    assert routing.ensure(route) == [f"added {route.rule}"]


@pytest.mark.parametrize(
    "foreign",
    [
        "rule add pref 1024 from 192.0.2.0/24 lookup 100",
        "rule add pref 1024 fwmark 0x2000/0x2000 lookup 27504",
        "rule add pref 1024 fwmark 0x1000/0xffff lookup 27504",
        "rule add pref 1024 fwmark 0x1000/0x1000 lookup 100",
        "rule add pref 1025 fwmark 0x1000/0x1000 lookup 27504",
        "rule add pref 1024 fwmark 0x1000/0x1000 unreachable",
        "route add 192.0.2.0/24 dev lo table 27504",
    ],
)
def test_what_others_have_is_not_ours_and_stays(host, foreign):
    route = ROUTES[4]
    host.ip(foreign)
    before = listed(host, 4)

    assert not routing.present(route)
    assert len(routing.ensure(route)) == 2
    assert routing.present(route)
    assert routing.foreign(route) == [] or "not made by kpx" in routing.foreign(route)[0]

    assert len(routing.remove(route)) == 2
    assert sorted(listed(host, 4)) == sorted(before)


def test_a_rule_that_differs_only_in_more_conditions_keeps_ours_in_place(host):
    """The kernel would delete whichever of them comes first."""
    route = ROUTES[4]
    host.ip("rule add pref 1024 fwmark 0x1000/0x1000 iif lo lookup 27504")
    routing.ensure(route)
    removed = routing.remove(route)

    assert removed == [
        f"left {route.rule}: another rule differs from it only in further conditions",
        f"deleted {route.route}",
    ]
    assert sum("27504" in line for line in listed(host, 4)) == 2


def test_a_rule_that_is_ours_but_for_a_not_is_an_error_that_says_what_to_do(host):
    """The kernel takes them for the same."""
    host.ip("rule add pref 1024 not fwmark 0x1000/0x1000 lookup 27504")
    before = [line for line in listed(host, 4) if "1024" in line]

    with pytest.raises(KernelError, match=r"lookup 27504: File exists \(remove what stands in its place"):
        routing.ensure(ROUTES[4])
    assert not routing.present(ROUTES[4])
    assert [line for line in listed(host, 4) if "1024:" in line] == before


def test_duplicates_are_removed_too(host):
    """Whoever made them: what they do is the same."""
    route = ROUTES[6]
    routing.ensure(route)
    host.ip("route add local default dev lo table 27504 metric 7", version=6)

    assert routing.remove(route) == [f"deleted {route.rule}", f"deleted {route.route}", f"deleted {route.route}"]
    assert not any("27504" in line or "default dev lo" in line for line in listed(host, 6))


def test_another_default_route_in_the_table_is_an_error_that_says_what_to_do(host):
    host.ip("route add unreachable default table 27504")

    with pytest.raises(KernelError, match=r"table 27504: File exists \(remove what stands in its place"):
        routing.ensure(ROUTES[4])
    assert routing.foreign(ROUTES[4]) == ["ip -4 route: 1 in table 27504 not made by kpx"]
    assert [line.strip() for line in listed(host, 4) if "unreachable" in line] == ["unreachable default"]


def test_a_table_is_removed_without_knowing_its_mark(host):
    routing.ensure(ROUTES[4])
    routing.ensure(ROUTES[4]._replace(mark=0x4000, mask=0x4000))
    host.ip("rule add pref 1024 fwmark 0x1/0x1 lookup 100")

    assert routing.remove_table(4, 1024, 27504) == [
        f"deleted {ROUTES[4].rule}",
        f"deleted {ROUTES[4]._replace(mark=0x4000, mask=0x4000).rule}",
        f"deleted {ROUTES[4].route}",
    ]
    assert routing.remove_table(4, 1024, 27504) == []
    assert [line for line in listed(host, 4) if "fwmark" in line] == ["1024:\tfrom all fwmark 0x1/0x1 lookup 100"]
