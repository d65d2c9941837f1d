"""
Which endpoints of a service port count, and why (contract sections 2, 3 and 5).

Join the port with the slices (J1-J8) and merge what several slices say of one endpoint (E5); leave out what fails its health
check (`checked`); choose the cluster set, shrunk by topology hints (C2, T1-T4); choose the local set (C3). The endpoints are
always taken from all slices anew (E6), so the order in which slices came can have no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from operator import attrgetter
from typing import NamedTuple

from kpx.model.addresses import Address
from kpx.model.endpointslice import Endpoint, EndpointSlice
from kpx.model.facts import NodeFacts
from kpx.model.names import Protocol
from kpx.policy.checked import UNCHECKED, Checked, Failures, as_checked, told
from kpx.policy.desired import Backend, Considered, Fate, Pool, Reason

CLUSTER = "cluster"
LOCAL = "local"

EMPTY_CLUSTER = Pool(CLUSTER, ())
EMPTY_LOCAL = Pool(LOCAL, ())


class Eligible(NamedTuple):
    """
    What became of the endpoints of a service port.

    Args:
        listed, fates: every endpoint, sorted, and its fate in the cluster set.
        cluster, local: the two sets; `local` is filled only when asked for.
        serving: see `PortProgram.serving`.
        hairpin: addresses of the chosen endpoints that are, or may be, on this node.
    """

    listed: tuple[Backend, ...]
    fates: tuple[Fate, ...]
    cluster: Pool
    local: Pool
    serving: tuple[Backend, ...]
    hairpin: tuple[Address, ...]

    @property
    def considered(self) -> tuple[Considered, ...]:
        """Every endpoint and its fate, as one value each."""
        return tuple(Considered(backend, *fate) for backend, fate in zip(self.listed, self.fates, strict=True))

    @property
    def any(self) -> bool:
        """Tell whether any node has an endpoint that may be used (C4)."""
        return bool(self.cluster.backends)


_IN = (Reason.READY, Reason.SERVING_TERMINATING, Reason.PANIC)

Listed = dict[Backend, tuple[Endpoint, str]]
"""Endpoints of a service port after merging, each with the name of the slice that decided."""

_NO_FATE = Fate(False, Reason.NOT_READY, False, "")
_address_of = attrgetter("address")
_backend = partial(tuple.__new__, Backend)
"""Makes a backend of its two fields in half the time; there may be a million."""

NOTHING = Eligible((), (), EMPTY_CLUSTER, EMPTY_LOCAL, (), ())


def join(slices: Sequence[EndpointSlice], name: str, protocol: Protocol) -> Listed:
    """
    Return the endpoints that slices of one family list for a service port, merged (J3, J4, E5).

    Of several entries for one address and port the one counts that is not terminating, then that is ready, then that is
    in the slice whose name sorts first. The result depends on the set of slices only.
    """
    listed: Listed = {}
    ordered = sorted(slices, key=attrgetter("name")) if len(slices) > 1 else slices
    for one in ordered:
        slice_name = one.name.name
        for port in one.ports:
            if port.name != name or port.protocol != protocol:
                continue
            backends = list(map(_backend, zip(map(_address_of, one.endpoints), repeat(port.port))))
            if not listed:
                listed = dict(zip(backends, zip(one.endpoints, repeat(slice_name), strict=False), strict=True))
                if len(listed) == len(backends):
                    continue  # nearly always: the first slice, and each endpoint once
                listed = {}
            for backend, endpoint in zip(backends, one.endpoints, strict=True):
                held = listed.get(backend)
                if held is None or _outranks(endpoint, held[0]):
                    listed[backend] = (endpoint, slice_name)
    return listed


def _outranks(new: Endpoint, held: Endpoint) -> bool:
    return (new.terminating, not new.ready) < (held.terminating, not held.ready)


def choose(
    listed: Listed,
    facts: NodeFacts,
    checked: Checked = UNCHECKED,
    *,
    uses_cluster: bool,
    uses_local: bool,
) -> Eligible:
    """
    Choose among the endpoints of a service port.

    Args:
        listed: from `join`.
        facts: this node: its name and zone.
        checked: what is known of their health.
        uses_cluster: something is sent to the cluster set (V10). It is computed either way, as it answers whether any
            endpoint exists; it decides about hairpins only when it is used.
        uses_local: something is sent to the local set.
    """
    if not listed:
        return NOTHING
    order = sorted(listed)
    endpoints = [listed[backend][0] for backend in order]
    failures: Failures = {}
    if checked.failing:
        endpoints, failures = as_checked(order, endpoints, checked)
    any_ready = any(endpoint.ready for endpoint in endpoints)
    kept, other = _topology(endpoints, facts) if any_ready else (None, Reason.READY)
    here = facts.name
    ready = Reason.READY
    fates: list[Fate] = []
    shared: dict[Fate, Fate] = {}
    last = _NO_FATE
    chosen = []
    hairpin: list[Address] = []
    for backend, endpoint in zip(order, endpoints, strict=True):
        if endpoint.ready:
            is_in = kept is None or kept(endpoint)
            reason = ready if is_in else other
        else:
            reason = _reason_unready(endpoint, any_ready)
            is_in = reason is Reason.SERVING_TERMINATING
        detail = ""
        if failures and backend in failures:
            reason, detail = told(reason, failures[backend])
        if is_in:
            chosen.append(backend)
            if uses_cluster and (endpoint.node_name is None or endpoint.node_name == here):
                hairpin.append(backend.address)
        fate = (is_in, reason, endpoint.node_name == here, listed[backend][1], detail)
        if fate != last:
            made = Fate(*fate)
            last = shared.setdefault(made, made)
        fates.append(last)
    cluster = Pool(CLUSTER, tuple(chosen)) if chosen else EMPTY_CLUSTER
    local = EMPTY_LOCAL
    if uses_local:
        local = _local_pool(order, fates)
        hairpin.extend(backend.address for backend in local.backends)
    # Nearly always all three are equal: one tuple then, since there are many thousand ports.
    everything = _one_of(tuple(order), cluster.backends)
    serving = _one_of(tuple([b for b, endpoint in zip(order, endpoints, strict=True) if endpoint.serving]), cluster.backends)
    return Eligible(everything, tuple(fates), cluster, local, serving, tuple(sorted(set(hairpin))) if hairpin else ())


def _local_pool(order: Sequence[Backend], fates: Sequence[Fate]) -> Pool:
    considered = tuple(Considered(backend, *fate) for backend, fate in zip(order, fates, strict=True))
    return Pool(LOCAL, tuple(fate.backend for fate in in_local_pool(considered) if fate.chosen))


def _one_of(made: tuple[Backend, ...], held: tuple[Backend, ...]) -> tuple[Backend, ...]:
    """Return what is held already, when it is equal to what was just made."""
    return held if made == held else made


def _reason_unready(endpoint: Endpoint, any_ready: bool) -> Reason:
    """Return what becomes of an endpoint that is not ready: SERVING_TERMINATING is the only one that is used (C2, C5)."""
    if not endpoint.terminating:
        return Reason.NOT_READY
    if not endpoint.serving:
        return Reason.NOT_SERVING
    return Reason.TERMINATING if any_ready else Reason.SERVING_TERMINATING


def in_local_pool(considered: Sequence[Considered]) -> tuple[Considered, ...]:
    """
    Return the same endpoints with their fate in the local pool (C3).

    Hints do not matter there, and terminating endpoints are used as soon as no endpoint of this node is ready, whatever
    other nodes have.
    """
    ready = (Reason.READY, Reason.WRONG_NODE, Reason.WRONG_ZONE, Reason.PANIC)
    none_ready = not any(fate.local and fate.reason in ready for fate in considered)
    result = []
    for fate in considered:
        reason = fate.reason
        if not fate.local:
            reason = Reason.NOT_LOCAL
        elif reason in ready:
            reason = Reason.PANIC if fate.detail else Reason.READY
        elif reason in (Reason.TERMINATING, Reason.SERVING_TERMINATING):
            reason = Reason.SERVING_TERMINATING if none_ready else Reason.TERMINATING
        result.append(fate._replace(chosen=reason in _IN, reason=reason))
    return tuple(result)


def _topology(endpoints: list[Endpoint], facts: NodeFacts) -> tuple[Callable[[Endpoint], bool] | None, Reason]:
    """
    Return which ready endpoints hints keep for this node, None for all, and the reason of the others.

    Node hints win over zone hints; either counts only when every ready endpoint has one and one of them is for us.
    """
    # T4 first, as most endpoints carry no hints at all.
    if not any(endpoint.zone_hints or endpoint.node_hints for endpoint in endpoints):
        return None, Reason.READY
    ready = [endpoint for endpoint in endpoints if endpoint.ready]
    node, zone = facts.name, facts.zone
    if all(endpoint.node_hints for endpoint in ready) and any(node in endpoint.node_hints for endpoint in ready):  # T2
        return (lambda endpoint: node in endpoint.node_hints), Reason.WRONG_NODE
    if zone and all(endpoint.zone_hints for endpoint in ready) and any(zone in endpoint.zone_hints for endpoint in ready):  # T3
        return (lambda endpoint: zone in endpoint.zone_hints), Reason.WRONG_ZONE
    return None, Reason.READY
