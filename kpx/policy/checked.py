"""
What health checks have to say in the choice of endpoints.

An endpoint that fails counts as if it were neither ready nor serving, so others stand in for it: those of other zones, and those
that terminate. That holds unless too few would be left: when fewer than the panic threshold pass, the check is thought to be what
is wrong, and all are used as if none were checked, as Envoy does. A threshold of 0 never thinks so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from kpx.model.endpointslice import Endpoint
from kpx.policy.desired import Backend, Reason


class Checked(NamedTuple):
    """
    What checking the endpoints of a Service found out.

    Args:
        failing: those that fail, and why.
        panic_percent: see `HealthCheck`.
    """

    failing: Mapping[Backend, str]
    panic_percent: int = 0


UNCHECKED = Checked({})

Failures = dict[Backend, tuple[Reason, str]]
"""For endpoints that fail: FAILED, or PANIC when they are used all the same; and what is wrong with them."""


def as_checked(order: Sequence[Backend], endpoints: list[Endpoint], checked: Checked) -> tuple[list[Endpoint], Failures]:
    """Return the endpoints, in the same order, as their checks have them; and those that fail of the ones that could be used."""
    failing = checked.failing
    pairs = list(zip(order, endpoints, strict=True))
    reason = Reason.PANIC if _is_panic(pairs, checked) else Reason.FAILED
    failures = {backend: (reason, failing[backend]) for backend, each in pairs if backend in failing and _is_usable(each)}
    if reason is Reason.FAILED:
        endpoints = [_as_failed(each) if backend in failures else each for backend, each in pairs]
    return endpoints, failures


def told(reason: Reason, failure: tuple[Reason, str]) -> tuple[Reason, str]:
    """Return the reason of an endpoint that fails, and its detail: too few passing is why it is in, not why it is out."""
    outcome, why = failure
    return (outcome if outcome is Reason.FAILED or reason is Reason.READY else reason), why


def _is_usable(endpoint: Endpoint) -> bool:
    """Tell whether an endpoint could be in a pool as far as its slice goes: ready, or serving to its end."""
    return endpoint.ready or (endpoint.serving and endpoint.terminating)


def _as_failed(endpoint: Endpoint) -> Endpoint:
    return msgspec.structs.replace(endpoint, ready=False, serving=False)


def _is_panic(pairs: Sequence[tuple[Backend, Endpoint]], checked: Checked) -> bool:
    """Tell whether fewer of the ready endpoints pass than the threshold; of those that serve to their end, when none is ready."""
    ready = [backend for backend, endpoint in pairs if endpoint.ready]
    asked = ready or [backend for backend, endpoint in pairs if _is_usable(endpoint)]
    passing = sum(backend not in checked.failing for backend in asked)
    return passing * 100 < checked.panic_percent * len(asked)
