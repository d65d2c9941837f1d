"""Results as tables, as Markdown, and as the panels of the plot. Pure."""

from __future__ import annotations

from typing import Any

from benchmarks.bars import Bar, Results
from benchmarks.plot import Panel, Series
from benchmarks.spread import Spread, percentile, spread
from benchmarks.table import megabytes, seconds, times

Rows = list[list[str]]


def plain(value: object) -> Any:
    """Return named tuples as dicts, all the way down."""
    if hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def stages_rows(stages: Results) -> Rows:
    """Return what one process spends where."""
    rows = [["inside one process", "wall", "processor", "floor", "ratio"]]
    rows += [[name, seconds(took["wall_s"]), seconds(took["cpu_s"])] for name, took in stages["took"].items()]
    apply_s, floor_s = percentile(stages["apply_s"], 0.5), percentile(stages["floor_s"], 0.5)
    ratio = percentile([a / f for a, f in zip(stages["apply_s"], stages["floor_s"], strict=True)], 0.5)
    size = f"{stages['rows']:,} rows, {stages['written_bytes'] / 1e6:.1f} MB"
    rows.append([f"the plan carried out ({size})", "", seconds(apply_s), seconds(floor_s), times(ratio)])
    change, floor = spread(stages["changes_s"]), spread(stages["floor_changes_s"])
    rows.append([f"one change, p50 ({stages['change_bytes']:,.0f} bytes)", seconds(change.median), "", seconds(floor.median)])
    rows.append(["one change, p99", seconds(change.p99), "", seconds(floor.p99)])
    adoption = stages["adoption"]
    rows.append([f"adopted ({stages['adoption_writes']} writes)", seconds(adoption["wall_s"]), seconds(adoption["cpu_s"])])
    return rows


def agents_rows(agents: list[Results]) -> Rows:
    """Return the programs beside each other."""
    heads = [f"{agent['program']}, {agent['feed']}" for agent in agents]
    changes = [spread(agent["changes_s"]) for agent in agents]
    rows = [
        ["as a process", *heads],
        ["start to converged", *(seconds(agent["start"]["wall_s"]) for agent in agents)],
        ["  processor time of it", *(seconds(agent["start"]["cpu_s"]) for agent in agents)],
        ["one change, p50", *(seconds(one.median) for one in changes)],
        ["one change, p99", *(seconds(one.p99) for one in changes)],
        ["memory (RSS)", *(megabytes(agent["rss_bytes"]) for agent in agents)],
        ["  at its height", *(megabytes(agent["peak_bytes"]) for agent in agents)],
        ["idle, of a core", *(f"{agent['idle_cpu']:.2%}" for agent in agents)],
        ["restart, nothing changed", *(seconds(_wall(agent["restart"])) for agent in agents)],
        ["  processor time of it", *(seconds(_cpu(agent["restart"])) for agent in agents)],
        ["  commits", *(_number(agent["restart_commits"]) for agent in agents)],
        ["restart, 1 % changed", *(seconds(_wall(agent["partial"])) for agent in agents)],
        ["  rows written, Services changed", *(_partial(agent) for agent in agents)],
    ]
    return [*rows, *_burst_rows([agent["burst"] for agent in agents])]


def _burst_rows(bursts: list[Results | None]) -> Rows:
    if not any(bursts):
        return []

    def lag(burst: Results) -> Spread:
        return spread(burst["lags_s"])

    return [
        ["1,000 changes a second: made", *("" if b is None else f"{b['made_hz']:,.0f}/s" for b in bursts)],
        ["  lag, p50", *("" if b is None else seconds(lag(b).median) for b in bursts)],
        ["  lag, p99", *("" if b is None else seconds(lag(b).p99) for b in bursts)],
        ["  last change to last commit", *("" if b is None else seconds(b["drained_s"]) for b in bursts)],
        ["  transactions", *("" if b is None else f"{b['rounds']:,}" for b in bursts)],
        ["  processor, of a core", *("" if b is None else f"{b['cpu']:.0%}" for b in bursts)],
    ]


def _wall(took: Results | None) -> float | None:
    return None if took is None else float(took["wall_s"])


