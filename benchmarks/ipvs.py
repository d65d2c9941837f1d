"""Measure the ipvs data plane against the floor and against ipvsadm; see `scripts/bench --help`."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import ipvs_stages, manifests
from benchmarks.ipvs_stages import Change, Numbers
from benchmarks.run import machine

SIZES = (1000, 5000)


def main() -> None:
    """Measure one size after another; network namespaces of our own end with us and take all along."""
    parser = argparse.ArgumentParser(prog="scripts/bench --ipvs", allow_abbrev=False)
    parser.add_argument("--services", type=int, action="append")
    parser.add_argument("--endpoints", type=int, default=10)
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    sizes: Sequence[int] = arguments.services or SIZES
    if min(sizes) < 4 or not 2 <= arguments.endpoints <= 1000 or arguments.changes < 1 or arguments.rounds < 1:
        parser.error("at least four Services, 2 to 1000 endpoints, one change, one round")
    results = []
    if arguments.output == "table":
        print(machine()["text"])
    for services in sizes:
        with tempfile.TemporaryDirectory(prefix="kpx-bench-") as name:
            manifests.Cluster(services, arguments.endpoints).write(Path(name))
            numbers = ipvs_stages.measure(Path(name), services, arguments.endpoints, arguments.changes, arguments.rounds)
        results.append(as_json(numbers))
        if arguments.output == "table":
            print_table(results[-1])
    if arguments.output == "json":
        print(json.dumps({"machine": machine()["text"], "clusters": results}, indent=2))


def as_json(numbers: Numbers) -> dict[str, Any]:
    """Return the numbers as they are printed: milliseconds, and ratios of them."""
    kpx_s, floor_s = min(numbers.apply_s), min(numbers.floor_s)
    result: dict[str, Any] = {
        "services": numbers.services,
        "endpoints": numbers.endpoints,
        "rows": numbers.rows,
        "sent": {name: one._asdict() for name, one in numbers.sent.items()},
        "compile_ms": ms(numbers.compile_s),
        "prepare_ms": ms(numbers.prepare_s),
        "observe_ms": ms(numbers.observe_s),
        "apply_ms": [ms(value) for value in numbers.apply_s],
        "floor_ms": [ms(value) for value in numbers.floor_s],
        "apply_to_floor": ratio(kpx_s, floor_s),
        "changes": [change_as_json(change) for change in numbers.changes],
    }
    if numbers.tools is not None:
        ipvsadm_s, ipset_s, change_s = numbers.tools
        result["ipvsadm_ms"], result["ipset_ms"], result["tools_change_ms"] = ms(ipvsadm_s), ms(ipset_s), ms(change_s)
        result["tools_to_apply"] = ratio(ipvsadm_s + ipset_s, kpx_s)
    return result


def change_as_json(change: Change) -> dict[str, Any]:
    """Return one kind of change: medians in milliseconds, and what was sent."""
    apply_s, floor_s = statistics.median(change.apply_s), statistics.median(change.floor_s)
    return {
        "name": change.name,
        "event_to_kernel_ms": ms(statistics.median(change.events_s)),
        "apply_ms": ms(apply_s),
        "floor_ms": ms(floor_s),
        "apply_to_floor": ratio(apply_s, floor_s),
        "sent": {name: one._asdict() for name, one in change.sent.items()},
        "messages": list(change.words),
    }


def print_table(result: dict[str, Any]) -> None:
    """Print one size."""
    print(
        f"\n{result['services']:,} Services of {result['endpoints']} endpoints: {result['rows']:,} rows, {volume(result['sent'])}"
    )
    print(f"\n  {'first sync':<60} {'ms':>10} {'ratio':>8}")
    floor, kpx_ms = min(result["floor_ms"]), min(result["apply_ms"])
    line("floor: the same datagrams from a bare loop", floor, 1.0)
    line("rows to kernel", kpx_ms, result["apply_to_floor"])
    if "ipvsadm_ms" in result:
        line("ipvsadm -R", result["ipvsadm_ms"], result["ipvsadm_ms"] / floor)
        line("ipset restore", result["ipset_ms"], result["ipset_ms"] / floor)
        print(f"  the two take {result['tools_to_apply']:.0f} times as long as kpx")
    line("before: compile and render", result["compile_ms"])
    line("before: sets, rules and routing of an empty kernel", result["prepare_ms"])
    line("before: read the kernel and compare", result["observe_ms"])
    print(f"\n  {'one change (median)':<60} {'ms':>10} {'ratio':>8} {'floor':>10} {'from event':>11}  sent")
    for change in result["changes"]:
        line(
            change["name"], change["apply_ms"], change["apply_to_floor"], change["floor_ms"], change["event_to_kernel_ms"], change
        )
    if "tools_change_ms" in result:
        line("one endpoint more, by ipvsadm -R and ipset restore", result["tools_change_ms"])
    for change in result["changes"]:
        print(f"\n  {change['name']}: {volume(change['sent'])}")
        print("".join(f"    {what}\n" for what in change["messages"]), end="")


def line(what: str, value: float, to_floor: float | None = None, *rest: Any) -> None:
    """Print one row: milliseconds, how many times the floor, and for a change its floor, the whole way, and datagrams."""
    text = f"  {what:<60} {value:>10.2f} {'' if to_floor is None else f'{to_floor:.2f}':>8}"
    if rest:
        floor, event, change = rest
        text += f" {floor:>10.2f} {event:>11.2f}  {sum(one['datagrams'] for one in change['sent'].values())} datagrams"
    print(text.rstrip(), flush=True)


def volume(sent: dict[str, dict[str, int]]) -> str:
    """Say how much was sent."""
    return "; ".join(
        f"{name} {one['datagrams']:,} datagrams, {one['messages']:,} messages, {one['size']:,} bytes"
        for name, one in sent.items()
    )


def ms(seconds: float) -> float:
    """Return milliseconds, to the microsecond."""
    return round(seconds * 1000, 3)


def ratio(value: float, floor: float) -> float:
    """Return how many times the floor a value is."""
    return round(value / floor, 3)


if __name__ == "__main__":
    if os.geteuid() != 0:
        raise SystemExit("needs root for network namespaces of its own: run sudo scripts/bench --ipvs")
    main()
