"""
The packet tests, once for every kernel and data plane: on this machine's kernel, then on Debian's in virtual machines.

scripts/test does the rest. Every run writes what it counted as JSON (tests/lab/results.py); here the runs are started, as many
virtual machines at a time as there are processors, watched, and put into one table. Nothing that was not counted has passed: a
run without results, one that was cut short and one without a single test fail.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
PLANES = ("nftables", "ipvs")
SERIES = ("6.1", "6.12")
ONE_DATAPLANE = ("-m", "dataplane")
"""Selects the tests that run an agent; the others are about the kernel and need to run once on each."""

MACHINE_MEMORY_GIB = 2
MACHINE_TIMEOUT_S = 55 * 60
PATIENCE = 8
PROGRESS_EVERY_S = 60.0
COUNTS = ("passed", "failed", "skipped")


class Run(NamedTuple):
    """
    One pytest on one kernel.

    Args:
        series: the kernel as scripts/vm names it; "" for this machine's.
        part: which of how many parts of the tests, as pytest's `--part` wants it; "" for all of them.
        selection: arguments for pytest.
    """

    plane: str
    series: str = ""
    part: str = ""
    selection: tuple[str, ...] = ()

    def __str__(self) -> str:
        part = f", part {self.part}" if self.part else ""
        return f"{self.plane} on {f'kernel {self.series}' if self.series else 'this kernel'}{part}"


class Suite(NamedTuple):
    """
    The tests of a data plane on a kernel in virtual machines.

    Args:
        parts: what is run of them, each in a machine of its own: all parts, or some.
    """

    plane: str
    series: str
    parts: tuple[str, ...]
    selection: tuple[str, ...] = ()


HALVES = ("1/2", "2/2")
THIRDS = ("1/3", "2/3", "3/3")
THIN = ("--thin", "3")
"""Runs a third of what hardly depends on the data plane, and was run whole with the other one on this machine's kernel."""
SUITES = (
    # An emulated hour is long. Behaviour hardly differs between kernels, so of the other combinations a fixed part is run.
    Suite("ipvs", "6.1", THIRDS, THIN),
    Suite("ipvs", "6.12", ("1/16",)),
    Suite("nftables", "6.1", ("2/16",), ONE_DATAPLANE),
    Suite("nftables", "6.12", ("3/20",), ONE_DATAPLANE),
)


class Line(NamedTuple):
    """
    One line of the table: all parts of a suite that were run.

    Args:
        tests: how many tests the suite has.
    """

    plane: str
    kernel: str
    tests: int
    counts: Mapping[str, int]
    missing: Mapping[str, int]

    @property
    def ran(self) -> int:
        """How many tests were carried out, whatever came of them."""
        return self.counts["passed"] + self.counts["failed"]


def native_runs() -> Iterator[Run]:
    """What is run on this machine's kernel, side by side: a test waits as long as it works."""
    for part in HALVES:
        yield Run("nftables", part=part)
    yield Run("ipvs", selection=ONE_DATAPLANE)


def machine_runs(series: Sequence[str], complete: bool = False) -> Iterator[Run]:
    """What is run in virtual machines, the longest first; `complete` leaves nothing out."""
    for suite in SUITES:
        if suite.series in series:
            for part in THIRDS if complete else suite.parts:
                selection = () if complete and suite.selection == THIN else suite.selection
                yield Run(suite.plane, suite.series, part, selection)


def pytest_command(run: Run, results: Path, arguments: Sequence[str]) -> list[str]:
    """The command line of a run, here or there."""
    directories = [name for name in ("tests/packets", "tests/system") if (REPOSITORY / name).is_dir()]
    part = ["--part", run.part] if run.part else []
    options = ["-p", "no:cacheprovider", "--results", str(results), *run.selection, *part]
    return [sys.executable, "-m", "pytest", *options, *arguments, *directories]


def machine_command(run: Run, results: Path, arguments: Sequence[str]) -> list[str]:
    """The command line of a run in a virtual machine; the directory of its results is shared with it."""
    machine = ["scripts/vm", "--kernel", run.series, "--memory", f"{MACHINE_MEMORY_GIB}G", "--timeout", str(MACHINE_TIMEOUT_S)]
    return [*machine, "--share", str(results.parent), "--", *pytest_command(run, results, arguments)]


def environment(run: Run) -> dict[str, str]:
    """The environment of a run."""
    chosen = {"KPX_LAB_DATAPLANE": run.plane, "PYTHONUNBUFFERED": "1"}
    if run.series:
        chosen |= {"KPX_LAB_PATIENCE": str(PATIENCE), "KPX_LAB_PRELOAD": "1"}
    return {**os.environ, **chosen}


def read_results(path: Path) -> dict[str, object]:
    """What a run has counted so far; empty when it has not got that far."""
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def complaint(run: Run, exit_status: int, results: Mapping[str, object], selected: bool) -> str:
    """
    Tell why a run has not passed; "" when it has.

    Args:
        selected: somebody asked for certain tests only, so that a run may have none of them.
    """
    if exit_status == 124 and run.series:
        return f"was not through after {MACHINE_TIMEOUT_S} s"
    if not results:
        return f"ended with exit status {exit_status} before it counted anything"
    if results["exit_status"] is None:
        return f"ended with exit status {exit_status} in the middle"
    if selected and results["exit_status"] == 5 and results["total"] == 0:
        return ""
    if exit_status:
        return f"{results['failed']} failed" if results["failed"] else f"pytest ended with exit status {exit_status}"
    # Here a kernel that lacks something is no fault; in a machine it would be the wrong kernel.
    lacks = bool(results["missing"]) and not run.series
    return "" if line_of([results]).ran or lacks or selected else "not a single test ran"


