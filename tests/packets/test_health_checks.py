"""
Endpoints that the agent checks itself (docs/health-checks.md): one that dies leaves in time, whichever way it dies, and comes
back; a panic threshold, a restart, and what the verbs say. Servers are closed, cut off or made to say that they are ill.
"""

from __future__ import annotations

import collections
import contextlib
import http.server
import json
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from tests.lab import dataplane, objects
from tests.lab.flows import Expected, Row, endpoint_name
from tests.lab.holdings import HOLDINGS
from tests.lab.netns import PATIENCE
from tests.lab.probes import Flow, probe
from tests.lab.traffic import Responder
from tests.lab.world import NodeConfig, World

pytestmark = [pytest.mark.alike, pytest.mark.dataplane]
HELD = HOLDINGS[dataplane.CHOSEN]
POD = "10.244.1.9"
ENDPOINTS = ("10.244.1.1", "10.244.1.2", "10.244.2.1")
FIRST, SECOND, THIRD = (endpoint_name(address, 8080) for address in ENDPOINTS)
ALL = {FIRST, SECOND, THIRD}
LEFT = {SECOND, THIRD}
VIP = "10.96.0.10"
NODE = NodeConfig("n1", ("192.168.10.1",), ("10.244.0.0/16",))
NODE_OBJECT = objects.node("192.168.10.1")
INTERVAL = f"{200 * PATIENCE:.0f}ms"
"""How often endpoints are asked, and how long they may take: in an emulated machine that is slow, too."""
OUT_S = 3.0 * PATIENCE
"""By when an endpoint that died must have left, at default settings."""
BACK_S = 4.0 * PATIENCE
DRAINED_S = 60.0 * PATIENCE
SURE = 40
"""So many connections in a row to the right endpoints are no chance: one of three is missed so often once in ten million."""


class Servers:
    """The servers of the endpoints on port 8080, each of which can end and begin again."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._running: dict[str, Responder] = {}
        for address in ENDPOINTS:
            self.start(address)

    def start(self, address: str) -> None:
        """Let an endpoint live."""
        responder = self._running[address] = Responder()
        responder.listen(self._world.host(address).namespace, endpoint_name(address, 8080), "TCP", address, 8080)

    def stop(self, address: str) -> None:
        """Let an endpoint die: connections to it are refused."""
        self._running.pop(address).close()

    def close(self) -> None:
        """End all."""
        for address in list(self._running):
            self.stop(address)


class Illness:
    """An HTTP server beside an endpoint that says how it is."""

    def __init__(self, world: World, address: str, port: int) -> None:
        self.status = 200
        self.asked: list[str] = []
        illness = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                illness.asked.append(f"{self.path} {self.headers['Host']}")
                self.send_response(illness.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                """Say nothing."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """The agent resets connections once it has read the first line."""

        with world.host(address).namespace.entered():
            self._server = Server((address, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A node, a pod that asks, and three endpoints; the agent does not run yet."""
    laid_out = [NODE_OBJECT, objects.slice_of("web", *ENDPOINTS, port=9, remote=ENDPOINTS[2:])]
    row = Row("pod", "pod", POD, VIP, "TCP", 80, Expected("dnat", tuple(ALL)))
    with World(NODE, laid_out, [row], tmp_path) as world:
        yield world
        world.clean_up()


@pytest.fixture
def servers(world: World) -> Iterator[Servers]:
    with contextlib.closing(Servers(world)) as servers:
        yield servers


def begin(world: World, check: str, **options: str) -> None:
    """Write the Service with a check, start the agent, and see all endpoints in use."""
    write(world, check, **options)
    world.agent.start()
    assert time_until(world, ALL, BACK_S) < BACK_S


def write(world: World, check: str, **options: str) -> None:
    """Write the Service and its slice."""
    annotations = {"kpx.io/health-check": check} if check else {}
    annotations |= {f"kpx.io/health-check-{name}": value for name, value in options.items()}
    service = objects.service("web", VIP, annotations=annotations)
    world.agent.write([NODE_OBJECT, service, objects.slice_of("web", *ENDPOINTS, remote=ENDPOINTS[2:])], mark=False)


