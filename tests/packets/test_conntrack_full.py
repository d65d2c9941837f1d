"""
Connection tracking without room: the kernel drops what would be a new connection, and kpx goes on as if there were room.

The limit is the whole machine's, so this is tested where the machine is the lab's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.objects import node, port, service, slice_of
from tests.lab.shop import ENDPOINTS, NODE, POD, begin, eventually, shop

pytestmark = [pytest.mark.dataplane, pytest.mark.needs("a machine of the lab's own")]

LIMIT = Path("/proc/sys/net/netfilter/nf_conntrack_max")
DNS = "10.96.0.53"
FIRST, SECOND, _ = ENDPOINTS[4]


@contextlib.contextmanager
def limited_to(flows: int) -> Iterator[None]:
    """No new flows beyond so many."""
    before = LIMIT.read_text()
    LIMIT.write_text(str(flows))
    try:
        yield
    finally:
        LIMIT.write_text(before)


def test_changes_are_written_and_stale_flows_forgotten_when_connection_tracking_is_full(tmp_path: Path) -> None:
    """`kpx check` says how full it is; once there is room, the client goes where it should (U4)."""
    objects = [node(NODE[4]), service("dns", DNS, port(53, "UDP")), slice_of("dns", FIRST, protocol="UDP")]
    with shop([*objects, slice_of("others", SECOND, protocol="UDP")], tmp_path, protocol="UDP") as world:
        begin(world, objects)
        flow = world.flow("UDP", POD[4], DNS, 53, 5000)
        assert flow.ask().server == f"{FIRST}:8080"
        with limited_to(1):
            # No marker: it is a new connection.
            world.agent.write([slice_of("dns", SECOND, protocol="UDP")], mark=False)
            eventually(lambda: world.agent.kpx("diff", check=False).returncode == 0, world)
            said = world.agent.kpx("check", check=False).stdout
            assert "of at most 1 flows" in said, said
            assert "new connections are dropped" in said
        eventually(lambda: flow.ask().server == f"{SECOND}:8080", world)
        world.wind_up()