def line_of(parts: Sequence[Mapping[str, object]]) -> Line:
    """Add up the parts of a suite."""
    counts = {key: sum(int(str(part[key])) for part in parts) for key in COUNTS}
    missing: dict[str, int] = {}
    for part in parts:
        found = part["missing"]
        assert isinstance(found, dict)
        for feature, number in found.items():
            missing[feature] = missing.get(feature, 0) + number
    tests = max(int(str(part["of"])) for part in parts)
    return Line(str(parts[0]["dataplane"]), str(parts[0]["kernel"]), tests, counts, missing)


def table(lines: Iterable[Line]) -> str:
    """The summary, aligned."""
    heads = ("data plane", "kernel", "tests", "ran", *COUNTS, "missing features (tests skipped for it)")
    rows = [heads]
    for line in lines:
        missing = ", ".join(f"{feature} ({number})" for feature, number in sorted(line.missing.items())) or "none"
        numbers = (line.tests, line.ran, *(line.counts[key] for key in COUNTS))
        rows.append((line.plane, line.kernel, *map(str, numbers), missing))
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    texts = (
        "  ".join(
            cell.rjust(width) if 2 <= column < len(heads) - 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(text.rstrip() for text in texts)


class Running:
    """A run that is under way."""

    def __init__(self, run: Run, directory: Path, arguments: Sequence[str]) -> None:
        self.run = run
        self.since = time.monotonic()
        self._directory = directory / f"{run.plane}-{run.series or 'native'}-{run.part.replace('/', '-')}"
        self._directory.mkdir()
        self.results = self._directory / "results.json"
        self.log = self._directory / "log"
        command = (machine_command if run.series else pytest_command)(run, self.results, arguments)
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=REPOSITORY, env=environment(run), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def progress(self) -> str:
        """One line about how far it is."""
        results = read_results(self.results)
        if not results:
            return f"{self.run}: starting"
        done = sum(int(str(results[key])) for key in COUNTS)
        failed = f", {results['failed']} failed" if results["failed"] else ""
        return f"{self.run}: {done} of {results['total']}{failed}"


def machines_at_once() -> int:
    """One more than there are processors, as each waits a third of its time; fewer where memory is short, and at least one."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 2**30
    return max(1, min(len(os.sched_getaffinity(0)) + 1, int(memory / (MACHINE_MEMORY_GIB + 1))))


class Session:
    """All runs of one invocation."""

    def __init__(self, directory: Path, arguments: Sequence[str]) -> None:
        self.failures: list[str] = []
        self._directory = directory
        self._arguments = arguments
        self._since = time.monotonic()
        self._suites: dict[tuple[str, str], list[Mapping[str, object]]] = {}

    def carry_out(self, runs: Iterable[Run], at_once: int) -> None:
        """Carry runs out, so many side by side; what pytest prints is shown of those that failed, and of none of the others."""
        waiting = list(runs)
        running: list[Running] = []
        said = time.monotonic()
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    running.append(Running(waiting.pop(0), self._directory, self._arguments))
                    self._say(f"{running[-1].run}: starting")
                time.sleep(0.5)
                for each in [each for each in running if each.process.poll() is not None]:
                    running.remove(each)
                    self._finish(each)
                if time.monotonic() - said >= PROGRESS_EVERY_S:
                    said = time.monotonic()
                    for each in running:
                        self._say(each.progress())
        finally:
            for each in running:
                each.process.terminate()
            for each in running:
                each.process.wait()

    def lines(self) -> list[Line]:
        """The table's lines."""
        return [line_of(parts) for parts in self._suites.values()]

    def _finish(self, ended: Running) -> None:
        if self._judge(ended.run, ended.process.returncode, read_results(ended.results)):
            print(ended.log.read_text(), flush=True)
        else:
            self._say(f"{ended.progress()}, passed after {time.monotonic() - ended.since:.0f} s")

    def _judge(self, run: Run, status: int, results: Mapping[str, object]) -> str:
        if results:
            self._suites.setdefault((run.plane, run.series), []).append(results)
        why = complaint(run, status, results, selected=bool(self._arguments))
        if why:
            self.failures.append(f"{run}: {why}")
            self._say(f"{run}: FAILED: {why}")
        return why

    def _say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._since), 60)
        print(f"== {minutes:2}:{seconds:02} {text}", flush=True)


def main() -> int:
    """Run what the command line asks for; exit code 0 when all of it passed."""
    parser = argparse.ArgumentParser(description="Packet tests on every kernel and data plane; see scripts/test.")
    parser.add_argument("--no-native", action="store_true")
    parser.add_argument("--no-vm", action="store_true")
    parser.add_argument("--complete", action="store_true")
    parser.add_argument("--kernel", action="append", choices=SERIES)
    parser.add_argument("arguments", nargs="*")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kpx-test-") as directory:
        session = Session(Path(directory), asked.arguments)
        if not asked.no_native:
            session.carry_out(native_runs(), at_once=len(HALVES))
        if not asked.no_vm:
            session.carry_out(machine_runs(asked.kernel or SERIES, asked.complete), machines_at_once())
        lines = session.lines()
    if not sum(line.ran for line in lines):
        session.failures.append("not a single test ran")
    print(f"\n{table(lines)}\n")
    for failure in session.failures:
        print(f"FAILED  {failure}")
    return 1 if session.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
