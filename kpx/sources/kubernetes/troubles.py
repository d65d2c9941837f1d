"""What can go wrong with an API server, in one line each that says what to do. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from kpx.model.findings import Severity
from kpx.sources.kubernetes.answers import Refusal
from kpx.sources.kubernetes.kinds import Kind

WITHOUT: Final = "going on without, so packets to addresses that belong to no Service are not dropped (R6)"


class Trouble(NamedTuple):
    """
    Why something cannot be had from the API server now.

    Args:
        message: follows the name of the server, which is its subject: "refuses connections".
        lasting: waiting will not mend it; somebody has to do something. Verbs that run once give up then.
        severity: a warning when kpx goes on without.
        unreachable: no word was exchanged with the server at all.
    """

    message: str
    lasting: bool = False
    severity: Severity = Severity.ERROR
    unreachable: bool = False


def trouble_of(refusal: Refusal, kind: Kind, verb: str) -> Trouble:
    """
    Return the trouble of a refusal.

    Args:
        verb: what was asked for, as RBAC has it: "list" or "watch".
    """
    said = f" ({refusal.message})" if refusal.message else ""
    if refusal.code == 401:
        return Trouble(f"does not accept the credentials: 401{said}; the token or certificate may have expired, renew it", True)
    if refusal.code == 403:
        return _forbidden(kind, verb, said)
    if refusal.code in (404, 405, 406):
        return _unknown(kind, refusal.code)
    if refusal.code == 429:
        return Trouble(f"is too busy to {verb} {kind.resource}: 429{said}; trying again")
    return Trouble(f"answers {refusal.code} to {verb} {kind.resource}{said}; trying again")


def too_long(what: str, kind: Kind, longest: int) -> Trouble:
    """Return the trouble of a server that goes on and on; `longest` in bytes."""
    return Trouble(f"sends {what} {kind.resource} of over {longest >> 20} MiB", lasting=True)


def unfinished(kind: Kind) -> Trouble:
    """Return the trouble of a full account that ended in good order, and too early."""
    return Trouble(f"ends a watch of {kind.resource} before all of them were sent; trying again")


def silent(kind: Kind, seconds: float) -> Trouble:
    """Return the trouble of an answer that stalls."""
    return Trouble(f"says nothing about {kind.resource} for {seconds:.0f} s; trying again")


def forgetful(kind: Kind) -> Trouble:
    """Return the trouble of a history that is gone, or has changed, before the next request."""
    return Trouble(f"forgets what it said about {kind.resource} before it can be gone on with; trying again")


def _forbidden(kind: Kind, verb: str, said: str) -> Trouble:
    """Name verb and resource, for that is what a rule has to be written about."""
    text = f"RBAC: may not {verb} {kind.full_resource}{said}"
    if kind.dispensable:
        return Trouble(f"{text}; {WITHOUT}", severity=Severity.WARNING)
    return Trouble(f"{text}; grant it as the ClusterRole in deploy/ does", lasting=True)


def _unknown(kind: Kind, code: int) -> Trouble:
    text = f"knows no {kind.full_resource}/{kind.version} ({code}), which Kubernetes has since {kind.since}"
    if kind.dispensable:
        return Trouble(f"{text}; {WITHOUT}", severity=Severity.WARNING)
    return Trouble(f"{text}; it is too old for kpx, or no Kubernetes API", lasting=True)
