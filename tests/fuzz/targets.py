"""What is fuzzed: each with what it is given, and what is done with that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from tests.fuzz import manifests, replies, streams


class Target(NamedTuple):
    """
    One of them.

    Args:
        given: what hypothesis makes. check: raises on a finding; errors of kpx's own are none. cost: of an example.
    """

    given: st.SearchStrategy[Any]
    check: Callable[[Any], None]
    cost: int = 1


TARGETS: Final[Mapping[str, Target]] = {
    "yaml": Target(manifests.yaml_files(), partial(manifests.check, "fuzz.yaml")),
    "json": Target(manifests.json_files(), partial(manifests.check, "fuzz.json")),
    "api-stream": Target(st.lists(streams.answers(), min_size=1, max_size=3), streams.check, cost=10),
    "nftables": Target(replies.conversations(), replies.check_nftables),
    "ipset": Target(replies.conversations(), replies.check_ipset),
    "ipvs": Target(replies.conversations(), replies.check_ipvs),
    "conntrack": Target(replies.conversations(), replies.check_conntrack),
    "rtnetlink": Target(replies.rtnetlink(), replies.check_rtnetlink),
}
