"""Run one of the two, print its table or JSON, and end with exit code 0 if nothing was lost; see `scripts/soak --help`."""

from __future__ import annotations

import argparse
import sys

from tests.lab import dataplane
from tests.lab.netns import require_root
from tests.soak import changes, connections


def main() -> int:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(prog="scripts/soak")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--connections", type=int, nargs="?", const=connections.Size().connections)
    parser.add_argument("--kills", type=int, default=connections.Size().kills)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", dest="format", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    if arguments.minutes <= 0 or arguments.kills < 1 or (arguments.connections or 1) < 1 or dataplane.complaint():
        parser.error(dataplane.complaint() or "minutes, connections and kills are above 0")
    require_root()
    if arguments.connections is None:
        report = changes.run(arguments.minutes * 60, seed=arguments.seed, say=_say)
    else:
        size = connections.Size(connections=arguments.connections, kills=arguments.kills)
        report = connections.run(size, arguments.seed, _say)
    print(report.as_json() if arguments.format == "json" else report.as_table())
    return 0 if report.is_good else 1


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
