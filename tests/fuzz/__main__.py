"""`scripts/fuzz`: go on making input for as long as is asked for; prints how far it is, and what it found."""

from __future__ import annotations

import argparse
import faulthandler
import random
import resource
import sys
import time
import traceback

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import TARGETS, Target

ROUND = 200
"""Examples made with one seed."""
HANG_S = 120
MEMORY_BYTES = 4 << 30
FINDING = 1


def main() -> int:
    """Run until the time is over or something is found."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, metavar="N", help="how long, all targets together (default 5)")
    parser.add_argument("--target", choices=[*TARGETS], action="append", help="only this; may be repeated (default all)")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="the first seed; a finding names its own")
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    number = random.randrange(1 << 32) if asked.seed is None else asked.seed
    over_at = time.monotonic() + asked.minutes * 60
    names = asked.target or [*TARGETS]
    examples = dict.fromkeys(names, 0)
    while time.monotonic() < over_at:
        for name in names:
            count = max(1, ROUND // TARGETS[name].cost)
            if not _round(name, TARGETS[name], number, count):
                return FINDING
            examples[name] += count
        number += 1
        left = max(0.0, over_at - time.monotonic())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        told = ", ".join(f"{name} {done}" for name, done in examples.items())
        print(f"{told}; at most {peak} MiB; {left:.0f} s left", flush=True)
    print(f"nothing found in {sum(examples.values())} examples")
    return 0


def _round(name: str, target: Target, number: int, count: int) -> bool:
    """Make some examples; False when one of them is a finding, which is printed as small as it can be made."""

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        print_blob=False,
    )
    @given(target.given)
    def attempt(made: object) -> None:
        # Also where C code does not come back: then all stacks are printed, and the process ends.
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        target.check(made)

    try:
        attempt()
    except Exception:  # noqa: BLE001 (which it is is the finding)
        traceback.print_exc()
        print(f"a finding: scripts/fuzz --target {name} --seed {number} makes it again", file=sys.stderr)
        return False
    finally:
        faulthandler.cancel_dump_traceback_later()
    return True


if __name__ == "__main__":
    sys.exit(main())