def reached(world: World) -> str:
    """Which endpoint a new connection reaches, or what becomes of it; a silent one is not waited for long."""
    outcome = probe(world.host(POD).namespace, "TCP", POD, VIP, 80, timeout_s=0.2 * PATIENCE)
    return outcome.server or outcome.verdict


def time_until(world: World, expected: Collection[str], within_s: float) -> float:
    """
    Return after how many seconds the last connection that went elsewhere began, once `SURE` in a row met all that is expected.

    Fails when that is not so `within_s` after the start.
    """
    started = last = time.monotonic()
    row: list[str] = []
    while len(row) < SURE or set(row) != set(expected):
        began = time.monotonic()
        where = reached(world)
        if where in expected:
            row.append(where)
        else:
            row.clear()
            last = began
        assert last - started <= within_s, f"still {where} after {within_s} s: {world.agent.log_tail()}"
        assert time.monotonic() - started <= within_s + 10 * PATIENCE, f"only {set(row)} are met: {world.agent.log_tail()}"
    return last - started


def time_to_return(world: World, server: str) -> float:
    """
    Return after how many seconds an endpoint gets its share of connections again; fails after `BACK_S`.

    One connection is no proof: with the source port of an attempt that stayed unanswered it follows that one (conntrack).
    """
    started = time.monotonic()
    recent: collections.deque[str] = collections.deque(maxlen=12)
    while recent.count(server) < 3:
        assert time.monotonic() - started <= BACK_S, f"not back after {BACK_S} s: {world.agent.log_tail()}"
        recent.append(reached(world))
    return time.monotonic() - started


def cut_off(world: World, address: str) -> None:
    """Let the machine of an endpoint be silent, as if somebody had pulled its plug."""
    chain = "add table inet plug; add chain inet plug input { type filter hook input priority -300; policy drop; }"
    world.host(address).namespace.run("nft", "-f", "-", stdin=chain)


def plug_in(world: World, address: str) -> None:
    """Let it answer again."""
    world.host(address).namespace.run("nft", "delete", "table", "inet", "plug")


def explained(world: World) -> dict[str, str]:
    """What `kpx explain` says of each endpoint."""
    story = json.loads(world.agent.kpx("explain", f"{VIP}:80", "-o", "json").stdout)
    return {each["endpoint"]: each["reason"] for each in story["endpoints"]}


def lines(world: World) -> list[tuple[str, str]]:
    """Each endpoint that `kpx get endpoints` shows, and how it is."""
    answer = json.loads(world.agent.kpx("get", "endpoints", VIP, "-o", "json").stdout)
    return [(each["endpoint"], each["state"]) for each in answer["endpoints"]]


def listed(world: World) -> dict[str, str]:
    """How each endpoint is; with ipvs one that failed is also shown as one that drains."""
    return {endpoint: state for endpoint, state in lines(world) if state != "draining"}


def await_drained(world: World) -> None:
    """Wait until ipvs has nothing left to do with endpoints that left."""
    deadline = time.monotonic() + DRAINED_S
    while any(state == "draining" for _, state in lines(world)):
        assert time.monotonic() < deadline, lines(world)


def test_endpoint_that_closes_leaves_in_time_and_comes_back(world: World, servers: Servers) -> None:
    """A connection to another endpoint lives on; what the kernel lacks because of the check is no difference to the manifests."""
    begin(world, "tcp")
    connection = next(flow for flow, server in flows(world) if server == SECOND)

    servers.stop(ENDPOINTS[0])
    out_s = time_until(world, LEFT, OUT_S)

    assert connection.ask().server == SECOND
    assert explained(world) == {
        FIRST: "failed its health check (connection refused, 2 in a row)", SECOND: "ready", THIRD: "ready",
    }  # fmt: skip
    assert listed(world) == {FIRST: "failing", SECOND: "serving", THIRD: "serving"}
    assert world.agent.kpx("diff").returncode == 0
    servers.start(ENDPOINTS[0])
    back_s = time_to_return(world, FIRST)
    assert explained(world) == dict.fromkeys(sorted(ALL), "ready")
    print(f"out after {out_s:.2f} s, back after {back_s:.2f} s")


def flows(world: World) -> Iterator[tuple[Flow, str]]:
    """Open connections until somebody has the one he wants."""
    while True:
        flow = world.flow("TCP", POD, VIP, 80)
        yield flow, flow.ask().server


