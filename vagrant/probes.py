"""
The client's questions: real connections to every kind of address, through both load balancers, and what must come of them.

Each line is one frontend: who answered how often, and as whom the servers saw the client. Exit code 0 when everything was as
it must be, 1 when not. Nothing is installed for it: it runs on the client as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vagrant.topology import TOLD, Topology, load

CONNECTIONS = 30
"""So many that one of two servers stays unseen by chance once in 10^9 times."""

TIMEOUT_S = 2.0
PAUSE_S = 0.5
IP_RECVERR = 11

ANSWERED = "answered"
REFUSED = "refused"
NOTHING = "not answered"


class Probe(NamedTuple):
    """
    One question.

    Args:
        what: of which Service, by which way.
        expected: ANSWERED by every server; REFUSED at once; NOTHING: refused, unreachable or silent, but no answer.
        seen: the source address servers must see; "" unless ANSWERED.
    """

    what: str
    protocol: str
    address: str
    port: int
    expected: str
    seen: str = ""

    @property
    def target(self) -> str:
        """What one would type."""
        return f"{self.address}:{self.port}/{self.protocol}"


def probes(topology: Topology) -> Iterator[Probe]:
    """What is asked. Contract M3, M7 (who answers, seeing whom), R1, R5, R7 (who must not)."""

    def by(name: str) -> tuple[str, str]:
        return topology.addresses[name], topology.named(topology.routes.get(name, topology.routes["service_range"])).address

    for name, what in (
        ("tomcat", "tomcat: cluster IP"),
        ("tomcat_external", "tomcat: external IP"),
        ("tomcat_balanced", "tomcat: load-balancer IP"),
    ):
        address, gateway = by(name)
        yield Probe(what, "tcp", address, 80, ANSWERED, gateway)
        # Load balancers have an sshd on all of their addresses; the address of a Service is none of them.
        yield Probe(f"{what}, undeclared port", "tcp", address, 22, REFUSED if name == "tomcat" else NOTHING)
    address, gateway = by("whoami")
    yield Probe("whoami: cluster IP", "udp", address, 53, ANSWERED, gateway)
    yield Probe("idle: cluster IP", "tcp", by("idle")[0], 80, REFUSED)
    for machine in topology.having("lb"):
        yield Probe(f"tomcat: node port of {machine.name}", "tcp", machine.address, 30080, ANSWERED, machine.address)
        yield Probe(f"whoami: node port of {machine.name}", "udp", machine.address, 30053, ANSWERED, machine.address)
        yield Probe(f"idle: node port of {machine.name}", "tcp", machine.address, 30099, REFUSED)


def ask(probe: Probe) -> tuple[str, str]:
    """One new flow: the server that answered and the source it saw, or what happened instead and nobody."""
    try:
        words = (_ask_http if probe.protocol == "tcp" else _ask_datagram)(probe.address, probe.port).decode().split()
    except ConnectionRefusedError:
        return REFUSED, ""
    except TimeoutError:
        return "silence", ""
    except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
        return " ".join(str(error).split()) or type(error).__name__, ""
    return (words[0], words[1]) if len(words) == 2 else ("an answer of somebody else", "")


def _ask_http(address: str, port: int) -> bytes:
    with contextlib.closing(_Connection(address, port, timeout=TIMEOUT_S)) as connection:
        connection.request("GET", "/")
        return connection.getresponse().read()


class _Connection(http.client.HTTPConnection):
    """
    An HTTP connection that hears refusals at once.

    Between namespaces of one machine a refusal can arrive while connect(2) still holds the socket, and is then dropped until
    the SYN goes out again, unless errors are queued.
    """

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        self.sock.settimeout(self.timeout)
        self.sock.connect((self.host, self.port))


def _ask_datagram(address: str, port: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT_S)
        client.connect((address, port))
        client.send(b"who?\n")
        return client.recv(4096)


def judge(probe: Probe, servers: frozenset[str]) -> tuple[str, str]:
    """Ask as often as it takes; return what was seen, and what is wrong with it or ""."""
    if probe.expected != ANSWERED:
        outcome, seen = ask(probe)
        good = outcome == REFUSED if probe.expected == REFUSED else not seen and outcome != "an answer of somebody else"
        return outcome, "" if good else f"must be {probe.expected}"
    answers: Counter[tuple[str, str]] = Counter()
    for _ in range(CONNECTIONS):
        answer = ask(probe)
        answers[answer] += 1
        if answer[0] not in servers:
            break  # one new connection that fails is one too many, and silence takes its time
    story = ", ".join(f"{who} {count}" + (f" seeing {seen}" if seen else "") for (who, seen), count in sorted(answers.items()))
    must = {(server, probe.seen) for server in servers}
    return story, "" if set(answers) == must else f"must be {' and '.join(sorted(servers))}, each seeing {probe.seen}"


def await_first_answers(questions: list[Probe], patience_s: float) -> None:
    """Wait until every frontend that must answer has answered once, or patience ends."""
    deadline = time.monotonic() + patience_s
    for probe in questions:
        while probe.expected == ANSWERED and not ask(probe)[1] and time.monotonic() < deadline:
            time.sleep(PAUSE_S)


def main(arguments: list[str]) -> int:
    """Ask everything, print it as a table, say what is wrong."""
    parser = argparse.ArgumentParser(prog="python3 -m vagrant.probes", description=__doc__.strip().splitlines()[0])
    parser.add_argument("--topology", type=Path, default=TOLD, metavar="FILE", help=f"the description, in JSON (default: {TOLD})")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="wait so long for first answers (default: 0)")
    asked = parser.parse_args(arguments)
    topology = load(asked.topology)
    questions = list(probes(topology))
    servers = frozenset(machine.name for machine in topology.having("web"))
    await_first_answers(questions, asked.wait)
    wrong = 0
    for probe in questions:
        story, complaint = judge(probe, servers)
        wrong += bool(complaint)
        mark = f"   <- {complaint}" if complaint else ""
        sys.stdout.write(f"{'WRONG' if complaint else 'ok':7}{probe.what:42}{probe.target:26}{story}{mark}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{len(questions) - wrong} of {len(questions)} probes are as they must be\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
