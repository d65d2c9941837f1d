"""Checking endpoints: the machine that counts, real sockets on loopback, and what the engine is told."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from agent_builders import SYNCED, eps, started, svc
from hypothesis import given
from hypothesis import strategies as st
from policy_builders import FACTS, HTTP, UDP, compiled, endpoint, named, one_slice, service

from kpx.agent import asking
from kpx.agent.engine import Engine
from kpx.agent.lock import AgentLock
from kpx.checking.checks import Checking
from kpx.checking.probe import Probe, judge, request
from kpx.checking.rota import most_at_once
from kpx.checking.state import SUSPECT, Streak, Target, targets
from kpx.cluster.events import Delete, Event, Upsert
from kpx.dataplanes.base import KernelFrontend, KernelVerdict
from kpx.model.addresses import Address, parse_address
from kpx.model.endpointslice import SlicePort
from kpx.model.health_check import CheckKind, EndpointHealth, Failing, HealthCheck
from kpx.model.service import Service, ServicePort
from kpx.policy.desired import Backend, ServiceProgram
from tests.lab.memory_dataplane import MemoryDataplane

LOOPBACK = parse_address("127.0.0.1")
WEB = named("shop/web")
QUICK = HealthCheck(CheckKind.TCP, interval_s=0.1, timeout_s=0.05)
PATIENCE_S = 20.0


def test_it_leaves_after_fall_failures_in_a_row_and_returns_after_rise_passes_in_a_row() -> None:
    streak = Streak(rise=2, fall=3)

    assert [streak.failed("a"), streak.failed("b"), streak.passed()] == [False, False, False]
    assert [streak.failed("c"), streak.failed("d")] == [False, False]
    assert streak.why == ""
    assert streak.failed("e")
    assert streak.why == "e, 3 in a row"
    assert [streak.failed("f"), streak.passed(), streak.failed("g"), streak.passed()] == [False, False, False, False]
    assert streak.why == "e, 3 in a row"
    assert streak.passed()
    assert streak.why == ""


def test_a_suspect_is_out_until_it_passes_once_and_confirmed_by_failures() -> None:
    cleared, confirmed = Streak(rise=3, fall=2), Streak(rise=3, fall=2)
    for each in (cleared, confirmed):
        each.suspect("who knows")

    assert cleared.passed()
    assert cleared.why == ""
    assert not confirmed.failed("x")
    assert confirmed.why == "who knows"
    assert confirmed.failed("x")
    assert confirmed.why == "x, 2 in a row"
    assert [confirmed.passed(), confirmed.passed(), confirmed.passed()] == [False, False, True]


@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.booleans(), max_size=40))
def test_every_streak_ends_as_its_last_results_say(rise: int, fall: int, results: list[bool]) -> None:
    """It changes exactly when `rise` or `fall` results in a row contradict what is known."""
    streak = Streak(rise, fall)
    is_out = False
    for number, result in enumerate(results, 1):
        last = results[max(0, number - (rise if is_out else fall)) : number]
        turns = len(last) == (rise if is_out else fall) and all(each is is_out for each in last)
        assert (streak.passed() if result else streak.failed("x")) is turns
        is_out = is_out is not turns
        assert bool(streak.why) is is_out


def test_one_failure_may_be_enough() -> None:
    streak = Streak(1, 1)
    streak.failed("connection refused")

    assert streak.why == "connection refused"


def test_answers_are_judged_by_their_first_line() -> None:
    good = [b"HTTP/1.1 200 OK", b"HTTP/1.0 204 No Content", b"HTTP/1.1 301", b"HTTP/1.1 399 x"]

    assert [judge(line) for line in good] == [""] * 4
    assert judge(b"HTTP/1.1 503 Service Unavailable") == "HTTP status 503"
    assert judge(b"HTTP/1.1 400 Bad") == "HTTP status 400"
    assert judge(b"") == "the connection was closed without an answer"
    assert {judge(line) for line in (b"220 mail", b"HTTP/1.1", b"HTTP/1.1 2000 x", b"HTTP/2 200", b"\x16\x03")} == {
        "the answer is not HTTP"
    }


def test_request_names_the_endpoint_unless_a_host_is_given() -> None:
    check = HealthCheck(CheckKind.HTTP, path="/a?b")

    assert b"GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:80\r\n" in request(Target(LOOPBACK, 80, check))
    assert b"\r\nHost: [fd00::1]:80\r\n" in request(Target(parse_address("fd00::1"), 80, check))
    named_host = HealthCheck(CheckKind.HTTP, path="/", host="shop.example")
    assert b"\r\nHost: shop.example\r\n" in request(Target(LOOPBACK, 80, named_host))
    assert request(Target(LOOPBACK, 80, check)).endswith(b"\r\nConnection: close\r\n\r\n")


def serve(answer: Callable[[socket.socket], None] | None, context: ssl.SSLContext | None = None) -> tuple[socket.socket, int]:
    """Listen on a free port of loopback; answer connections in a thread, or never."""
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with contextlib.suppress(OSError):
            while answer is not None:
                connection = server.accept()[0]
                with (
                    contextlib.suppress(OSError),
                    context.wrap_socket(connection, server_side=True) if context else connection as to,
                ):
                    answer(to)

    threading.Thread(target=run, daemon=True).start()
    return server, server.getsockname()[1]


def asked(check: HealthCheck, port: int) -> str | None:
    """Ask once; None when no answer came in time."""
    probe = Probe(Target(LOOPBACK, port, check))
    deadline = time.monotonic() + (PATIENCE_S if check.timeout_s > 1 else check.timeout_s)
    with contextlib.closing(probe), select.epoll() as epoll:
        while probe.answer is None and (left := deadline - time.monotonic()) > 0:
            epoll.register(probe.fileno(), probe.events)
            epoll.poll(left)
            epoll.unregister(probe.fileno())
            probe.step()
        return probe.answer


def test_tcp_asks_whether_somebody_listens() -> None:
    server, port = serve(None)
    check = HealthCheck(CheckKind.TCP, timeout_s=60.0)

    with server:
        assert asked(check, port) == ""
    assert asked(check, port) == "connection refused"


def talk(answer: bytes, pieces: int = 1) -> Callable[[socket.socket], None]:
    """Return who reads a request and sends an answer in pieces."""

    def talking(connection: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received and (data := connection.recv(4096)):
            received += data
        for start in range(0, len(answer), max(1, len(answer) // pieces)):
            connection.sendall(answer[start : start + max(1, len(answer) // pieces)])

    return talking


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", ""),
        (b"HTTP/1.1 503 No\r\n\r\n", "HTTP status 503"),
        (b"HTTP/1.1 204 No Content", ""),
        (b"", "the connection was closed without an answer"),
        (b"x" * 5000, "the answer is not HTTP"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 7])
def test_http_asks_how_the_endpoint_is(answer: bytes, expected: str, pieces: int) -> None:
    server, port = serve(talk(answer, pieces))

    with server:
        assert asked(HealthCheck(CheckKind.HTTP, path="/", timeout_s=60.0), port) == expected


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate nobody vouches for."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=nobody"]
    subprocess.run([*command, "-keyout", str(path), "-out", str(path.with_suffix(".crt"))], check=True, capture_output=True)
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


@pytest.mark.parametrize("host", ["", "shop.example", "shop.example:8443"])
def test_https_takes_any_certificate(certificate: Path, host: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    names: list[str | None] = []
    context.sni_callback = lambda connection, name, _: names.append(name)
    check = HealthCheck(CheckKind.HTTPS, path="/", host=host, timeout_s=60.0)
    for answer, expected in ((b"HTTP/1.1 200 OK\r\n\r\n", ""), (b"HTTP/1.1 500 No\r\n\r\n", "HTTP status 500")):
        server, port = serve(talk(answer), context)
        with server:
            assert asked(check, port) == expected
    assert names == [host.partition(":")[0] or None] * 2


def test_https_of_a_server_that_speaks_plainly_fails() -> None:
    server, port = serve(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))

    with server:
        answer = asked(HealthCheck(CheckKind.HTTPS, path="/", timeout_s=60.0), port)
    assert answer is not None
    assert answer.startswith("TLS: ")


def test_server_that_never_answers_is_not_waited_for() -> None:
    server, port = serve(None)

    with server:
        assert asked(HealthCheck(CheckKind.HTTP, path="/", timeout_s=0.1), port) is None


def program_of(*ports: int, check: HealthCheck | None = QUICK, name: str = "shop/web") -> ServiceProgram:
    """Return the program of a Service whose endpoints are ports of loopback."""
    one = Service(named(name), cluster_ips=(parse_address("10.96.0.1"),), ports=(HTTP,), health_check=check)
    slices = [one_slice(endpoint("127.0.0.1"), name=str(p), ports=(SlicePort("http", HTTP.protocol, p),)) for p in ports]
    return compiled(one, *slices)


@pytest.fixture
def checking() -> Iterator[Checking]:
    with contextlib.closing(Checking(chance=lambda: 0.0)) as checking:
        yield checking


def run_until(checking: Checking, done: Callable[[dict[Event, None]], bool]) -> list[Event]:
    """Let it work as the loop does, until what it said satisfies; return that in order."""
    told: dict[Event, None] = {}
    deadline = time.monotonic() + PATIENCE_S
    while not done(told):
        assert time.monotonic() < deadline, told
        due = checking.deadline()
        wait = 1.0 if due is None else max(0.0, due - time.monotonic())
        select.select([checking.fileno()], [], [], wait)
        told.update(dict.fromkeys(checking.act()))
    return list(told)


def failing(port: int, why: str = "connection refused, 2 in a row") -> Upsert:
    return Upsert(EndpointHealth(WEB, (Failing(LOOPBACK, port, why),)))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_endpoints_that_die_and_return_are_told_of(checking: Checking) -> None:
    server, alive = serve(None)
    dead = free_port()
    with server:
        checking.follow(WEB, program_of(alive, dead))

        assert run_until(checking, lambda told: failing(dead) in told) == [failing(dead)], (
            "that nothing fails goes without saying"
        )
        assert checking.counts.targets == 2
        assert checking.counts.failing == 1
        with socket.create_server(("127.0.0.1", dead)):
            run_until(checking, lambda told: Upsert(EndpointHealth(WEB)) in told)
    assert checking.counts.passed >= 4
    assert checking.counts.failed >= 2


def test_server_that_is_silent_fails(checking: Checking) -> None:
    """Its queue is full, so the kernel does not answer for it."""
    check = HealthCheck(CheckKind.HTTP, path="/", interval_s=0.1, timeout_s=0.05)
    server, port = serve(None)
    with server:
        checking.follow(WEB, program_of(port, check=check))

        run_until(checking, lambda told: failing(port, "no answer within 0.05 s, 2 in a row") in told)


def test_answers_that_came_while_the_agent_was_busy_are_not_late(checking: Checking) -> None:
    server, port = serve(None)
    with server:
        checking.follow(WEB, program_of(port))
        run_until(checking, lambda _: checking.counts.waiting == 1)
        time.sleep(3 * QUICK.timeout_s)  # busy
        checking.act()

    assert checking.counts[3:] == (1, 0, 0)


def test_services_share_a_check_and_each_is_told(checking: Checking) -> None:
    dead = free_port()
    other = named("shop/other")
    checking.follow(WEB, program_of(dead))
    checking.follow(other, program_of(dead, name="shop/other"))

    both = {failing(dead), Upsert(EndpointHealth(other, failing(dead).object.failing))}  # type: ignore[union-attr]
    run_until(checking, lambda told: both <= told.keys())
    assert checking.counts.targets == 1
    checking.follow(WEB, None)
    assert checking.counts.targets == 1
    assert checking.take() == [Delete(EndpointHealth, WEB)]
    checking.follow(other, None)
    assert checking.counts[:3] == (0, 0, 0)
    assert checking.act() == [Delete(EndpointHealth, other)]
    assert checking.deadline() is None, "nobody is left to ask"


def test_check_taken_from_a_service_is_forgotten(checking: Checking) -> None:
    dead = free_port()
    checking.follow(WEB, program_of(dead))
    run_until(checking, lambda told: failing(dead) in told)

    checking.follow(WEB, program_of(dead, check=None))

    assert checking.take() == [Delete(EndpointHealth, WEB)]
    assert not checking.any


def test_endpoint_that_failed_is_out_under_another_check_until_it_passes(checking: Checking) -> None:
    server, alive = serve(None)
    dead = free_port()
    with server:
        checking.follow(WEB, program_of(dead, alive))
        run_until(checking, lambda told: failing(dead) in told)

        checking.follow(WEB, program_of(dead, alive, check=HealthCheck(CheckKind.TCP, interval_s=0.2, timeout_s=0.05)))

        assert checking.take() == [failing(dead, "failed under another check, and not seen to pass since")]
        with socket.create_server(("127.0.0.1", dead)):
            run_until(checking, lambda told: Upsert(EndpointHealth(WEB)) in told)


def test_what_the_kernel_lacks_at_start_is_out_until_it_passes(checking: Checking) -> None:
    server, alive = serve(None)
    dead = free_port()
    with server:
        program = program_of(alive, dead)
        checking.follow(WEB, program)
        ((_, frontend),) = [pair for pair in program.frontends() if pair[1].frontend.address]
        refused = KernelVerdict("reject")
        held = KernelFrontend(frontend.frontend, frontend.kind, refused, refused, refused)
        checking.adopt({WEB: program}, [held])

        both = tuple(sorted(Failing(LOOPBACK, port, SUSPECT) for port in (alive, dead)))
        assert checking.take() == [Upsert(EndpointHealth(WEB, both))]
        run_until(checking, lambda told: failing(dead) in told)


def test_frontend_the_kernel_does_not_have_says_nothing(checking: Checking) -> None:
    program = program_of(free_port())
    checking.follow(WEB, program)
    checking.adopt({WEB: program}, [])

    assert checking.take() == []


def test_only_endpoints_that_could_be_used_are_asked() -> None:
    slices = [
        one_slice(
            endpoint("10.0.0.1"), endpoint("10.0.0.2", "unready"), endpoint("10.0.0.3", "gone"), endpoint("10.0.0.4", "draining")
        )
    ]
    program = compiled(service(), *slices)

    asked_for = targets(msgspec.structs.replace(program, check=QUICK))
    assert [str(backend) for backend in asked_for] == ["10.0.0.1:8080", "10.0.0.4:8080"]
    elsewhere = targets(msgspec.structs.replace(program, check=HealthCheck(CheckKind.TCP, 9, panic_percent=50)))
    assert {target.port for target in elsewhere.values()} == {9}
    assert {target.check for target in elsewhere.values()} == {HealthCheck(CheckKind.TCP)}


def test_udp_is_asked_only_on_a_port_of_the_check() -> None:
    ports = (ServicePort("dns", UDP, 53, 0),)
    program = compiled(service(ports=ports), one_slice(endpoint("10.0.0.1"), ports=(SlicePort("dns", UDP, 53),)))

    assert targets(program) == targets(msgspec.structs.replace(program, check=QUICK)) == {}
    (target,) = targets(msgspec.structs.replace(program, check=HealthCheck(CheckKind.TCP, 53))).values()
    assert target[:2] == (Address(bytes((10, 0, 0, 1))), 53)


def test_agent_tells_who_asks(request: pytest.FixtureRequest) -> None:
    name = f"\0kpx-test-{request.node.name}-{time.monotonic_ns()}"
    health = [EndpointHealth(WEB, (Failing(*Backend(parse_address("fd00::1"), 80), "connection refused, 2 in a row"),))]
    with AgentLock(name) as lock:
        answers: list[object] = []
        asker = threading.Thread(target=lambda: answers.append(asking.ask(name)))
        asker.start()
        select.select([lock], [], [], PATIENCE_S)
        lock.drain(lambda connection: asking.tell(connection, health))
        asker.join()

    assert answers == [tuple(health)]


def test_large_answers_arrive_though_the_asker_is_slow(request: pytest.FixtureRequest) -> None:
    """Nobody reads while the agent answers; a million bytes fit all the same."""
    name = f"\0kpx-test-{request.node.name}-{time.monotonic_ns()}"
    endpoints = tuple(
        Failing(Address(number.to_bytes(4, "big")), 80, "connection refused, 2 in a row") for number in range(20000)
    )
    with AgentLock(name) as lock, socket.socket(socket.AF_UNIX) as slow:
        slow.connect(name)
        lock.drain(lambda connection: asking.tell(connection, [EndpointHealth(WEB, endpoints)]))
        assert asking.receive(slow) == (EndpointHealth(WEB, endpoints),)


def test_nobody_to_ask_or_nobody_who_tells_is_no_answer(request: pytest.FixtureRequest) -> None:
    name = f"\0kpx-test-{request.node.name}-{time.monotonic_ns()}"
    assert asking.ask(name) is None
    with AgentLock(name) as lock, socket.socket(socket.AF_UNIX) as asker:
        asker.connect(name)
        lock.drain()
        assert asking.receive(asker) is None


ASK_WITHOUT_FILES = """
import resource, sys
sys.path[:0] = sys.argv[1:]
from test_checking import WEB, program_of
from kpx.checking.checks import Checking
checking = Checking(chance=lambda: 0.0)
checking.follow(WEB, program_of(9))
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
checking.act()
checking.act()
print(*checking.counts, len(checking.health()[0].failing))
"""


def test_host_that_cannot_ask_says_nothing_of_the_endpoint() -> None:
    """No file may be opened any more, so nobody knows."""
    command = [sys.executable, "-c", ASK_WITHOUT_FILES, *filter(None, sys.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["1", "0", "0", "0", "0", "1", "0"]


def test_some_checks_may_always_wait_at_once() -> None:
    assert most_at_once() >= 1


def checked_cluster() -> list[Event]:
    """Return a Service with a check and two endpoints, all heard."""
    web = msgspec.structs.replace(svc("shop/web", "10.96.0.1").object, health_check=QUICK)
    return [Upsert(web), eps("shop/web", "10.244.2.1", "10.244.2.2"), SYNCED]


def test_engine_started_anew_writes_nothing_and_leaves_out_what_was_left_out() -> None:
    dataplane = MemoryDataplane()
    with contextlib.closing(Checking()) as before, contextlib.closing(Checking()) as after:
        first = Engine(dataplane, FACTS)
        first.checking = before
        first.fold(checked_cluster())
        first.round("start")
        dead = Failing(parse_address("10.244.2.1"), 8080, "no answer")
        first.fold([Upsert(EndpointHealth(WEB, (dead,)))])
        assert first.round().rows
        written = dataplane.observe().rows

        second = Engine(dataplane, FACTS)
        second.checking = after
        second.fold(checked_cluster())
        done = second.round("start")

        assert (done.rows, done.services) == (0, 1)
        assert dataplane.observe().rows == written
        assert after.health() == [EndpointHealth(WEB, (dead._replace(why=SUSPECT),))]
        assert after.counts.failing == 1


def test_engine_that_hears_everything_anew_keeps_what_was_found_out() -> None:
    engine = started(MemoryDataplane(), *checked_cluster())
    engine.fold([Upsert(EndpointHealth(WEB, (Failing(parse_address("10.244.2.1"), 8080, "no answer"),)))])
    engine.round()
    before = engine.programs[WEB]

    engine.reread(checked_cluster())

    assert not engine.round().rows
    assert engine.programs[WEB] == before
