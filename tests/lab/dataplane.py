"""Which data plane the agent under test uses: KPX_LAB_DATAPLANE, nftables unless it says otherwise."""

from __future__ import annotations

import os

NEEDS: dict[str, tuple[str, ...]] = {
    "nftables": ("nf_tables",),
    "ipvs": ("nf_tables", "ip_vs", "tracked IPVS connections", "ip_set", "iptables", "xt_set"),
}
"""What each data plane needs of the kernel, as `tests/lab/features.py` names it."""

CHOSEN = os.environ.get("KPX_LAB_DATAPLANE", "nftables")


def complaint() -> str:
    """Return what is wrong with the choice; "" when there is such a data plane."""
    return "" if CHOSEN in NEEDS else f"KPX_LAB_DATAPLANE={CHOSEN}: there is no such data plane; use one of {', '.join(NEEDS)}"
