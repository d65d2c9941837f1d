"""The pure parts of scripts/bench: statistics, tables, the plot, the bars, and how kube-proxy is asked; and its command line."""

from __future__ import annotations

import statistics
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import kube_proxy, report
from benchmarks.bars import bars
from benchmarks.datapath import against, target
from benchmarks.manifests import Cluster
from benchmarks.plot import Panel, Series, axis, svg
from benchmarks.process import rounds_in
from benchmarks.run import parse
from benchmarks.spread import growth, percentile, ratios, spread, uncertainty
from benchmarks.table import aligned, markdown, megabytes, seconds, times
from kpx.model.decode import decode_document
from kpx.settings.kube_proxy_config import KIND, VERSION, translate
from kpx.sources.manifests import read_directory

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
numbers = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60)


@given(numbers, st.floats(0.01, 1.0))
def test_a_percentile_is_one_of_the_values_and_that_share_is_not_above_it(values: list[float], share: float) -> None:
    found = percentile(values, share)

    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values) + 1e-9


def test_the_99th_of_two_hundred_values_leaves_two_above() -> None:
    assert percentile(list(range(1, 201)), 0.99) == 198


@given(numbers)
def test_a_spread_is_in_order(values: list[float]) -> None:
    found = spread(values)

    assert found.low <= found.median <= found.high <= max(values)
    assert found.median == statistics.median(values)
    assert found.p99 >= found.high
    assert found.count == len(values)


def test_what_hits_two_neighbours_alike_cancels_out() -> None:
    assert ratios([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == [2.0, 2.0, 2.0]
    assert uncertainty([2.0, 2.0, 2.0]) == 0


def test_more_visits_make_the_median_surer() -> None:
    visits = [1.0, 1.1, 1.2, 1.3]
    assert uncertainty(visits * 25) == pytest.approx(uncertainty(visits * 100) * 2)


def test_growth_compares_the_end_with_the_beginning() -> None:
    assert growth([1.0] * 50) == 1
    assert growth([1.0] * 10 + [9.0] * 30 + [3.0] * 10) == 3


def test_columns_stand_in_line_and_the_first_one_is_flush_left() -> None:
    assert aligned([["what", "a"], ["x", "10 ms", "r"], ["longer", "1"]]) == (
        "what        a\n----------------\nx       10 ms  r\nlonger      1"
    )
    assert aligned([]) == ""


def test_a_table_of_markdown_has_as_many_cells_everywhere() -> None:
    assert markdown([["a", "b", "c"], ["1"]]) == "| a | b | c |\n| --- | ---: | ---: |\n| 1 |  |  |"


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, ""), (12.345, "12.3 s"), (0.9999, "1 s"), (0.0456, "45.6 ms"), (0.00001234, "12.3 us"), (0.0009999, "1 ms")],
)
def test_durations_have_three_digits(value: float | None, said: str) -> None:
    assert seconds(value) == said


def test_sizes_and_ratios_are_spelled() -> None:
    assert (megabytes(1_234_567_890), megabytes(None)) == ("1,235 MB", "")
    assert (times(1.256), times(None)) == ("1.26 x", "")


@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=20))
def test_every_value_is_inside_of_its_axis(values: list[float]) -> None:
    made = axis(values, 50.0, 400.0)

    assert all(50.0 - 1e-6 <= made.place(value) <= 400.0 + 1e-6 for value in values)
    assert made.place(10.0**made.low) == 50.0
    assert made.place(10.0**made.high) == pytest.approx(400.0)


def test_a_plot_is_xml_with_a_line_a_series_and_a_mark_a_point() -> None:
    panels = [
        Panel("One & two", "size", "<seconds>", [Series("ours", [(1000, 0.5), (10000, 4)]), Series("theirs", [])]),
        Panel("without a point", "size", "seconds", [Series("ours", [])]),
    ]
    names = {"svg": "http://www.w3.org/2000/svg"}
    root = ET.fromstring(svg(panels))

    assert len(root.findall("svg:g", names)) == 1
    assert len(root.findall(".//svg:polyline", names)) == 1
    marks = root.findall(".//svg:circle", names)
    assert [float(mark.attrib["cx"]) for mark in marks] == sorted(float(mark.attrib["cx"]) for mark in marks)
    assert float(marks[0].attrib["cy"]) > float(marks[1].attrib["cy"]), "more is further up"
    said = [element.text for element in root.findall(".//svg:text", names)]
    assert {"One & two", "<seconds>", "ours", "1,000", "10,000"} <= set(said)
    assert "theirs" not in said


def test_a_plot_of_nothing_is_still_xml() -> None:
    assert ET.fromstring(svg([])).tag.endswith("svg")