def _cpu(took: Results | None) -> float | None:
    return None if took is None else float(took["cpu_s"])


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _partial(agent: Results) -> str:
    rows = agent["partial_rows"]
    return "" if rows is None else f"{rows:,}, {agent['partial_services']:,}"


def datapath_rows(ways: list[Results]) -> Rows:
    """Return the ways of packets beside each other."""
    rows = [["Services", "connections", "to hand-written", "first packet", "to hand-written", "kernel memory"]]
    for way in ways:
        row = [f"{way['services']:,}" if way["services"] else "hand-written rule", f"{way['connections_hz']:,.0f}/s"]
        row += [_off(way["connect_ratio"], way["connect_off"]), seconds(way["first_packet_s"])]
        row += [_off(way["first_packet_ratio"], way["first_packet_off"])]
        rows.append([*row, megabytes(way["kernel_bytes"]) if way["services"] else ""])
    return rows


def _off(ratio: float, off: float) -> str:
    return f"{times(ratio)} ± {off:.2f}"


def bars_rows(found: list[Bar]) -> Rows:
    """Return the bars."""
    rows = [["number", "bar", "measured", ""]]
    return rows + [[bar.what, bar.wanted, bar.measured, "met" if bar.met else "MISSED"] for bar in found]


def ipvs_rows(results: Results) -> Rows:
    """Return what `scripts/bench --ipvs -o json` wrote, as ratios to the floor of its own machine."""
    rows = [["ipvs", "rows", "to the floor"]]
    for cluster in results["clusters"]:
        size = f"{cluster['services']:,} Services of {cluster['endpoints']}"
        rows.append([size, f"{cluster['rows']:,}", times(cluster["apply_to_floor"])])
        rows += [[f"  {one['name']}", "", times(one["apply_to_floor"])] for one in cluster["changes"]]
    return rows


def panels(results: Results) -> list[Panel]:
    """Return cost against size: the first sync, one change, memory, and what packets see."""
    square = [cluster for cluster in results["clusters"] if cluster["ports"] == 1 and cluster["services"] > 1]
    square.sort(key=lambda cluster: cluster["services"])
    agents = [(cluster["services"], agent) for cluster in square for agent in cluster["agents"]]
    names = list(dict.fromkeys(f"{agent['program']}, {agent['feed']}" for _, agent in agents))

    def by_agent(cost: Any) -> list[Series]:
        return [Series(name, [(x, cost(a)) for x, a in agents if f"{a['program']}, {a['feed']}" == name]) for name in names]

    stages = [(cluster["services"], cluster["stages"]) for cluster in square if cluster["stages"]]
    floor = Series("floor: the same bytes", [(x, percentile(s["floor_s"], 0.5)) for x, s in stages])
    applied = Series("kpx, rows to kernel", [(x, percentile(s["apply_s"], 0.5)) for x, s in stages])
    change_floor = Series("floor: the same bytes", [(x, 1e3 * percentile(s["floor_changes_s"], 0.5)) for x, s in stages])
    ways = [way for way in results["datapath"] if way["services"]]
    hand = [way for way in results["datapath"] if not way["services"]]
    packets = [
        Series("kpx, a connection", [(way["services"], 1e6 / way["connections_hz"]) for way in ways]),
        Series("hand-written, a connection", [(way["services"], 1e6 / one["connections_hz"]) for one in hand for way in ways]),
        Series("kpx, first packet", [(way["services"], 1e6 * way["first_packet_s"]) for way in ways]),
        Series("hand-written, first packet", [(way["services"], 1e6 * one["first_packet_s"]) for one in hand for way in ways]),
    ]
    starts = by_agent(lambda agent: agent["start"]["wall_s"])
    changes = by_agent(lambda agent: 1e3 * percentile(agent["changes_s"], 0.5))
    return [
        Panel("Start to converged", "Services of 10 endpoints", "seconds", [floor, applied, *starts]),
        Panel("One changed endpoint, median", "Services of 10 endpoints", "milliseconds", [change_floor, *changes]),
        Panel("Memory (RSS)", "Services of 10 endpoints", "megabytes", by_agent(lambda agent: agent["rss_bytes"] / 1e6)),
        Panel("What packets see", "Services on the node", "microseconds", packets),
    ]
