"""The cluster of a run: one Service nothing ever happens to, and one whose endpoints come and go; twenty endpoints each."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

from tests.lab import dataplane
from tests.lab.agent import Object
from tests.lab.flows import endpoint_name
from tests.lab.objects import node, port, service, slice_of
from tests.lab.shop import CLIENT, NODE, POD, place, shop
from tests.lab.world import World
from tests.soak.flock import Way
from tests.soak.servers import serving

STEADY, CHURNED = "10.96.0.10", "10.96.0.20"
STEADY_PORT, CHURNED_PORT = 30080, 30081
ENDPOINTS = tuple(f"10.244.1.{number}" for number in range(20, 40))
CHURN = len(ENDPOINTS) // 10
"""So many endpoints are replaced at a time: one in ten."""
SERVER_PORT = 9090
"""The lab's own servers, in this process, have 8080."""

OBJECTS: list[Object] = [
    node(NODE[4]),
    service("steady", STEADY, port(80, node_port=STEADY_PORT)),
    slice_of("steady", *ENDPOINTS, port=SERVER_PORT),
    service("churned", CHURNED, port(80, node_port=CHURNED_PORT)),
    slice_of("churned", *ENDPOINTS, port=SERVER_PORT),
]


class Cluster:
    """
    What a run happens to.

    Attributes:
        steady, churned: the ways to each Service, by ClusterIP and by NodePort.
    """

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.agent = world.agent
        self.random = random.Random(seed)
        self._out: list[str] = []
        self.steady = self._ways(STEADY, STEADY_PORT)
        self.churned = self._ways(CHURNED, CHURNED_PORT)

    def _ways(self, address: str, node_port: int) -> list[Way]:
        pod, client = POD[4], CLIENT[4]
        return [
            Way(place(self.world, pod), pod, address, 80),
            Way(place(self.world, client), client, NODE[4], node_port),
        ]

    def churn(self) -> None:
        """Replace one endpoint in ten: others leave the slice, and those that left before come back."""
        left = [each for each in ENDPOINTS if each not in self._out]
        self._out = self.random.sample(left, CHURN)
        kept = [each for each in ENDPOINTS if each not in self._out]
        self.agent.write([slice_of("churned", *kept, port=SERVER_PORT)], mark=False)

    @staticmethod
    def is_endpoint(server: str) -> bool:
        """Tell whether this is how an endpoint names itself."""
        return server in _NAMES


_NAMES = frozenset(endpoint_name(each, SERVER_PORT) for each in ENDPOINTS)


@contextlib.contextmanager
def laid_out(directory: Path, seed: int) -> Iterator[Cluster]:
    """Lay the cluster out with servers behind every endpoint, and an agent that has caught up; all of it ends with the block."""
    # An IPVS that keeps connections to endpoints no slice lists for a minute only would end them by design.
    options = ("--drain-grace", "3600s") if dataplane.CHOSEN == "ipvs" else ()
    with shop([slice_of("hosts", *ENDPOINTS)], directory) as world:
        world.agent.run_options = options
        places = [(place(world, each), endpoint_name(each, SERVER_PORT), each, SERVER_PORT) for each in ENDPOINTS]
        with serving(places):
            world.agent.write(OBJECTS, mark=False)
            world.agent.start()
            yield Cluster(world, seed)
            world.clean_up()
