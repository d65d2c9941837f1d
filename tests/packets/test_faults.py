"""
The kernel in trouble, and the way to it: whatever fails at whatever call, the agent ends with the kernel as desired, or says what
it could not do (P1, 16.2, 16.11).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kpx import log
from kpx.dataplanes.nftables import apply
from kpx.dataplanes.nftables.observe import elements_of
from kpx.errors import NoAnswer
from kpx.kernel.netlink import NETLINK_NETFILTER, Netlink
from kpx.kernel.wire import ipset
from kpx.model.addresses import Family, parse_address
from tests.lab import dataplane
from tests.lab.events import said
from tests.lab.faults import FAULTS, Faults, Strike
from tests.lab.netns import PATIENCE, Namespace
from tests.lab.objects import service, slice_of
from tests.lab.ruleset import nft
from tests.lab.troubled import AFTER, BEFORE, host, live, started

pytestmark = pytest.mark.dataplane
EXAMPLES = 60 if PATIENCE == 1 else 4
BY_NAME = {fault.name: fault for fault in FAULTS}
SET_FULL = 4352
"""IPSET_ERR_HASH_FULL (include/linux/netfilter/ipset/ip_set_hash.h)."""


@pytest.fixture(autouse=True)
def _small_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are taken and some not when something goes wrong midway, as in a large cluster."""
    monkeypatch.setattr(apply, "TRANSACTION_MAX_OPERATIONS", 20)


@pytest.fixture
def here() -> Iterator[Namespace]:
    """A host, with this thread in it."""
    with host() as namespace:
        yield namespace


def delete_what_is_ours(namespace: Namespace) -> None:
    """What a careless script of somebody else does, if there is anything yet."""
    namespace.run("nft", "delete", "table", "ip", "kpx", check=False)
    if dataplane.CHOSEN == "ipvs":
        namespace.run("ipvsadm", "-C")
        namespace.run("ipset", "flush")


_CALLS: dict[str, int] = {}


@pytest.fixture
def calls(_small_transactions: None) -> dict[str, int]:
    """How many calls of each kind an untroubled life takes."""
    if not _CALLS:
        faults = Faults()
        with host():
            live(faults)
        _CALLS.update(faults.calls)
    return _CALLS


def test_an_untroubled_life(calls: dict[str, int]) -> None:
    """The tests below strike at calls there are."""
    assert min(calls.values()) > 20


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_faults_anywhere(calls: dict[str, int], data: st.DataObject) -> None:
    """One to three faults at any call of any kind: the agent mends what they did, or is started again and does."""
    strikes = []
    for fault in data.draw(st.lists(st.sampled_from(FAULTS), min_size=1, max_size=3), "faults"):
        at, part = st.integers(0, calls[fault.call] - 1), st.integers(0, 1000)
        strikes.append(Strike(fault, data.draw(at, "at call"), data.draw(part, "part")))
    with host() as namespace:
        live(Faults(strikes, lambda: delete_what_is_ours(namespace)))


