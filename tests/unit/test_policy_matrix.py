"""The traffic matrix (contract section 6), row by row."""

from __future__ import annotations

import pytest

from kpx.model.addresses import parse_address
from kpx.policy.desired import Backend, Pool, Verdict
from kpx.policy.eligibility import NOTHING, Eligible
from kpx.policy.matrix import Verdicts, cluster_ip, external

HERE, THERE = Backend(parse_address("10.244.1.1"), 80), Backend(parse_address("10.244.2.1"), 80)
BOTH = Eligible((), (), Pool("cluster", (HERE, THERE)), Pool("local", (HERE,)), (), ())
REMOTE = Eligible((), (), Pool("cluster", (THERE,)), Pool("local", ()), (), ())


def said(verdict: Verdict) -> str:
    if verdict.pool is None:
        return verdict.action.value
    return f"{verdict.pool.name} {'masq' if verdict.masquerade else 'keep'}"


def row(verdicts: Verdicts) -> tuple[str, str, str]:
    return (said(verdicts.pod), said(verdicts.host), said(verdicts.outside))


@pytest.mark.parametrize(
    ("tag", "eligible", "local", "detector", "masquerade_all", "expected"),
    [
        ("M1-M3", BOTH, False, True, False, ("cluster keep", "cluster masq", "cluster masq")),
        ("M4-M5", BOTH, True, True, False, ("local keep", "local masq", "local masq")),
        ("M6", REMOTE, True, True, False, ("drop", "drop", "drop")),
        ("M14", NOTHING, False, True, False, ("reject", "reject", "reject")),
        ("M14 Local", NOTHING, True, True, False, ("reject", "reject", "reject")),
        ("6.2", BOTH, False, False, False, ("cluster keep", "cluster keep", "cluster keep")),
        ("6.2 masquerade-all", BOTH, False, False, True, ("cluster masq", "cluster masq", "cluster masq")),
        ("6.4", BOTH, False, True, True, ("cluster masq", "cluster masq", "cluster masq")),
        ("6.4 Local", BOTH, True, True, True, ("local masq", "local masq", "local masq")),
    ],
)
def test_traffic_to_a_cluster_ip(
    tag: str, eligible: Eligible, local: bool, detector: bool, masquerade_all: bool, expected: tuple[str, str, str]
) -> None:
    assert row(cluster_ip(eligible, local=local, detector=detector, masquerade_all=masquerade_all)) == expected, tag


@pytest.mark.parametrize(
    ("tag", "eligible", "local", "detector", "expected"),
    [
        ("M7", BOTH, False, True, ("cluster masq", "cluster masq", "cluster masq")),
        ("M7 no detector", BOTH, False, False, ("cluster masq", "cluster masq", "cluster masq")),
        ("M8-M10", BOTH, True, True, ("cluster keep", "cluster masq", "local keep")),
        ("M11-M12", REMOTE, True, True, ("cluster keep", "cluster masq", "drop")),
        ("M14", NOTHING, True, True, ("reject", "reject", "reject")),
        ("6.2", BOTH, True, False, ("local keep", "cluster masq", "local keep")),
        ("6.2 none local", REMOTE, True, False, ("drop", "cluster masq", "drop")),
    ],
)
def test_traffic_from_outside_addresses(
    tag: str, eligible: Eligible, local: bool, detector: bool, expected: tuple[str, str, str]
) -> None:
    assert row(external(eligible, local=local, detector=detector)) == expected, tag
