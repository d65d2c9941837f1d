"""
What the agent asks the API server for, as RBAC has it: the one table that deploy/kubernetes/base/rbac.yaml is compared with.

Lists and watches follow from the kinds; events are written with `create`, and `patch` counts further ones of the same kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kpx.sources.kubernetes.kinds import kinds_for


class Permission(NamedTuple):
    """One verb on one resource, in all namespaces; `group` is "" for the core group."""

    group: str
    resource: str
    verb: str


def permissions() -> frozenset[Permission]:
    """Return everything the agent needs, and nothing else."""
    return frozenset(_reading()) | {Permission("events.k8s.io", "events", verb) for verb in ("create", "patch")}


def _reading() -> Iterator[Permission]:
    for kind in kinds_for("any"):
        for verb in ("list", "watch"):
            yield Permission(kind.group, kind.resource, verb)