def test_a_complaint_that_comes_behind_the_last_acknowledgement_is_heard(
    here: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise rows that were refused would be taken for written."""
    monkeypatch.setattr(apply, "TRANSACTION_MAX_OPERATIONS", 10_000)
    faults = Faults()
    with started(faults) as node:
        faults.strike(Strike(BY_NAME["refuse ENOSPC"], faults.calls["refuse"], 1))
        faults.strike(Strike(BY_NAME["in the other order"], faults.calls["receive"]))
        node.hear(BEFORE, AFTER)
        assert [fault.name for fault in faults.struck] == ["refuse ENOSPC", "in the other order"]
        node.settle()


def kind_of(message: bytes) -> int:
    """The kind of a netlink message, of netfilter's the subsystem in its high byte."""
    return int.from_bytes(message[4:6], sys.byteorder)


def said_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines of the log, as an operator reads them."""
    formatter = log.TextFormatter()
    return [formatter.format(record) for record in caplog.records]


def test_rows_that_are_refused_for_good_are_named_and_stop_nobody_else(here: Namespace, caplog: pytest.LogCaptureFixture) -> None:
    """16.11: the Service, the row as a command and the kernel's reason; no half of its frontend; once it may be, it is."""
    refused, other = "10.96.0.77", "10.96.0.78"
    more = said(
        *(service("refused", refused), slice_of("refused", "10.244.1.1")),
        *(service("other", other), slice_of("other", "10.244.1.1")),
    )
    faults = Faults()
    with started(faults) as node:
        # Elements of ipsets go many to a message, and the kernel names the one it refuses; these sockets know messages only.
        faults.refuses = lambda message: (
            errno.ENOSPC if parse_address(refused) in message and kind_of(message) >> 8 != ipset.NFNL_SUBSYS_IPSET else 0
        )
        node.hear(BEFORE, [*BEFORE, *more])

        refusals = node.engine.refusals.every()
        assert {str(each.service) for each in refusals if each.service} == {"shop/refused"}
        assert set(node.differences()) == {each.operation.table.name for each in refusals}
        lines = [line for line in said_lines(caplog) if "refuses rows" in line]
        assert any("shop/refused" in line and refused in line and "No space left on device" in line for line in lines), lines
        assert parse_address(other) in node.frontends()
        assert parse_address(refused) not in node.frontends()

        faults.end()
        node.settle()
        assert parse_address(refused) in node.frontends()


@pytest.mark.dataplane("ipvs")
def test_a_full_ipset_is_said_and_the_rest_is_in_force(here: Namespace, caplog: pytest.LogCaptureFixture) -> None:
    """`Set full`, with the Service; what is in no set yet is not steered, and once there is room all is as desired."""
    late = "10.96.0.77"
    more = said(service("late", late), slice_of("late", "10.244.1.1"))
    faults = Faults()
    with started(faults) as node:
        faults.refuses = lambda message: SET_FULL if kind_of(message) == ipset.ADD else 0
        node.hear(BEFORE, [*BEFORE, *more])

        assert any("shop/late" in line and ipset.ERRORS[SET_FULL] in line for line in said_lines(caplog))
        assert not node.is_content
        faults.end()
        node.settle()
        assert parse_address(late) in node.frontends()


def test_without_the_right_to_write_the_agent_says_so_and_goes_on_once_it_has_it(
    here: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    """EPERM half way: what is there stays, the log has the kernel's words, and nothing is forgotten."""
    faults = Faults()
    with started(faults) as node:
        before = node.frontends()
        faults.refuses = lambda message: errno.EPERM
        node.hear(BEFORE, AFTER)
        assert not node.is_content
        assert any("Operation not permitted" in line for line in said_lines(caplog))
        assert node.frontends() == before
        faults.end()
        node.settle()


@pytest.mark.dataplane("nftables")
def test_lost_notifications_are_noticed_and_what_was_lost_is_mended(here: Namespace, caplog: pytest.LogCaptureFixture) -> None:
    """The kernel drops them when there is no room (netlink(7)); here for real: so much happens that the socket overflows."""
    with started(Faults()) as node:
        with socket.socket(fileno=os.dup(node.plane.fileno())) as watch:
            watch.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        nft(here, "add table ip theirs; add set ip theirs s { type ipv4_addr; }")
        for number in range(8):
            addresses = ", ".join(f"10.{number}.{high}.{low}" for high in range(8) for low in range(64))
            nft(here, f"add element ip theirs s {{ {addresses} }}")
        nft(here, "delete table ip kpx")
        assert node.differences()
        node.settle()
        assert any("notifications were lost" in line for line in said_lines(caplog))


@pytest.fixture
def clients(here: Namespace) -> None:
    """A set so large that its dump takes several datagrams."""
    nft(here, "add table ip kpx; add set ip kpx clients { type ipv4_addr; }")
    addresses = ", ".join(f"10.0.{high}.{low}" for high in range(16) for low in range(250))
    nft(here, f"add element ip kpx clients {{ {addresses} }}")


def read_clients(netlink: Netlink) -> int:
    """How many there are."""
    return len({element.key for element in elements_of(netlink, Family.IPV4, "clients")})


def dump_datagrams(faults: Faults, netlink: Netlink) -> int:
    """In how many datagrams they come; the kernel makes them larger once it has seen how large a buffer there is."""
    assert read_clients(netlink) == 4000
    before = faults.calls["receive"]
    assert read_clients(netlink) == 4000
    return faults.calls["receive"] - before


@pytest.mark.parametrize("name", ["receive EINTR", "receive ENOBUFS", "receive ENOMEM", "cut", "cut without a word", "silence"])
def test_a_dump_that_broke_off_is_no_obstacle_to_the_next(clients: None, name: str) -> None:
    """The kernel refuses a second dump (EBUSY) while the first is not read to its end."""
    faults = Faults()
    with contextlib.closing(faults.netlink(NETLINK_NETFILTER)) as netlink:
        datagrams = dump_datagrams(faults, netlink)
        assert datagrams > 2, "a dump this small has no middle"
        for later in range(datagrams):
            faults.strike(Strike(BY_NAME[name], faults.calls["receive"] + later, 700))
            with pytest.raises(NoAnswer):
                read_clients(netlink)
            assert read_clients(netlink) == 4000, f"after {name} at datagram {later}"


def test_datagrams_of_a_dump_in_the_other_order_lose_nothing(clients: None) -> None:
    """Even when the end comes before the last rows."""
    faults = Faults()
    with contextlib.closing(faults.netlink(NETLINK_NETFILTER)) as netlink:
        for later in range(dump_datagrams(faults, netlink)):
            faults.strike(Strike(BY_NAME["in the other order"], faults.calls["receive"] + later))
            assert read_clients(netlink) == 4000