def cluster(services: int, **changed: Any) -> dict[str, Any]:
    took = {"wall_s": 0.5, "cpu_s": 0.4}
    stages = {
        "took": {"read and decode the files": took, "rows to kernel": took},
        "rows": 24,
        "written_bytes": 1e6,
        "apply_s": [1.0, 2.0, 3.0],
        "floor_s": [1.0, 1.0, 1.0],
        "changes_s": [0.001] * 4,
        "floor_changes_s": [0.0005] * 4,
        "change_bytes": 1120.0,
        "adoption": took,
        "adoption_writes": 0,
    }
    burst = {
        "asked_hz": 1000,
        "made_hz": 1000.0,
        "lags_s": [0.001] * 10,
        "drained_s": 0.01,
        "equal": True,
        "rounds": 9,
        "cpu": 0.4,
    }
    agent = {
        "program": "kpx",
        "feed": "manifests",
        "start": {"wall_s": 3.0, "cpu_s": 2.0},
        "rss_bytes": 140e6,
        "peak_bytes": 180e6,
        "changes_s": [0.001] * 99 + [0.02],
        "idle_cpu": 0.001,
        "burst": burst,
        "restart": {"wall_s": 2.0, "cpu_s": 2.0},
        "restart_commits": 0,
        "partial": {"wall_s": 2.0, "cpu_s": 2.0},
        "partial_services": 100,
        "partial_rows": 1400,
    }
    return {"services": services, "endpoints": 10, "ports": 1, "stages": stages, "agents": [agent | changed]}


def test_bars_are_met_or_missed_by_what_was_measured() -> None:
    found = {bar.what: bar for bar in bars({"clusters": [cluster(10_000)], "datapath": []})}

    missed = [what for what, bar in found.items() if not bar.met]
    assert missed == ["10,000 x 10: the plan carried out, to the floor"]
    assert found["10,000 x 10, manifests: one change, p99"].measured == "1 ms"


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"start": {"wall_s": 4.1, "cpu_s": 2.0}}, "start to converged"),
        ({"rss_bytes": 150e6}, "memory (RSS)"),
        ({"idle_cpu": 0.006}, "idle"),
        ({"restart_commits": 1}, "commits of that restart"),
        ({"partial_rows": 1401}, "rows of a restart with 1 % changed"),
        ({"changes_s": [0.004] * 100}, "one change, p50"),
        ({"changes_s": [0.001] * 98 + [0.02] * 2}, "one change, p99"),
    ],
)
def test_every_bar_can_be_missed(changed: dict[str, Any], what: str) -> None:
    found = bars({"clusters": [cluster(10_000, **changed)], "datapath": []})

    assert f"10,000 x 10, manifests: {what}" in [bar.what for bar in found if not bar.met]


def test_only_the_sizes_with_bars_have_bars() -> None:
    assert bars({"clusters": [cluster(1_000)], "datapath": []}) == []
    assert {bar.what.partition(":")[0] for bar in bars({"clusters": [cluster(100_000)], "datapath": []})} == {"100,000 x 10"}


def way(services: int, ratio: float) -> dict[str, Any]:
    same = {"connections_hz": 1e4, "connect_off": 0.01, "first_packet_s": 1e-5, "first_packet_off": 0.01, "kernel_bytes": 2e6}
    return {"services": services, "connect_ratio": ratio, "first_packet_ratio": ratio, **same}


def test_packets_are_compared_with_the_hand_written_rule_and_among_each_other() -> None:
    found = bars({"clusters": [], "datapath": [way(0, 1.0), way(1, 1.04), way(1000, 1.12)]})

    assert [bar.met for bar in found if bar.what.startswith("new connection")] == [True, False, False]
    assert found[0].measured == "+4.0% (± 1.0%)"


def test_a_way_is_compared_visit_by_visit() -> None:
    found = against(7, {0: [1.0, 10.0, 1.0], 7: [1.1, 11.0, 1.1]}, {0: [1.0] * 3, 7: [2.0] * 3}, 5)

    assert found.connect_ratio == pytest.approx(1.1)
    assert found.first_packet_ratio == 2
    assert found.connections_hz == pytest.approx(1 / 1.1)


def test_results_print_and_plot_whatever_is_missing() -> None:
    lacking = cluster(1_000, burst=None, partial=None, partial_rows=None, program="kube-proxy", feed="API server")
    results = {"clusters": [cluster(10_000), lacking], "datapath": [way(0, 1.0), way(1, 1.0)]}
    agents = [one for each in results["clusters"] for one in each["agents"]]

    assert "kube-proxy, API server" in aligned(report.agents_rows(agents))
    assert "2.00 x" in aligned(report.stages_rows(results["clusters"][0]["stages"]))
    assert "hand-written rule" in aligned(report.datapath_rows(results["datapath"]))
    assert "MISSED" in aligned(report.bars_rows(bars(results)))
    panels = report.panels(results)
    assert [panel.title for panel in panels] == [
        "Start to converged",
        "One changed endpoint, median",
        "Memory (RSS)",
        "What packets see",
    ]
    assert [point[0] for point in panels[0].series[0].points] == [1_000, 10_000]
    ET.fromstring(svg(panels))


