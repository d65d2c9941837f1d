"""
The servers of a run, in a process of their own: so many connections need more descriptors than one process may have.

Each line of standard input is a JSON list: path of a namespace, name, address, port. An empty line ends the list; `ready` is said
once everything listens. The process ends with its standard input.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator

from tests.lab.agent import REPOSITORY, environment
from tests.lab.netns import Namespace
from tests.lab.traffic import Responder

Place = tuple[Namespace, str, str, int]
"""Where, name, address and port of a server."""


@contextlib.contextmanager
def serving(places: Iterable[Place]) -> Iterator[None]:
    """Serve TCP there while the block lasts."""
    command = [sys.executable, "-m", "tests.soak.servers"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment()
    )
    try:
        assert process.stdin
        assert process.stdout
        lines = [json.dumps([namespace.path, *rest]) for namespace, *rest in places]
        process.stdin.write("\n".join([*lines, "", ""]))
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n", "the servers did not start"
        yield
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    """Serve."""
    responder = Responder()
    for line in iter(sys.stdin.readline, "\n"):
        path, name, address, port = json.loads(line)
        namespace = Namespace.at(path)
        responder.listen(namespace, name, "TCP", address, port)
        namespace.close()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
