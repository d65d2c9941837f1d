"""What is done about a server that says no, by the question it was asked and the code it answers. Pure."""

from __future__ import annotations

import enum

from kpx.sources.kubernetes.answers import Refusal
from kpx.sources.kubernetes.position import Phase


class Remedy(enum.Enum):
    """
    What to do next.

    ANEW: ask for a full account, at once if it is the first time. LIST: the same without a WatchList, which is what the server
    cannot do. BEGIN: ask for a full account after a pause. AGAIN: the same question after a pause. CHECK: the same question after
    a pause, once the server has shown that it has the memory it had.
    """

    ANEW = "anew"
    LIST = "list"
    BEGIN = "begin"
    AGAIN = "again"
    CHECK = "check"


def remedy_of(refusal: Refusal, phase: Phase, in_stream: bool) -> Remedy:
    """
    Return what to do about a refusal.

    Args:
        in_stream: it came as an ERROR event; a stream that broke for a reason of its own cannot be gone on with.
    """
    code = refusal.code
    if code == 410 or refusal.version_too_large:
        return Remedy.ANEW
    if phase is Phase.WATCHLIST and code in (400, 405, 406, 422, 500, 501):
        # Seen: 422 without the feature gate, 500 within the stream when etcd is too old for it.
        return Remedy.LIST
    if code in (401, 429):
        return Remedy.AGAIN
    if phase is Phase.CHECK and code < 500:
        # Who may watch and not list is told everything by a WatchList.
        return Remedy.ANEW
    if code == 403:
        return Remedy.AGAIN
    if code >= 500 and not in_stream:
        # Perhaps a proxy in front of a server that is away, and may come back as another one.
        return Remedy.CHECK
    # A bad continue token, or a resourceVersion that makes no sense to this server.
    return Remedy.BEGIN
