"""ipsets of a real kernel, in a namespace of its own: what is written is there, what is refused is named, others' stay."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from kpx.errors import CapabilityError, KernelError
from kpx.kernel.ipset import IpSets
from kpx.kernel.netlink import Netlink
from kpx.kernel.wire.ipset import Element, SetShape
from kpx.model.addresses import parse_address
from tests.lab.netns import Namespace

pytestmark = [pytest.mark.packets, pytest.mark.needs("ip_set")]

MOST = 16_777_216
A, B, C = (parse_address(f"10.0.0.{last}") for last in (1, 2, 3))
SIX, SIX_B = parse_address("fd00::1"), parse_address("fd00::2")
PORTS = SetShape("KPX-FRONTENDS", "hash:ip,port", 4, MOST)
NETS = SetShape("KPX-PODS", "hash:net", 4, MOST)


@pytest.fixture
def host() -> Iterator[Namespace]:
    namespace = Namespace("host")
    yield namespace
    namespace.close()


@pytest.fixture
def sets(host: Namespace) -> Iterator[IpSets]:
    with host.entered():
        netlink = Netlink()
    yield IpSets(netlink)
    netlink.close()


KINDS = {
    "hash:ip": ([Element(A), Element(B)], [Element(SIX), Element(SIX_B)]),
    "hash:net": (
        [Element(A, 32), Element(parse_address("10.4.0.0"), 14)],
        [Element(SIX, 128), Element(parse_address("fd01::"), 48)],
    ),
    "hash:ip,port": ([Element(A, None, 6, 80), Element(A, None, 17, 80), Element(A, None, 132, 80)], [Element(SIX, None, 6, 1)]),
    "hash:ip,port,ip": ([Element(A, None, 6, 80, B)], [Element(SIX, None, 17, 65535, SIX_B)]),
    "hash:net,net": ([Element(A, 32, 0, 0, A, 32)], [Element(SIX, 128, 0, 0, SIX, 128)]),
}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.needs(f"ipset type {kind}")) for kind in KINDS])
def test_every_kind_of_set_keeps_its_elements(host, sets, kind, family):
    """ipset(8) sees them too, whatever revision the kernel has."""
    shape = SetShape("KPX-X", kind, family, MOST)
    elements = KINDS[kind][0 if family == 4 else 1]
    sets.create(shape)

    assert sets.write([("KPX-X", True, elements)]) == []
    assert sorted(sets.elements("KPX-X")) == sorted(elements)
    assert sets.shape("KPX-X") == shape
    assert sets.count("KPX-X") == len(elements)
    assert host.run("ipset", "save").stdout.count("\nadd KPX-X ") == len(elements)

    assert sets.write([("KPX-X", False, elements[:1])]) == []
    assert sorted(sets.elements("KPX-X")) == sorted(elements[1:])


def test_a_kind_the_kernel_does_not_have_says_which_module_brings_it(sets):
    with pytest.raises(CapabilityError, match="no ipsets of type hash:no,such: run `modprobe ip_set_hash_nosuch`"):
        sets.create(SetShape("KPX-X", "hash:no,such", 4, MOST))


def test_a_set_holds_more_than_65536_elements(sets):
    """kube-proxy's ipsets ended there, and what was beyond lost its rules (D17)."""
    elements = [Element(bytes((10, n >> 16, n >> 8 & 255, n & 255)), None, 6, 80) for n in range(70_000)]
    sets.create(PORTS)

    assert sets.write([(PORTS.name, True, elements)]) == []
    assert sets.count(PORTS.name) == 70_000
    assert set(sets.elements(PORTS.name)) == set(elements)


def test_a_refused_element_is_named_and_all_others_take_effect(sets):
    """Also when it is neither the first nor the last of its message, and when there are several in several messages."""
    good = [Element(bytes((10, 1, n >> 8, n & 255)), None, 6, 80) for n in range(5_000)]
    mixed = list(good)
    for index in (0, 7, 8, 2_500, 5_003):
        mixed.insert(index, Element(SIX, None, 6, 80))
    sets.create(PORTS)

    refused = sets.write([(PORTS.name, True, [Element(A, None, 6, 1)]), (PORTS.name, True, mixed)])

    assert [(change, index) for change, index, _ in refused] == [(1, 0), (1, 7), (1, 8), (1, 2_500), (1, 5_003)]
    assert all(number for _, _, number in refused)
    assert set(sets.elements(PORTS.name)) == {*good, Element(A, None, 6, 1)}


def test_a_full_set_says_so_for_each_element_it_has_no_room_for(sets):
    small = SetShape("KPX-X", "hash:ip", 4, 2)
    sets.create(small)

    refused = sets.write([("KPX-X", True, [Element(A), Element(B), Element(C)])])

    assert refused == [(0, 2, 4352)]
    assert sets.count("KPX-X") == 2


