"""
Clients that make one new connection after the other, by turns on each way, in a process of their own: beside ten thousand
connections a thread would have little time.

The process reads the ways from standard input, a JSON list a line as of `Way`, but with the path of the namespace, up to an empty
line. For each line after that it says how many connections there were so far, by what became of them.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.lab.agent import REPOSITORY, environment
from tests.lab.netns import Namespace
from tests.lab.traffic import open_socket
from tests.soak.flock import CONNECT_S, Way
from tests.soak.report import Check

PAUSE_S = 0.005
_RETRANSMITTED = struct.Struct("=100xI")
"""struct tcp_info (include/uapi/linux/tcp.h): tcpi_total_retrans."""


class Seen(NamedTuple):
    """
    New connections so far.

    Args:
        servers: who answered, with counts. failed: what became of the others, with counts.
        slow: how many needed a segment to be sent again.
    """

    servers: Counter[str]
    failed: Counter[str]
    slow: int

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many there were, how many of them failed, and how many were slow."""
        return self.servers.total() + self.failed.total(), self.failed.total(), self.slow


def new_connections(seen: Seen) -> Check:
    """None of them may have failed, and every endpoint has its share."""
    made, failed, _ = seen.counts
    worst = "".join(f"; {count:,} {what}" for what, count in seen.failed.most_common(5))
    return Check("new connections", not failed, f"{made - failed:,} answered by {len(seen.servers)} endpoints{worst}")


class Newcomers:
    """
    The process, from construction until `stop`.

    Args:
        good: tells whether a server may answer.
    """

    def __init__(self, ways: Sequence[Way], good: Callable[[str], bool]) -> None:
        self._good = good
        # On few processors an agent must get its turn.
        command = ["nice", "-n", "5", sys.executable, "-m", "tests.soak.newcomers"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment()
        )
        self._tell(*(json.dumps([way.namespace.path, *way[1:]]) for way in ways), "")

    def _tell(self, *lines: str) -> None:
        assert self._process.stdin
        self._process.stdin.write("\n".join([*lines, ""]))
        self._process.stdin.flush()

    def seen(self) -> Seen:
        """What became of them so far."""
        self._tell("?")
        assert self._process.stdout
        waiting = select.poll()  # select(2) knows 1,024 descriptors
        waiting.register(self._process.stdout, select.POLLIN)
        assert waiting.poll(2000 * CONNECT_S), "the newcomers do not answer"
        told = json.loads(self._process.stdout.readline())
        servers, failed = Counter(told["servers"]), Counter(told["failed"])
        for wrong in [server for server in servers if not self._good(server)]:
            failed[f"answered by {wrong or 'nobody'}"] += servers.pop(wrong)
        return Seen(servers, failed, told["slow"])

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def main() -> None:
    """Make connections until standard input ends."""
    servers: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    # Without a buffer, in which a question would wait unseen by select(2).
    with open(sys.stdin.fileno(), "rb", buffering=0) as asked:
        ways = [_way(line) for line in iter(asked.readline, b"\n")]
        number = slow = 0
        while True:
            while select.select([asked], [], [], PAUSE_S)[0]:
                if not asked.readline():
                    return
                sys.stdout.write(json.dumps({"servers": servers, "failed": failed, "slow": slow}) + "\n")
                sys.stdout.flush()
            way = ways[number % len(ways)]
            number += 1
            try:
                server, was_slow = _connect(way)
                servers[server] += 1
                slow += was_slow
            except OSError as error:
                failed[f"{error} at {time.strftime('%X')} ({way.source} to {way.to}:{way.port})"] += 1


def _way(line: bytes) -> Way:
    path, source, to, port = json.loads(line)
    return Way(Namespace.at(path), source, to, port)


def _connect(way: Way) -> tuple[str, bool]:
    """Make a connection; return who answered, and whether something had to be sent again."""
    with contextlib.closing(open_socket(way.namespace, way.to, "TCP")) as client:
        client.settimeout(CONNECT_S)
        client.bind((way.source, 0))
        client.connect((way.to, way.port))
        server = client.recv(4096).decode().partition(" ")[0]
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RETRANSMITTED.size)
        return server, bool(_RETRANSMITTED.unpack(info)[0])


if __name__ == "__main__":
    main()
