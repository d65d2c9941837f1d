"""The numbers kpx wants to reach, each compared with what was measured. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from benchmarks.spread import growth, percentile
from benchmarks.table import megabytes, seconds, times

Results = dict[str, Any]
"""What `scripts/bench` writes as JSON."""

FLOOR_RATIO: Final = 1.5
FLAT: Final = 0.05


class Bar(NamedTuple):
    """One number: what it is of, what it is to be, what it was, and whether that is good enough."""

    what: str
    wanted: str
    measured: str
    met: bool


def bars(results: Results) -> list[Bar]:
    """Return the bars for whatever was measured; sizes nobody asked about have none."""
    found: list[Bar] = []
    for cluster in (one for one in results["clusters"] if one["stages"]):
        size = (cluster["services"], cluster["endpoints"], cluster["ports"])
        if size == (10_000, 10, 1):
            found += _of_ten_thousand(cluster)
        elif size == (100_000, 10, 1):
            found += _of_hundred_thousand(cluster)
    found += _of_datapath(results["datapath"])
    return found


def _of_ten_thousand(cluster: Results) -> Iterator[Bar]:
    size, stages = "10,000 x 10", cluster["stages"]
    yield _took(f"{size}: rows to kernel", stages["took"]["rows to kernel"], 1.0)
    yield from _to_floor(size, stages)
    for agent in _agents(cluster):
        name = f"{size}, {agent['feed']}"
        yield _took(f"{name}: start to converged", agent["start"], 4.0)
        yield from _changes(name, agent, p50_s=0.003)
        yield Bar(f"{name}: memory (RSS)", "< 150 MB", megabytes(agent["rss_bytes"]), agent["rss_bytes"] < 150e6)
        yield Bar(f"{name}: idle", "< 0.5 % of a core", f"{agent['idle_cpu']:.2%}", agent["idle_cpu"] < 0.005)
        yield _took(f"{name}: restart, nothing changed", agent["restart"], 3.0)
        commits = agent["restart_commits"]
        yield Bar(f"{name}: commits of that restart", "0", str(commits), commits == 0)
        yield from _burst(name, agent["burst"])
        yield from _partly(name, agent)
    writes = stages["adoption_writes"]
    yield Bar(f"{size}: writes at the socket by a second engine", "0", str(writes), writes == 0)


def _of_hundred_thousand(cluster: Results) -> Iterator[Bar]:
    size = "100,000 x 10"
    yield from _to_floor(size, cluster["stages"])
    for agent in _agents(cluster):
        if agent["feed"] == "manifests":
            yield _took(f"{size}: start to converged", agent["start"], 15.0)
            yield Bar(f"{size}: memory (RSS)", "< 1,200 MB", megabytes(agent["rss_bytes"]), agent["rss_bytes"] < 1.2e9)
            yield from _changes(size, agent, p50_s=None)


def _agents(cluster: Results) -> list[Results]:
    return [agent for agent in cluster["agents"] if agent["program"] == "kpx"]


def _time(what: str, value_s: float, bar_s: float) -> Bar:
    return Bar(what, f"< {seconds(bar_s)}", seconds(value_s), value_s < bar_s)


def _took(what: str, took: Results, bar_s: float) -> Bar:
    """The bar is for the clock on the wall; on a machine with other things to do the processor time says what it could be."""
    bar = _time(what, took["wall_s"], bar_s)
    return bar._replace(measured=f"{bar.measured} ({seconds(took['cpu_s'])} of processor)")


def _changes(name: str, agent: Results, p50_s: float | None) -> Iterator[Bar]:
    if p50_s is not None:
        yield _time(f"{name}: one change, p50", percentile(agent["changes_s"], 0.5), p50_s)
    yield _time(f"{name}: one change, p99", percentile(agent["changes_s"], 0.99), 0.010)


def _to_floor(size: str, stages: Results) -> Iterator[Bar]:
    ratio = percentile([a / f for a, f in zip(stages["apply_s"], stages["floor_s"], strict=True)], 0.5)
    yield Bar(f"{size}: the plan carried out, to the floor", f"< {times(FLOOR_RATIO)}", times(ratio), ratio < FLOOR_RATIO)


def _burst(name: str, burst: Results | None) -> Iterator[Bar]:
    if burst is None:
        return
    made = burst["made_hz"]
    yield Bar(f"{name}: changes a second sustained", "1,000", f"{made:,.0f}", made > 0.99 * burst["asked_hz"])
    grown = growth(burst["lags_s"]) if len(burst["lags_s"]) >= 5 else 1.0
    yield Bar(f"{name}: lag, last fifth to first", "no growth (< 2 x)", times(grown), grown < 2)
    yield _time(f"{name}: last change of that to last commit", burst["drained_s"], 0.1)
    if burst["equal"] is not None:
        yield Bar(f"{name}: kernel equals manifests then", "yes", "yes" if burst["equal"] else "no", burst["equal"])


def _partly(name: str, agent: Results) -> Iterator[Bar]:
    if agent["partial_rows"] is None:
        return
    rows, services = agent["partial_rows"], agent["partial_services"]
    # Of each such Service ten slots, an endpoint less and one more whose strays are dropped, and at most two hairpins.
    yield Bar(f"{name}: rows of a restart with 1 % changed", f"< {14 * services + 1:,}", f"{rows:,}", 0 < rows <= 14 * services)


def _of_datapath(found: list[Results]) -> Iterator[Bar]:
    ways = [way for way in found if way["services"]]
    for name, ratio, off in (
        ("new connection", "connect_ratio", "connect_off"),
        ("first packet", "first_packet_ratio", "first_packet_off"),
    ):
        for way in ways:
            what = f"{name}, {way['services']:,} Service{'s' * (way['services'] > 1)}, to a hand-written rule"
            value = f"{way[ratio] - 1:+.1%} (± {way[off]:.1%})"
            yield Bar(what, f"within {FLAT:.0%}", value, way[ratio] <= 1 + FLAT)
        if len(ways) > 1:
            flat = max(way[ratio] for way in ways) / min(way[ratio] for way in ways) - 1
            yield Bar(f"{name}, all sizes among each other", f"within {FLAT:.0%}", f"{flat:.1%}", flat <= FLAT)
