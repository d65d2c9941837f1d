"""The summary of scripts/test: what counts as passed, how parts add up, what the table looks like."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.test_runs import (
    COUNTS,
    HALVES,
    SERIES,
    SUITES,
    THIN,
    THIRDS,
    Run,
    Session,
    complaint,
    line_of,
    machine_runs,
    native_runs,
    pytest_command,
    read_results,
    table,
)

HERE = Run("ipvs")
MACHINE = Run("ipvs", "6.1", "1/2")


def results(**changes: object) -> dict[str, object]:
    """What a run that passed has counted."""
    passed = {"dataplane": "ipvs", "kernel": "6.1.0-1-amd64", "total": 3, "of": 3, "missing": {}, "exit_status": 0}
    return {**passed, **dict.fromkeys(COUNTS, 0), "passed": 3, **changes}


def test_a_run_that_passed_has_passed() -> None:
    assert complaint(MACHINE, 0, results(), selected=False) == ""


@pytest.mark.parametrize(
    ("status", "counted", "why"),
    [
        (125, {}, "ended with exit status 125 before it counted anything"),
        (137, results(exit_status=None), "ended with exit status 137 in the middle"),
        (0, results(exit_status=None), "ended with exit status 0 in the middle"),
        (124, results(exit_status=None), "was not through after 3300 s"),
        (1, results(failed=1, exit_status=1), "1 failed"),
        (3, results(exit_status=3), "pytest ended with exit status 3"),
        (0, results(passed=0, skipped=3), "not a single test ran"),
        (0, results(passed=0, skipped=3, missing={"ip_vs": 3}), "not a single test ran"),
    ],
)
def test_whatever_is_less_has_failed(status: int, counted: dict[str, object], why: str) -> None:
    assert complaint(MACHINE, status, counted, selected=False) == why


def test_this_machines_kernel_may_lack_what_a_data_plane_needs() -> None:
    lacking = results(passed=0, skipped=3, missing={"ip_vs": 3})

    assert complaint(HERE, 0, lacking, selected=False) == ""
    assert complaint(HERE, 0, results(passed=0, skipped=3), selected=False) == "not a single test ran"


def test_who_selects_tests_may_select_none_of_a_run() -> None:
    nothing = results(passed=0, total=0, exit_status=5)

    assert complaint(MACHINE, 5, nothing, selected=True) == ""
    assert complaint(MACHINE, 5, nothing, selected=False) == "pytest ended with exit status 5"


def test_parts_add_up() -> None:
    line = line_of([results(of=10, missing={"a": 1}), results(of=10, passed=1, failed=2, skipped=4, missing={"a": 1, "b": 2})])

    assert line.counts == {"passed": 4, "failed": 2, "skipped": 4}
    assert line.missing == {"a": 2, "b": 2}
    assert line.ran == 6
    assert line.tests == 10


def test_table_is_aligned() -> None:
    text = table([line_of([results(passed=120, of=360)]), line_of([results(dataplane="nftables", missing={"IPv6": 2})])])

    assert text.splitlines() == [
        "data plane  kernel         tests  ran  passed  failed  skipped  missing features (tests skipped for it)",
        "ipvs        6.1.0-1-amd64    360  120     120       0        0  none",
        "nftables    6.1.0-1-amd64      3    3       3       0        0  IPv6 (2)",
    ]


def test_ipvs_is_run_whole_on_one_kernel_and_every_data_plane_on_every_kernel() -> None:
    runs = list(machine_runs(SERIES))

    assert len(set(runs)) == len(runs)
    assert {(plane, series) for plane in ("ipvs", "nftables") for series in SERIES} == {run[:2] for run in runs}
    assert [Run("ipvs", "6.1", part, THIN) for part in THIRDS] == [run for run in runs if run[:2] == ("ipvs", "6.1")]


def test_all_runs_here_together_are_the_whole_suite() -> None:
    assert [run.part for run in native_runs() if run.plane == "nftables"] == list(HALVES)
    assert [run.part for run in native_runs() if run.plane == "ipvs"] == [""]


def test_runs_that_went_wrong_are_shown_and_the_others_go_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    nothing_to_see = ["-k", "no_test_is_called_so"]
    session = Session(tmp_path, nothing_to_see)
    session.carry_out([Run("nftables", part="1/2"), Run("nftables", selection=("--no-such-option",))], at_once=2)

    printed = capsys.readouterr().out
    assert session.failures == ["nftables on this kernel: ended with exit status 4 before it counted anything"]
    assert "unrecognized arguments: --no-such-option" in printed
    assert "nftables on this kernel, part 1/2: 0 of 0, passed" in printed


def test_complete_leaves_nothing_out() -> None:
    runs = list(machine_runs(SERIES, complete=True))

    assert sorted(run.part for run in runs) == sorted(THIRDS * len(SUITES))
    assert not any("--thin" in run.selection for run in runs)


def test_a_kernel_can_be_chosen() -> None:
    assert {run.series for run in machine_runs(["6.12"])} == {"6.12"}


def test_part_is_passed_on() -> None:
    command = pytest_command(Run("ipvs", "6.12", "2/3"), Path("/x/r.json"), ["-k", "nodeport"])

    assert command[command.index("--part") + 1] == "2/3"
    assert command[command.index("--results") + 1] == "/x/r.json"
    assert command[command.index("-k") + 1] == "nodeport"


def test_results_that_are_not_there_yet_are_none(tmp_path: Path) -> None:
    assert read_results(tmp_path / "results.json") == {}
