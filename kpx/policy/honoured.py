"""
Which Service features the data planes can carry out today: the one place to change when one learns more.

Policy knows the whole contract. A data plane that cannot yet tell sources apart, or filter them, must not be handed
verdicts it would get wrong, so a feature that is not honoured is compiled as the next safe thing and said in a finding.
"""

from __future__ import annotations

from typing import NamedTuple


class Honoured(NamedTuple):
    """
    Features that are carried out; the defaults are what this release does.

    Args:
        local: internal and external traffic policy Local (M4-M12). Off: compiled as Cluster, with a warning.
        source_ranges: loadBalancerSourceRanges (F1-F8). Off: a load-balancer IP with ranges is not programmed at all, as
            it would be open to everybody.
        terminating: serving endpoints that terminate are used when none is ready (C2, C3). Off: never.
        topology: zone and node hints shrink the cluster pool (T1-T4). Off: hints are ignored.
    """

    local: bool = False
    source_ranges: bool = False
    terminating: bool = True
    topology: bool = True


HONOURED = Honoured()
"""What this release honours."""

EVERYTHING = Honoured(local=True, source_ranges=True)
"""The whole contract."""
