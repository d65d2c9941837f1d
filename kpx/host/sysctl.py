"""
Reading of sysctls: what this network namespace is set to.

kpx reads them to say what is missing; it writes none (tuning of conntrack belongs to whoever installs the node).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

SYS: Final = Path("/proc/sys")


def read_sysctl(name: str, root: Path = SYS) -> str | None:
    """
    Return the value of a sysctl, None when this kernel or this namespace does not have it.

    Args:
        name: as sysctl(8) takes it: "net.ipv4.ip_forward", or with slashes where a part has dots of its own.
        root: where sysctls are mounted.
    """
    try:
        return (root / (name if "/" in name else name.replace(".", "/"))).read_text().strip()
    except OSError:
        return None
