"""How the kernel rates this process when memory runs out (oom_score_adj, proc_pid_oom_score_adj(5))."""

from __future__ import annotations

import os
from pathlib import Path

from kpx.host.node import PROC


def set_oom_score_adj(score: int, proc: Path = PROC) -> str:
    """
    Rate this process; idempotent.

    Args:
        score: -1000 (never ended) to 1000 (ended first); to lower it takes CAP_SYS_RESOURCE.

    Returns:
        "" when it is as wanted, otherwise a sentence that says why not and what to do.
    """
    path = proc / "self/oom_score_adj"
    try:
        if int(path.read_text()) == score:
            return ""
        # Opened without O_CREAT: where there is no /proc nothing is to be made.
        with open(os.open(path, os.O_WRONLY | os.O_CLOEXEC), "w") as file:
            file.write(f"{score}\n")
    except (OSError, ValueError) as error:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        remedy = "have systemd (OOMScoreAdjust=) or the container runtime set it, or grant CAP_SYS_RESOURCE"
        return f"{path} cannot be set to {score} ({why}): {remedy}"
    return ""
