"""Measure kpx on this machine: print tables, write JSON and a plot; see `scripts/bench --help`."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import agent, datapath, kube_proxy, report, stages
from benchmarks.bars import bars
from benchmarks.feeds import ApiFeed, DirectoryFeed
from benchmarks.manifests import Cluster
from benchmarks.plot import svg
from benchmarks.table import aligned

INSIDE: Final = "KPX_BENCH_INSIDE"
SIZES: Final = (1_000, 10_000)
FULL_SIZES: Final = (1_000, 10_000, 100_000)
SHAPES: Final = (Cluster(1, 10_000), Cluster(1, 10, ports=1_000))
BIGGEST_API: Final = 10_000
"""Larger clusters are measured from manifests only: the stand-in API server, not kpx, would be what is measured."""
PARTS: Final = ("stages", "agent", "api", "datapath")


def main() -> None:
    """Run in a network namespace of our own, which ends with us and takes the tables along."""
    arguments = parse(sys.argv[1:])
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    # Whoever ends us ends what we started, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = measure(arguments)
    found = bars(results)
    results["bars"] = report.plain(found)
    write(results, arguments.out)
    if found:
        print(aligned(report.bars_rows(found)) + "\n")
    print(f"written: {arguments.out / 'bench.json'}, {arguments.out / 'bench.svg'}")


def parse(words: list[str]) -> argparse.Namespace:
    """Read the command line; SystemExit with a line when it makes no sense."""
    parser = argparse.ArgumentParser(prog="scripts/bench", allow_abbrev=False)
    parser.add_argument("--sizes", type=_numbers)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--endpoints", type=int, default=10)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--ipvs-results", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    arguments = parser.parse_args(words)
    arguments.sizes = arguments.sizes or list(FULL_SIZES if arguments.full else SIZES)
    if not all(1 <= size <= 1_000_000 for size in arguments.sizes) or not 1 <= arguments.endpoints <= 100_000:
        parser.error("sizes are 1 to 1,000,000 Services, of 1 to 100,000 endpoints")
    if max(arguments.sizes) * arguments.endpoints > 1_000_000 * 10 // 2:
        parser.error("more than 5,000,000 endpoints have no addresses here")
    if arguments.changes < 2 or arguments.rounds < 1:
        parser.error("at least two changes and one round")
    arguments.changes = arguments.changes // 2 * 2  # every swap is swapped back
    arguments.only = arguments.only or list(PARTS)
    return arguments


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for, and print each table as soon as its numbers are there."""
    program = kube_proxy.find()
    results: dict[str, Any] = {"machine": machine(), "clusters": [], "datapath": []}
    results["kube_proxy"] = kube_proxy.version(program) if program else None
    said = results["kube_proxy"] or f"none: not on PATH, and {kube_proxy.VARIABLE} names none"
    print(f"{results['machine']['text']}\nkube-proxy: {said}\n", flush=True)
    clusters = [Cluster(size, arguments.endpoints) for size in arguments.sizes] + list(SHAPES if arguments.full else ())
    for cluster in clusters if set(arguments.only) - {"datapath"} else []:
        results["clusters"].append(measure_cluster(cluster, arguments, program))
        write(results, arguments.out)
    if "datapath" in arguments.only:
        with _place() as place:
            ways = datapath.measure(sorted({1, *arguments.sizes}), place, 20 * arguments.rounds)
        results["datapath"] = report.plain(ways)
        print("what packets see, against one DNAT rule written by hand")
        print(aligned(report.datapath_rows(results["datapath"])) + "\n", flush=True)
    if arguments.ipvs_results:
        results["ipvs"] = json.loads(arguments.ipvs_results.read_text())
        print(f"ipvs, measured on {results['ipvs']['machine']}\n{aligned(report.ipvs_rows(results['ipvs']))}\n")
    return results


def measure_cluster(cluster: Cluster, arguments: argparse.Namespace, program: str | None) -> dict[str, Any]:
    """Measure one cluster."""
    found: dict[str, Any] = {**cluster._asdict(), "stages": None, "agents": []}
    with _place() as place:
        directory = place / "manifests"
        directory.mkdir()
        size = cluster.write(directory)
        print(f"{cluster}: {size / 1e6:.1f} MB of JSON", flush=True)
        if "stages" in arguments.only:
            found["stages"] = report.plain(stages.measure(directory, cluster, arguments.changes, arguments.rounds))
            print(aligned(report.stages_rows(found["stages"])), flush=True)
        numbers = []
        if "agent" in arguments.only:
            feed = DirectoryFeed(directory, cluster)
            numbers.append(agent.measure(feed, cluster, place, arguments.changes, burst_s=5.0 if cluster.services > 1 else 0.0))
        if "api" in arguments.only and cluster.services <= BIGGEST_API:
            numbers += from_api_server(cluster, directory, arguments.changes, program)
        found["agents"] = report.plain(numbers)
        if numbers:
            print(aligned(report.agents_rows(found["agents"])))
        print(flush=True)
    return found


def from_api_server(cluster: Cluster, directory: Path, changes: int, program: str | None) -> list[agent.AgentNumbers]:
    """Measure kpx, and kube-proxy where there is one, on one stand-in API server."""
    api = ApiFeed(directory, cluster)
    try:
        numbers = [agent.measure(api, cluster, directory.parent, changes, burst_s=0.0)]
        if program:
            numbers.append(agent.measure_kube_proxy(program, api, api.kubeconfig, min(changes, 20)))
        return numbers
    finally:
        api.close()


@contextlib.contextmanager
def _place() -> Iterator[Path]:
    """Make a directory for a while, in memory where that can be: a disk would be measured otherwise."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="kpx-bench-", dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def write(results: dict[str, Any], out: Path) -> None:
    """Write what there is so far."""
    (out / "bench.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "bench.svg").write_text(svg(report.panels(results)))


def machine() -> dict[str, Any]:
    """Say what was measured on, and how busy it was before."""
    fields = (line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    model = next((value.strip() for name, value in fields if name.strip() == "model name"), "?")
    when = dt.datetime.now(dt.UTC).date().isoformat()
    load = os.getloadavg()[0]
    what = f"{os.cpu_count()} x {model}, Linux {platform.release()}, Python {platform.python_version()}"
    return {"text": f"{what}, {when}, load {load:.1f} before", "load": load}


if __name__ == "__main__":
    main()
