"""
Which findings are worth an event: on which object, with which reason (contract section 20). Pure.

A reason is what people search and alert for, so it stays as it is once published; docs/events.md lists them.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Final

from kpx.model.announcement import About, Announcement, note_of
from kpx.model.findings import Finding
from kpx.model.names import ObjectName
from kpx.policy.scheduling import SCHEDULER_FIELD

_OBJECT: Final = re.compile(r"(Service|EndpointSlice|Node|ServiceCIDR) (?:([^/\s]+)/)?([^/\s]+)")

_MEMBER: Final = re.compile(r"\[\d+\]")

_CONFLICT: Final = "FrontendConflict"
_NOT_ALLOWED: Final = "AddressNotAllowed"
_NO_SCHEDULER: Final = "SchedulerMissing"
_REASONS: Final = {
    "spec.clusterIPs": _CONFLICT,
    "spec.externalIPs": _CONFLICT,
    "spec.externalIPs[]": _NOT_ALLOWED,
    "status.loadBalancer.ingress": _CONFLICT,
    "spec.ports": _CONFLICT,
    SCHEDULER_FIELD: _NO_SCHEDULER,
    "": "HostAddressShared",
}
"""Field of a finding about a Service that was compiled, whichever member of a list it is -> reason."""

_SHARED: Final = frozenset((_CONFLICT, _NOT_ALLOWED, "HealthCheckPortConflict", "InvalidObject"))
"""Reasons that are the same on every node."""

_NODE_REASONS: Final = {"tuning": "TuningFailed", "accepting": "TuningFailed", "settings": "SettingsNotApplied"}
"""Owner of findings about this node -> reason. What is merely remarked about its addresses is left to the log."""

_OBJECT_REASONS: Final = {"source": "InvalidObject", "health-check ports": "HealthCheckPortConflict"}
"""Owner of findings that name their objects -> reason."""


def announcement_of(owner: Hashable, finding: Finding, node: About) -> Announcement | None:
    """
    Return how a finding is announced; None when it is about no object of the cluster.

    Args:
        owner: who has the finding, see `kpx.agent.status.Findings`.
        node: this node.
    """
    if isinstance(owner, ObjectName):
        return _on_object(About("Service", owner), _REASONS.get(_MEMBER.sub("[]", finding.field), "NotAsAsked"), finding, node)
    if not isinstance(owner, str):
        return None
    if (reason := _NODE_REASONS.get(owner)) is not None:
        return Announcement(node, reason, note_of(str(finding)))
    if owner == "node" and finding.message.startswith("--ipvs-scheduler"):
        return Announcement(node, _NO_SCHEDULER, note_of(str(finding)))
    about, reason = object_of(finding.where), _OBJECT_REASONS.get(owner)
    return None if about is None or reason is None else _on_object(about, reason, finding, node)


def object_of(where: str) -> About | None:
    """Return the object a finding names, None when it names a file or something of this host."""
    match = _OBJECT.fullmatch(where)
    return About(match[1], ObjectName(match[2] or "", match[3])) if match else None


def here(node: About) -> str:
    """Return how notes begin that are about one node of many."""
    return f"node {node.name}"


def _on_object(about: About, reason: str, finding: Finding, node: About) -> Announcement:
    shared = reason in _SHARED
    field = f"{finding.field}: " if finding.field else ""
    note = f"{field}{finding.message}" if shared else f"{here(node)}: {field}{finding.message}"
    return Announcement(about, reason, note_of(note), shared=shared)
