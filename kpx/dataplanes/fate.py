"""What becomes of a frontend's packets, for data planes whose rows do not yet tell kinds of sources apart."""

from __future__ import annotations

from typing import Final, NamedTuple

from kpx.policy.desired import Action, FrontendProgram, Pool

_MASQUERADE: Final = {
    (True, True, True): "always",
    (False, True, True): "unless-pod",
    (False, False, False): "hairpin-only",
}


class Fate(NamedTuple):
    """
    What all kinds of sources have in common.

    Args:
        pool: None unless the action is FORWARD and there is somebody to forward to.
        masquerade: "always", "unless-pod", "hairpin-only"; "" without a pool.
    """

    action: Action
    pool: Pool | None
    masquerade: str


def fate_of(frontend: FrontendProgram) -> Fate:
    """
    Return the fate of a frontend's new flows.

    Raises:
        ValueError: it treats kinds of sources in a way rows cannot say yet (different pools).
    """
    pod, host, outside = frontend.verdicts()
    if not (pod.action is host.action is outside.action and pod.pool == host.pool == outside.pool):
        raise ValueError(f"{frontend.frontend}: pools that differ by source are not rendered yet")
    if outside.action is not Action.FORWARD or outside.pool is None:
        return Fate(outside.action, None, "")
    masquerade = _MASQUERADE.get((pod.masquerade, host.masquerade, outside.masquerade))
    if masquerade is None:
        raise ValueError(f"{frontend.frontend}: no verdict masquerades {(pod.masquerade, host.masquerade, outside.masquerade)}")
    return Fate(outside.action, outside.pool, masquerade)
