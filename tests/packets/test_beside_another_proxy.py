"""With --service-proxy-name: the Services with the label are forwarded, and of others not a packet is touched (S1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.objects import node, port, service, service_cidr, slice_of
from tests.lab.shop import CLIENT, ENDPOINTS, NODE, POD, ask, assert_served_by, eventually, names, shop, who
from tests.lab.world import ELSEWHERE, World

pytestmark = [pytest.mark.alike, pytest.mark.dataplane]

OURS, OTHERS, NOBODYS = "10.96.0.10", "10.96.0.20", "10.96.0.99"
LABEL = "service.kubernetes.io/service-proxy-name"
NODE_PORT, OTHER_NODE_PORT = 30080, 30081


def labelled(name: str, address: str, node_port: int, label: str | None) -> dict[str, Any]:
    made = service(name, address, port(80, node_port=node_port))
    made["metadata"]["labels"] = {} if label is None else {LABEL: label}
    return made


OBJECTS = [
    node(NODE[4]), service_cidr("10.96.0.0/16"),
    labelled("ours", OURS, NODE_PORT, "kpx"), slice_of("ours", *ENDPOINTS[4]),
    labelled("others", OTHERS, OTHER_NODE_PORT, None), slice_of("others", *ENDPOINTS[4]),
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Behind every address that is not ours, and on the other's node port, somebody else answers."""
    beside = [(OTHERS, 80), (OTHERS, 81), (NOBODYS, 80), (OURS, 81)]
    with shop(OBJECTS, tmp_path_factory.mktemp("beside"), beside=beside, options=("--service-proxy-name", "kpx")) as world:
        world.responder.listen(world.node.namespace, "host", "TCP", NODE[4], OTHER_NODE_PORT)
        world.agent.write(OBJECTS, mark=False)
        world.agent.launch()
        yield world


@pytest.mark.parametrize("source", [POD[4], CLIENT[4], ""])
def test_a_labelled_service_is_forwarded(world: World, source: str) -> None:
    assert_served_by(world, names(*ENDPOINTS[4]), source, OURS)
    assert_served_by(world, names(*ENDPOINTS[4]), source, NODE[4], NODE_PORT)
    assert ask(world, source, OURS, 81).verdict == "refused"


@pytest.mark.parametrize("source", [POD[4], CLIENT[4], ""])
@pytest.mark.parametrize("to", [OTHERS, NOBODYS])
def test_addresses_of_others_are_left_alone(world: World, source: str, to: str) -> None:
    """Nor are those dropped that no Service of ours has: they are the other proxy's to deal with (R6)."""
    assert ask(world, source, to).server == ELSEWHERE


def test_a_node_port_of_others_is_left_alone(world: World) -> None:
    assert ask(world, CLIENT[4], NODE[4], OTHER_NODE_PORT).server == "host"


def test_a_label_that_comes_and_goes_hands_over(world: World) -> None:
    for label, servers in (
        ("kpx", names(*ENDPOINTS[4])),
        ("another", {ELSEWHERE}),
        ("kpx", names(*ENDPOINTS[4])),
        (None, {ELSEWHERE}),
    ):
        world.agent.write([labelled("others", OTHERS, OTHER_NODE_PORT, label)], mark=False)

        eventually(lambda: who(world, CLIENT[4], OTHERS, times=1) <= servers, world)  # noqa: B023 (called before the next round)
        assert_served_by(world, servers, CLIENT[4], OTHERS)


def test_reading_verbs_see_it_the_same_way(world: World) -> None:
    assert "not kpx" in world.agent.kpx("get", "services").stdout
    assert world.agent.kpx("diff").returncode == 0