def test_ipvs_joins_as_ratios_to_its_own_floor() -> None:
    change = {"name": "one endpoint more", "apply_to_floor": 1.4}
    results = {"clusters": [{"services": 1000, "endpoints": 10, "rows": 16001, "apply_to_floor": 1.2, "changes": [change]}]}

    assert report.ipvs_rows(results)[1:] == [["1,000 Services of 10", "16,001", "1.20 x"], ["  one endpoint more", "", "1.40 x"]]


# The clusters


@pytest.mark.parametrize("shape", [Cluster(3, 4), Cluster(1, 250), Cluster(1, 2, ports=30)])
def test_a_cluster_is_written_without_a_finding_and_swaps_are_swapped_back(shape: Cluster, tmp_path: Path) -> None:
    shape.write(tmp_path)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    news = read_directory(str(tmp_path))

    assert news.findings == ()
    for number in range(6):
        name, text = shape.changed_file(number)
        assert (text == before[name]) is (number % 2 == 1)


def test_endpoints_are_all_different_and_so_is_the_one_that_takes_a_place() -> None:
    shape = Cluster(50, 10)
    pods = [pod["addresses"][0] for service in range(50) for pod in shape.objects(service)[1]["endpoints"]]

    assert len(set(pods)) == 500
    assert shape.changed_slice(0)["endpoints"][0]["addresses"][0] not in pods


def test_the_service_that_packets_ask_decodes() -> None:
    decoded = decode_document(target(), "target")

    assert decoded.findings == ()
    assert [found.kind for found in decoded.objects] == ["Service", "EndpointSlice"]


# The log of the agent


def test_rounds_are_read_from_the_log() -> None:
    log = (
        "2026-11-23 INFO round reason=start services=3 added=120 changed=0 removed=1 refused=0 took_ms=3.1\n"
        "2026-11-23 INFO round reason=change services=1 added=1 changed=10 removed=1 refused=0 took_ms=0.5 lag_ms=0.75\n"
    )
    assert rounds_in(log) == [("start", 121, None), ("change", 12, 0.00075)]


# kube-proxy


def test_kube_proxy_is_given_a_configuration_it_knows(tmp_path: Path) -> None:
    """Kpx reads KubeProxyConfiguration by the fields of kube-proxy 1.36; it would name one that is none."""
    made = kube_proxy.configuration(tmp_path / "kubeconfig")

    assert (made["apiVersion"], made["kind"], made["mode"]) == (VERSION, KIND, "nftables")
    assert translate(made).unknown == ()
    assert made["clientConnection"]["kubeconfig"] == str(tmp_path / "kubeconfig")
    assert kube_proxy.command("/bin/kube-proxy", tmp_path / "c.yaml") == [
        "/bin/kube-proxy",
        f"--config={tmp_path}/c.yaml",
        "--v=1",
    ]


def test_the_kube_proxy_that_is_named_goes_before_the_one_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kube_proxy.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert kube_proxy.find() is None

    program = tmp_path / "kube-proxy"
    program.write_text("#!/bin/sh\necho Kubernetes v1.36.0\n")
    program.chmod(0o755)
    assert kube_proxy.find() == str(program)
    assert kube_proxy.version(str(program)) == "Kubernetes v1.36.0"

    named = tmp_path / "another"
    program.rename(named)
    monkeypatch.setenv(kube_proxy.VARIABLE, str(named))
    assert kube_proxy.find() == str(named)
    monkeypatch.setenv(kube_proxy.VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(SystemExit, match="not a program"):
        kube_proxy.find()


# The command line


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--bogus"], "unknown argument --bogus"),
        (["--sizes", "1,,2"], "not numbers"),
        (["--full", "--sizes", "3"], "one of them"),
        (["--services", "5"], "is for --ipvs"),
        (["--ipvs", "--full"], "is not for --ipvs"),
        (["--only", "x"], "there are stages"),
        (["--changes"], "needs a value"),
    ],
)
def test_a_wrong_command_line_fails_in_one_line(words: list[str], complaint: str) -> None:
    done = subprocess.run(["bash", str(BENCH), *words], capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_help_says_what_every_option_does() -> None:
    done = subprocess.run(["bash", str(BENCH), "--help"], capture_output=True, text=True, timeout=30, check=True)

    for option in (
        "--sizes",
        "--full",
        "--endpoints",
        "--changes",
        "--rounds",
        "--only",
        "--out",
        "--ipvs",
        "KPX_BENCH_KUBE_PROXY",
    ):
        assert option in done.stdout


def test_sizes_and_parts_have_defaults() -> None:
    assert parse([]).sizes == [1_000, 10_000]
    assert parse(["--full"]).sizes == [1_000, 10_000, 100_000]
    assert parse(["--sizes", "5,7", "--changes", "7"]).changes == 6
    assert parse(["--only", "agent"]).only == ["agent"]
    with pytest.raises(SystemExit):
        parse(["--sizes", "0"])
