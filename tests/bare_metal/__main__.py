"""Carry the proof out, print each step with its time, and end with exit code 0 if all of it is proven."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from tests.bare_metal.controller import Controller, PlaybookError, ansible_playbook, image, wheels
from tests.bare_metal.machine import Machine, MachineError
from tests.bare_metal.proof import NotProven, Proof, Step

WHOLE_S = 120 * 60
FAILURES = (NotProven, MachineError, PlaybookError, subprocess.SubprocessError, OSError, ValueError, LookupError)
"""What may come of a step: a fault that was looked for, or a machine that says what nobody expected."""


class Ended(BaseException):
    """A signal asked for the end, or time is up."""


class Outcome(NamedTuple):
    """
    What came of a step.

    Args:
        result: ok, FAILED or "not run"; seconds: how long it took; seen: what was seen, or what was wrong.
    """

    title: str
    result: str
    seconds: float
    seen: str


def carry_out(step: Step) -> Outcome:
    """Try a step."""
    began = time.monotonic()
    try:
        result, seen = "ok", step.prove()
    except FAILURES as error:
        result, seen = "FAILED", str(error) or repr(error)
    return Outcome(step.title, result, time.monotonic() - began, seen)


def table(outcomes: list[Outcome]) -> str:
    """The outcomes, aligned; of long texts the first line."""
    width = max(len(outcome.title) for outcome in outcomes)
    return "\n".join(line(outcome, width) for outcome in outcomes)


def line(outcome: Outcome, width: int) -> str:
    """One line of the table."""
    seen = outcome.seen.splitlines()[0] if outcome.seen else ""
    return f"{outcome.result:7}  {outcome.title:{width}}  {outcome.seconds:5.0f} s  {seen}".rstrip()


def machine_kind() -> str:
    """This machine's processor, which decides how long everything takes."""
    model = next((text for text in Path("/proc/cpuinfo").read_text().splitlines() if text.startswith("model name")), "unknown")
    version = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout.split()[3]
    return f"{len(os.sched_getaffinity(0))} x {model.partition(':')[2].strip()}, QEMU {version} TCG"


def end(number: int, _: FrameType | None) -> None:
    """Turn a signal into the end of what is going on."""
    raise Ended("time is up" if number == signal.SIGALRM else signal.Signals(number).name)


@contextmanager
def working_directory(keep: bool) -> Iterator[tuple[Path, list[str]]]:
    """A directory for logs, which stays if a reason is put into the list."""
    directory = Path(tempfile.mkdtemp(prefix="kpx-bare-metal-"))
    reasons: list[str] = ["--keep"] if keep else []
    try:
        yield directory, reasons
    finally:
        if reasons:
            print(f"logs, the console and what was seen at failures: {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)


def prove(directory: Path) -> list[Outcome]:
    """Carry out all steps; the machine is gone afterwards in any case."""
    machine = Machine(image(), directory)
    proof = Proof(machine, Controller(machine, directory), directory)
    steps = proof.steps()
    width = max(len(step.title) for step in steps)
    outcomes: list[Outcome] = []
    lost = ""
    try:
        for step in steps:
            outcomes.append(Outcome(step.title, "not run", 0.0, lost) if lost else carry_out(step))
            print(line(outcomes[-1], width), file=sys.stderr, flush=True)
            if outcomes[-1].result == "FAILED":
                said = outcomes[-1].seen
                with (directory / f"failure-{len(outcomes)}.txt").open("w") as file:
                    file.write(f"{step.title}: {said}\n\n{evidence(proof)}")
                lost = f"because {step.title!r} is not so" if step.decisive else ""
    except Ended as ended:
        done = len(outcomes)
        outcomes += [Outcome(step.title, "not run" if n else "FAILED", 0.0, str(ended)) for n, step in enumerate(steps[done:])]
    finally:
        machine.stop()
    return outcomes


def evidence(proof: Proof) -> str:
    """What the machine says of itself, if it still says anything."""
    try:
        return proof.evidence()
    except FAILURES as error:
        return str(error)


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="scripts/test --bare-metal", description="See docs/bare-metal.md.")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="how the result is printed")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the result to FILE, too, as JSON")
    parser.add_argument("--keep", action="store_true", help="keep logs also when all is proven")
    asked = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, end)
    # What takes long the first time only is not part of it.
    image()
    wheels()
    ansible_playbook()
    signal.alarm(WHOLE_S)
    began = time.monotonic()
    with working_directory(asked.keep) as (directory, reasons):
        outcomes = prove(directory)
        if any(outcome.result != "ok" for outcome in outcomes):
            reasons.append("failed")
    result = {
        "machine": machine_kind(),
        "seconds": round(time.monotonic() - began),
        "steps": [{**outcome._asdict(), "seconds": round(outcome.seconds, 1)} for outcome in outcomes],
    }
    if asked.record:
        asked.record.write_text(json.dumps(result, indent=2) + "\n")
    text = f"\n{table(outcomes)}\n\n{result['machine']}; took {result['seconds']} s"
    print(json.dumps(result, indent=2) if asked.output == "json" else text)
    return 0 if all(outcome.result == "ok" for outcome in outcomes) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Ended as ended:
        print(f"scripts/test --bare-metal: ended: {ended}", file=sys.stderr)
        sys.exit(130)
