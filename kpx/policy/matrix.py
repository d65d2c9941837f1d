"""
The traffic matrix: what happens to a new flow, by what it is addressed to and where it comes from (contract section 6).

Masquerading has two purposes. Traffic from outside that enters through one node and leaves to a pod of another must come back
the same way (M3, M7); and an endpoint that reaches itself must see an answer from the frontend and not from itself. The
latter, hairpin (M16), depends on the endpoint that was picked and is no part of a verdict: `PortProgram.hairpin` names the
addresses for which it can happen.
"""

from __future__ import annotations

from typing import NamedTuple

from kpx.policy.desired import Action, Pool, Verdict
from kpx.policy.eligibility import Eligible


class Verdicts(NamedTuple):
    """One verdict for each kind of source."""

    pod: Verdict
    host: Verdict
    outside: Verdict


REJECT = Verdict(Action.REJECT, None, False)
DROP = Verdict(Action.DROP, None, False)
REJECT_ALL = Verdicts(REJECT, REJECT, REJECT)
DROP_ALL = Verdicts(DROP, DROP, DROP)


def _forward(pool: Pool, masquerade: bool) -> Verdict:
    return Verdict(Action.FORWARD, pool, masquerade)


def cluster_ip(eligible: Eligible, *, local: bool, detector: bool, masquerade_all: bool) -> Verdicts:
    """
    Return what happens to traffic to a ClusterIP; externalTrafficPolicy has no say (M15).

    Args:
        eligible: the endpoints.
        local: internalTrafficPolicy Local.
        detector: pod traffic can be told from other traffic; else nobody is masqueraded (6.2).
        masquerade_all: everybody is masqueraded (6.4).
    """
    if not eligible.any:
        return REJECT_ALL  # M14
    pool = eligible.local if local else eligible.cluster
    if not pool.backends:
        return DROP_ALL  # M6
    pod = _forward(pool, masquerade_all)  # M1, M4
    others = _forward(pool, masquerade_all or detector)  # M2, M3, M5
    return Verdicts(pod, others, others)


def external(eligible: Eligible, *, local: bool, detector: bool) -> Verdicts:
    """
    Return what happens to traffic to a node port, an external IP or a load-balancer IP; M13: internalTrafficPolicy has no say.

    Args:
        eligible: the endpoints.
        local: externalTrafficPolicy Local.
        detector: pod traffic can be told from other traffic; else a pod counts as outside (6.2).
    """
    if not eligible.any:
        return REJECT_ALL  # M14
    everywhere = _forward(eligible.cluster, True)
    if not local:
        return Verdicts(everywhere, everywhere, everywhere)  # M7
    outside = _forward(eligible.local, False) if eligible.local.backends else DROP  # M8, M11
    pod = _forward(eligible.cluster, False) if detector else outside  # M9, M12, M17
    return Verdicts(pod, everywhere, outside)  # M10