def test_endpoint_that_falls_silent_leaves_in_time_and_comes_back(world: World, servers: Servers) -> None:
    begin(world, "tcp")

    cut_off(world, ENDPOINTS[2])
    out_s = time_until(world, {FIRST, SECOND}, OUT_S)

    assert explained(world)[THIRD] == "failed its health check (no answer within 0.5 s, 2 in a row)"
    plug_in(world, ENDPOINTS[2])
    back_s = time_to_return(world, THIRD)
    print(f"out after {out_s:.2f} s, back after {back_s:.2f} s")


def test_endpoint_that_says_it_is_ill_leaves_and_comes_back(world: World, servers: Servers) -> None:
    """It is asked where and as whom the annotations say, and still serves whoever is sent to it."""
    with contextlib.ExitStack() as stack:
        ills = {a: stack.enter_context(contextlib.closing(Illness(world, a, 8081))) for a in ENDPOINTS}
        begin(world, "http://:8081/healthz?full", host="shop.example", interval=INTERVAL, timeout=INTERVAL)

        ills[ENDPOINTS[0]].status = 503
        time_until(world, LEFT, OUT_S)

        assert explained(world)[FIRST] == "failed its health check (HTTP status 503, 2 in a row)"
        assert set(ills[ENDPOINTS[0]].asked) == {"/healthz?full shop.example"}
        ills[ENDPOINTS[0]].status = 301
        time_to_return(world, FIRST)


def test_without_a_threshold_the_last_endpoint_leaves_and_with_one_all_are_used(world: World, servers: Servers) -> None:
    begin(world, f"tcp interval={INTERVAL} timeout={INTERVAL}")

    for address in ENDPOINTS:
        servers.stop(address)
    deadline = time.monotonic() + OUT_S
    while set(listed(world).values()) != {"failing"}:
        assert time.monotonic() < deadline, world.agent.log_tail()
    assert reached(world) == "refused"
    servers.start(ENDPOINTS[1])
    time_to_return(world, SECOND)
    write(world, f"tcp interval={INTERVAL} timeout={INTERVAL} panic=50")
    world.agent.mark()
    world.agent.catch_up()

    assert {reached(world) for _ in range(SURE)} == {"refused", SECOND}
    reasons = explained(world)
    too_few = "failed its health check, used because too few endpoints pass (connection refused, 2 in a row)"
    assert reasons == {FIRST: too_few, SECOND: "ready", THIRD: too_few}
    assert listed(world) == dict.fromkeys(sorted(ALL), "serving")
    servers.start(ENDPOINTS[2])
    time_until(world, LEFT, BACK_S)


def test_restart_writes_nothing_and_sends_nobody_to_an_endpoint_known_to_be_dead(world: World, servers: Servers) -> None:
    """The kernel is the memory: what it left out stays out until it passes."""
    begin(world, "tcp")
    servers.stop(ENDPOINTS[0])
    time_until(world, LEFT, OUT_S)
    await_drained(world)
    world.agent.stop()
    before = HELD.version(world.node.namespace)

    world.agent.launch()
    ended = time.monotonic() + 3.0
    while time.monotonic() < ended:
        assert reached(world) not in (FIRST, "refused")
    assert HELD.version(world.node.namespace) == before, f"a restart with nothing changed writes: {world.agent.log_tail()}"
    assert explained(world)[FIRST] == "failed its health check (connection refused, 2 in a row)"
    servers.start(ENDPOINTS[0])
    time_to_return(world, FIRST)


def test_check_that_is_taken_away_or_cannot_be_read_leaves_endpoints_as_the_slices_say(world: World, servers: Servers) -> None:
    begin(world, f"tcp interval={INTERVAL} timeout={INTERVAL}")
    servers.stop(ENDPOINTS[0])
    time_until(world, LEFT, OUT_S)

    write(world, "ping")
    time_until(world, {*LEFT, "refused"}, OUT_S)

    assert "kpx.io/health-check: Service shop/web: 'ping' is no health check; write tcp" in world.agent.log.read_text()
    assert explained(world) == dict.fromkeys(sorted(ALL), "ready")
    write(world, f"tcp interval={INTERVAL} timeout={INTERVAL}")
    time_until(world, LEFT, OUT_S)
    write(world, "")
    time_until(world, {*LEFT, "refused"}, OUT_S)
