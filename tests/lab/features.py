"""What this kernel can do, found out by trying, and which tests went without."""

from __future__ import annotations

import functools
from collections import defaultdict

from tests.lab.netns import Namespace

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos")
"""Every scheduler a kernel of today may have (net/netfilter/ipvs/Kconfig)."""

_missing: dict[str, set[str]] = defaultdict(set)

TRIALS: dict[str, tuple[str, ...]] = {
    "bridge interfaces": ("ip", "link", "add", "lab0", "type", "bridge"),
    "IPv6": ("ip", "-6", "address", "add", "2001:db8::1/128", "dev", "lo"),
    "nf_tables": ("nft", "add", "table", "ip", "lab"),
    "iptables": ("iptables", "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE"),
    "ip_set": ("ipset", "create", "lab", "hash:ip,port"),
    "xt_set": ("sh", "-c", "ipset create lab hash:ip && iptables -A INPUT -m set --match-set lab dst -j ACCEPT"),
    "ip_vs": ("ipvsadm", "-A", "-f", "1", "-s", "rr"),
    "a machine of the lab's own": ("grep", "-q", "virtme", "/proc/cmdline"),
    "tracked IPVS connections": ("sh", "-c", "ipvsadm -A -f 1 -s rr && echo 1 >/proc/sys/net/ipv4/vs/conntrack"),
}
"""A feature and a command that only succeeds where it is there; a missing program is a missing feature too."""
SET_TYPES = ("hash:ip", "hash:net", "hash:ip,port", "hash:net,net", "hash:ip,port,ip")
"""The types of ipsets of the ipvs data plane."""
TRIALS |= {f"ipset type {kind}": ("ipset", "create", "lab", kind) for kind in SET_TYPES}
TRIALS |= {f"scheduler {name}": ("ipvsadm", "-A", "-f", "1", "-s", name) for name in SCHEDULERS}


@functools.cache
def has(feature: str) -> bool:
    """Tell whether the kernel has a feature of `TRIALS`."""
    namespace = Namespace("features")
    try:
        return namespace.run(*TRIALS[feature], check=False).returncode == 0
    except FileNotFoundError:
        return False
    finally:
        namespace.close()


def lacks(feature: str, test: str) -> bool:
    """Tell whether the feature is missing, and note that the test could not run for it."""
    if has(feature):
        return False
    _missing[feature].add(test)
    return True


def missing() -> dict[str, set[str]]:
    """Tests that could not run, by the feature they wanted."""
    return dict(_missing)
