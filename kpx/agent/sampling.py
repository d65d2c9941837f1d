"""Some Services at a time, all of them in turn: what is looked at row by row in one audit."""

from __future__ import annotations

from collections import deque
from typing import Final

from kpx.agent.compiler import Compiler
from kpx.dataplanes.base import Dataplane
from kpx.model.names import ObjectName
from kpx.reconcile.delta import DeltaTable
from kpx.reconcile.rows import Rows

SAMPLED_SERVICES: Final = 100
"""How many Services one sample has; 10,000 of them have all been looked at after 100 audits."""


class Sampling:
    """Where the next sample begins."""

    def __init__(self, compiler: Compiler, dataplane: Dataplane) -> None:
        self._compiler = compiler
        self._dataplane = dataplane
        self._waiting: deque[ObjectName] = deque()

    def next(self) -> Rows:
        """Return the desired rows of the next Services."""
        if not self._waiting:
            self._waiting.extend(self._compiler.programs)
        sample = DeltaTable()
        for _ in range(min(SAMPLED_SERVICES, len(self._waiting))):
            program = self._compiler.programs.get(self._waiting.popleft())
            if program is not None:
                sample.replace({}, self._dataplane.render_service(program, self._compiler.facts))
        return sample.desired_rows()
