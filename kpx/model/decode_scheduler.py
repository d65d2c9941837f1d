"""
The annotations that choose how IPVS spreads the flows of one Service.

Kubernetes has no field for it, so there is an annotation of our own; kube-router's are read as well, since Services that moved
here from it carry them. Ours counts when both are there. A value that cannot be read is named and ignored, and the Service is
forwarded as if it were not there: a typing error in an annotation must not cost a Service its endpoints.
"""

from __future__ import annotations

import re
from sys import intern
from typing import Final

from kpx.model import wire
from kpx.model.notes import Notes
from kpx.model.service import SCHEDULER_FLAGS
from kpx.model.type_errors import quote

_NAME: Final = re.compile(r"[a-z0-9_]{1,15}", re.ASCII)
_FLAGS: Final = {
    "fallback": "fallback",
    "port": "port",
    # As kube-router and ipvsadm spell them: numbers for the bits, or the scheduler in front. No scheduler reads the third bit.
    "flag-1": "fallback",
    "flag-2": "port",
    "flag-3": "",
    "mh-fallback": "fallback",
    "mh-port": "port",
    "sh-fallback": "fallback",
    "sh-port": "port",
    "none": "",
}
_COMBINATIONS: Final = {flags: flags for flags in ((), *((flag,) for flag in SCHEDULER_FLAGS), SCHEDULER_FLAGS)}
"""Thousands of Services ask for one of four things, and share the value."""


def is_scheduler_name(text: str) -> bool:
    """Tell whether the kernel could have a scheduler of this name (IP_VS_SCHEDNAME_MAXLEN is 16, with the zero byte)."""
    return _NAME.fullmatch(text) is not None


def read_scheduler(metadata: wire.Metadata | None, notes: Notes) -> str | None:
    """Return the scheduler a Service asks for, lower case; None when it asks for none, or for what can be no name."""
    field, text = _annotation(metadata, "scheduler", "kube_router_scheduler", notes)
    if not text:
        return None
    if not is_scheduler_name(text):
        notes.warn(field, f"{text!r} is not the name of a scheduler; ignored, write one like rr, wlc or mh")
        return None
    return intern(text)


def read_scheduler_flags(metadata: wire.Metadata | None, notes: Notes) -> tuple[str, ...] | None:
    """Return the flags a Service asks for, in the order of `SCHEDULER_FLAGS`; None when it does not say."""
    field, text = _annotation(metadata, "scheduler_flags", "kube_router_scheduler_flags", notes)
    if not text:
        return None
    parts = [part.strip() for part in text.split(",")]
    unknown = next((part for part in parts if part not in _FLAGS), None)
    if unknown is not None:
        notes.warn(field, f"{unknown!r} is no flag of a scheduler; ignored, write {', '.join(SCHEDULER_FLAGS)}, both or none")
        return None
    asked = {_FLAGS[part] for part in parts}
    return _COMBINATIONS[tuple(flag for flag in SCHEDULER_FLAGS if flag in asked)]


def _annotation(metadata: wire.Metadata | None, own: str, other: str, notes: Notes) -> tuple[str, str]:
    """Return the path of the annotation that counts and its text, lower case without blanks around it; "" when there is none."""
    annotations = metadata.annotations if metadata is not None else None
    if annotations is None:
        return "", ""
    attribute = own if getattr(annotations, own) is not None else other
    value = getattr(annotations, attribute)
    if value is None:
        return "", ""
    field = f"metadata.annotations.{wire.SCHEDULER_ANNOTATIONS[attribute]}"
    if not isinstance(value, str):
        notes.warn(field, f"{quote(value)} is no text; ignored, put it in quotes")
        return field, ""
    return field, value.strip().lower()
