"""Measure kpx on this machine and print a table; see `scripts/bench --help`."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import agent, manifests, stages

INSIDE = "KPX_BENCH_INSIDE"


def main() -> None:
    """Run in a network namespace of our own, which ends with us and takes the tables along."""
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=10)
    parser.add_argument("--changes", type=int, default=200)
    arguments = parser.parse_args()
    if arguments.services < 1 or not 1 <= arguments.endpoints <= 1000 or arguments.changes < 2:
        parser.error("at least one Service, 1 to 1000 endpoints, two changes")
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    changes = arguments.changes // 2 * 2  # every swap is swapped back
    with tempfile.TemporaryDirectory(prefix="kpx-bench-") as name:
        directory = Path(name) / "manifests"
        directory.mkdir()
        started = time.perf_counter()
        size = manifests.write_cluster(directory, arguments.services, arguments.endpoints)
        write_s = time.perf_counter() - started
        print(machine())
        cluster = f"{arguments.services:,} Services of {arguments.endpoints} endpoints"
        print(f"{cluster}: {size / 1e6:.1f} MB of JSON, written in {write_s:.1f} s\n")
        print_stages(stages.measure(directory, arguments.services, arguments.endpoints, changes))
        print_agent(agent.measure(directory, arguments.services, arguments.endpoints, changes))


def machine() -> str:
    """Say what was measured on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "?",
    )
    return f"{os.cpu_count()} x {model}, Linux {platform.release()}, Python {platform.python_version()}"


def print_stages(result: stages.Stages) -> None:
    """Print what one process spends where."""
    megabytes = result.written_bytes / 1e6
    print("inside one process")
    line("read and decode the files", seconds(result.read_s))
    line("compile and render", seconds(result.compile_s))
    line(
        f"rows to kernel ({result.rows:,} rows, {megabytes:.1f} MB)",
        seconds(result.sync_s),
        f"floor {seconds(result.kernel_floor_s)}",
    )
    line("one endpoint changed, event to kernel", spread(result.changes_s), f"floor {spread(result.floor_changes_s)}")
    print("    floor: the same bytes sent again by a bare loop\n")


def print_agent(result: agent.AgentNumbers) -> None:
    """Print what the agent needs as a process."""
    print("kpx run, seen from outside")
    line("start to converged, empty kernel", seconds(result.start_s))
    line("one endpoint changed, file renamed to kernel", spread(result.changes_s))
    if result.lags_s:
        line("  of which file read to kernel, as it logs", spread(result.lags_s))
    line("start to converged, nothing changed", seconds(result.restart_s), f"{result.restart_writes} writes to the kernel")
    line("memory (RSS), settled and at its height", f"{result.rss_bytes / 1e6:.0f} MB, {result.peak_bytes / 1e6:.0f} MB")
    line("idle", f"{result.idle_cpu * 100:.2f} % of a core")


def line(what: str, value: str, remark: str = "") -> None:
    """Print one row of the table."""
    print(f"  {what:<52} {value:<32} {remark}".rstrip())


def seconds(value: float) -> str:
    """Print a duration with three digits that matter."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.3g} ms"


def spread(values: Sequence[float]) -> str:
    """Print median and 99th percentile."""
    ordered = sorted(values)
    high = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"p50 {seconds(statistics.median(ordered))}, p99 {seconds(high)}"


if __name__ == "__main__":
    main()