def test_changes_take_effect_in_their_order(sets):
    sets.create(PORTS)
    one, two = [Element(A, None, 6, 80)], [Element(B, None, 6, 80)]
    changes = [(True, one + two), (False, one), (True, one), (False, two)]

    assert sets.write([(PORTS.name, adding, elements) for adding, elements in changes]) == []
    assert list(sets.elements(PORTS.name)) == one


def test_adding_what_is_there_and_removing_what_is_not_is_nothing(sets):
    sets.create(NETS)
    changes = [(NETS.name, True, [Element(A, 32)]), (NETS.name, False, [Element(B, 32)])]

    assert sets.write(changes) == sets.write(changes) == []
    assert list(sets.elements(NETS.name)) == [Element(A, 32)]


def test_elements_of_a_set_that_is_not_there_are_all_refused(sets):
    assert sets.write([("KPX-NONE", True, [Element(A), Element(B)])]) == [(0, 0, errno.ENOENT), (0, 1, errno.ENOENT)]


def test_timeouts_run_and_are_set_anew(sets):
    shape = SetShape("KPX-DRAINING", "hash:ip,port,ip", 4, MOST, timeout=True)
    element = Element(A, None, 6, 80, B, None, 100)
    sets.create(shape)
    sets.write([(shape.name, True, [element, element._replace(port=81, timeout_s=0)])])
    left = {one.port: one.timeout_s for one in sets.elements(shape.name)}

    assert 90 <= left[80] <= 100
    assert left[81] == 0  # for ever
    sets.write([(shape.name, True, [element._replace(timeout_s=3600)])])
    assert 3590 <= {one.port: one.timeout_s for one in sets.elements(shape.name)}[80] <= 3600
    assert sets.shape(shape.name) == shape


def test_a_set_that_is_there_stays_as_it_is_when_it_is_the_same(sets):
    sets.create(PORTS)
    sets.write([(PORTS.name, True, [Element(A, None, 6, 80)])])
    sets.create(PORTS)

    assert sets.count(PORTS.name) == 1


@pytest.mark.parametrize(
    "other", [("hash:ip",), ("hash:ip,port", "family", "inet6"), ("hash:ip,port",), ("hash:ip,port", "timeout", "5")], ids=str
)
def test_a_set_of_another_shape_is_refused_and_not_touched(host, sets, other):
    """Of our name, but made by somebody else: another kind, family, size, or with timeouts."""
    host.run("ipset", "create", PORTS.name, *other)
    before = host.run("ipset", "save").stdout

    with pytest.raises(KernelError, match=r"create set KPX-FRONTENDS: File exists \(it is hash:ip.*, not hash:ip,port, IPv4"):
        sets.create(PORTS)
    assert host.run("ipset", "save").stdout == before


def test_other_peoples_sets_are_listed_and_left_alone(host, sets):
    """Kinds that kpx does not use included."""
    commands = "create theirs hash:ip\nadd theirs 192.0.2.1\ncreate ports bitmap:port range 1-9\nadd ports 7\n"
    host.run("ipset", "restore", stdin=f"{commands}create all list:set\nadd all theirs\n")
    before = host.run("ipset", "save").stdout
    sets.create(PORTS)
    sets.write([(PORTS.name, True, [Element(A, None, 6, 80)])])
    sets.flush(PORTS.name)
    sets.destroy(PORTS.name)

    assert sorted(sets.names()) == ["all", "ports", "theirs"]
    assert sets.shape("all").kind == "list:set"
    assert list(sets.elements("ports")) == []  # they have no address
    assert host.run("ipset", "save").stdout == before


def test_what_is_not_there_is_none_and_destroying_it_is_nothing(sets):
    assert (sets.shape("KPX-NONE"), sets.count("KPX-NONE")) == (None, None)
    sets.destroy("KPX-NONE")
    with pytest.raises(KernelError, match="flush set KPX-NONE: No such file"):
        sets.flush("KPX-NONE")


@pytest.mark.needs("xt_set")
def test_a_set_in_use_is_not_destroyed_and_the_error_says_why(host, sets):
    sets.create(PORTS)
    host.run("iptables", "-A", "INPUT", "-m", "set", "--match-set", PORTS.name, "dst,dst", "-j", "ACCEPT")

    with pytest.raises(KernelError, match=r"^destroy set KPX-FRONTENDS: the set is in use$"):
        sets.destroy(PORTS.name)
    assert sets.shape(PORTS.name) == PORTS


def test_namespaces_have_sets_of_their_own(sets):
    other = Namespace("other")
    try:
        sets.create(PORTS)
        with other.entered():
            netlink = Netlink()
        assert IpSets(netlink).names() == []
        netlink.close()
    finally:
        other.close()
