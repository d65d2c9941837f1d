"""
The sysctls of connection tracking that settings may ask for (contract section 17): what is wanted, given what there is.

The limit on flows and the number of hash buckets belong to the whole machine and can be written from its first network
namespace only; timeouts belong to each namespace. Nothing is asked for unless a setting says so, and limits are raised, never
lowered: others may have set them, and new flows beyond a lower limit would be dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from kpx.host.features import Check
from kpx.host.sysctl import SYS, Sysctl, different, may_be_set

PREFIX: Final = "net.netfilter.nf_conntrack_"
LIMIT: Final = f"{PREFIX}max"
BUCKETS: Final = f"{PREFIX}buckets"

MOST_BY_CORES: Final = 1 << 20
"""What cores alone come to at most, as with kube-proxy: beyond it a table costs more memory than it is worth."""

FLOWS_A_BUCKET: Final = 4

BUCKET_STEP: Final = 8192
"""The kernel rounds buckets up to whole pages (nf_ct_alloc_hashtable); these fill pages of every size it knows."""


class Wishes(NamedTuple):
    """
    What settings ask for.

    Args:
        per_core, least: flows; 0 for `per_core` leaves the limit alone, and `least` with it.
        tcp_established, tcp_close_wait, udp, udp_stream: seconds; 0 leaves what there is.
        be_liberal: True switches it on; False leaves what there is.
    """

    per_core: int = 0
    least: int = 0
    tcp_established: int = 0
    tcp_close_wait: int = 0
    be_liberal: bool = False
    udp: int = 0
    udp_stream: int = 0


def limit(wishes: Wishes, cores: int) -> int:
    """Return the limit on flows that is asked for, 0 for none."""
    return max(min(wishes.per_core * cores, MOST_BY_CORES), wishes.least) if wishes.per_core else 0


def wanted(wishes: Wishes, cores: int, found_limit: int = 0, found_buckets: int = 0) -> tuple[Sysctl, ...]:
    """
    Return the sysctls to set. Pure.

    Args:
        cores: CPUs of this machine.
        found_limit, found_buckets: what there is, 0 when it cannot be read; what is higher than asked for is not asked for.
    """
    result = []
    asked = limit(wishes, cores)
    if asked > found_limit:
        result.append(Sysctl(LIMIT, str(asked), "new connections are not dropped while there is memory for them"))
    buckets = -(-max(asked, found_limit) // (FLOWS_A_BUCKET * BUCKET_STEP)) * BUCKET_STEP
    if asked and buckets > found_buckets:
        result.append(Sysctl(BUCKETS, str(buckets), "tracked connections are found quickly"))
    timeouts = (
        ("tcp_timeout_established", wishes.tcp_established, "idle TCP connections are remembered for that long"),
        ("tcp_timeout_close_wait", wishes.tcp_close_wait, "half-closed TCP connections are remembered for that long"),
        ("udp_timeout", wishes.udp, "UDP flows without an answer are remembered for that long"),
        ("udp_timeout_stream", wishes.udp_stream, "UDP flows with answers are remembered for that long"),
    )
    result += [Sysctl(PREFIX + name, str(seconds), why) for name, seconds, why in timeouts if seconds]
    if wishes.be_liberal:
        result.append(Sysctl(f"{PREFIX}tcp_be_liberal", "1", "TCP segments outside of the window are translated, too"))
    return tuple(result)


def check(asked: Iterable[Sysctl], root: Path = SYS) -> Check:
    """Check the sysctls settings ask for; none of them keeps kpx from forwarding."""
    name = "connection tracking sysctls"
    differing = [(sysctl, found) for sysctl, found in different(asked, root) if found is not None]
    if not differing:
        return Check(name, True, "as the settings ask for")
    found = ", ".join(f"{sysctl.name} = {value}" for sysctl, value in differing)
    by_hand = "sysctl -w " + " ".join(f"{sysctl.name}={sysctl.value}" for sysctl, _ in differing)
    if all(may_be_set(sysctl.name, root) for sysctl, _ in differing):
        return Check(name, None, found, f"nothing: kpx run sets them; or {by_hand}")
    return Check(name, None, f"{found}; may not be set from here", f"on the host, as root: {by_hand}")
