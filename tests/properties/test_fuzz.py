"""Whatever comes in: an error of kpx's own or none, no hang, no memory without end. `scripts/fuzz` does this for longer."""

from __future__ import annotations

import faulthandler

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

EXAMPLES = 150
HANG_S = 120


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_our_own_errors(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=EXAMPLES // target.cost, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        target.check(data.draw(target.given))

    faulthandler.dump_traceback_later(HANG_S, exit=True)
    try:
        attempt()
    finally:
        faulthandler.cancel_dump_traceback_later()
