"""What this kernel can do, found out by trying, and which tests went without."""

from __future__ import annotations

import functools
from collections import defaultdict

from tests.lab.netns import Namespace

_missing: dict[str, set[str]] = defaultdict(set)

TRIALS: dict[str, tuple[str, ...]] = {
    "bridge interfaces": ("ip", "link", "add", "lab0", "type", "bridge"),
    "IPv6": ("ip", "-6", "address", "add", "2001:db8::1/128", "dev", "lo"),
    "nf_tables": ("nft", "add", "table", "ip", "lab"),
}
"""A feature and a command that only succeeds where it is there."""


@functools.cache
def has(feature: str) -> bool:
    """Tell whether the kernel has a feature of `TRIALS`."""
    namespace = Namespace("features")
    try:
        return namespace.run(*TRIALS[feature], check=False).returncode == 0
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
