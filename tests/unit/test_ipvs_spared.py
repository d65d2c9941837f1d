"""Endpoints of UDP between taking new flows and keeping those they have: what is written to IPVS (U6)."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from kpx.dataplanes.ipvs.apply import Writer, batches
from kpx.dataplanes.ipvs.draining import Drains, kernel_key
from kpx.dataplanes.ipvs.schema import TABLES, backend_of
from kpx.kernel.wire.ipvs import DEL_DESTINATION, NEW_DESTINATION, SET_DESTINATION, Destination, destination_message
from kpx.model.addresses import Family
from kpx.reconcile.diff import diff

SERVER = bytes((10, 96, 0, 53, 17, 0, 53))
A, B = (SERVER + bytes((10, 244, 1, number)) + (5353).to_bytes(2, "big") for number in (2, 3))
TAKES, KEEPS = TABLES[Family.IPV4, "destinations"], TABLES[Family.IPV4, "spared"]


def message(command: int, key: bytes, weight: int | None) -> bytes:
    return destination_message(command, kernel_key(Family.IPV4, key), Destination(*backend_of(Family.IPV4, key)), weight)


def written(before: dict[Any, dict[bytes, int]], after: dict[Any, dict[bytes, int]]) -> list[bytes]:
    """Return the messages a change makes, as IPVS gets them."""
    sent: list[bytes] = []

    def write(messages: Sequence[bytes]) -> list[int]:
        sent.extend(messages)
        return [0] * len(messages)

    doors: Any = SimpleNamespace(ipvs=SimpleNamespace(write=write), sets=SimpleNamespace(write=lambda parts: []))
    plan = diff(before, after)  # type: ignore[arg-type]
    assert Writer(doors, Family.IPV4, lambda key: False, Drains(doors)).write(batches(plan)["ip"]) == []
    return sent


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({TAKES: {A: 1}}, {KEEPS: {A: 0}}, [(SET_DESTINATION, A, 0)]),
        ({KEEPS: {A: 0}}, {TAKES: {A: 1}}, [(SET_DESTINATION, A, 1)]),
        ({TAKES: {A: 1}}, {TAKES: {B: 1}, KEEPS: {A: 0}}, [(NEW_DESTINATION, B, 1), (SET_DESTINATION, A, 0)]),
        ({TAKES: {A: 1}, KEEPS: {B: 0}}, {TAKES: {B: 1}, KEEPS: {A: 0}}, [(SET_DESTINATION, B, 1), (SET_DESTINATION, A, 0)]),
        ({}, {KEEPS: {A: 0}}, [(NEW_DESTINATION, A, 0)]),
        ({KEEPS: {A: 0}}, {}, [(DEL_DESTINATION, A, None)]),
        ({TAKES: {A: 1}}, {}, [(DEL_DESTINATION, A, None)]),
    ],
    ids=["out", "in", "replaced", "changing places", "only keeps", "gone after it", "gone at once"],
)
def test_only_the_weight_changes_and_somebody_takes_new_flows_throughout(
    before: dict[Any, dict[bytes, int]], after: dict[Any, dict[bytes, int]], expected: list[tuple[int, bytes, int | None]]
) -> None:
    assert written(before, after) == [message(*each) for each in expected]


@pytest.mark.parametrize("protocol", [6, 132], ids=["TCP", "SCTP"])
def test_what_ends_by_itself_drains(protocol: int) -> None:
    """G1: a connection or association goes on until it ends, so the endpoint is not deleted."""
    key = A[:4] + bytes((protocol,)) + A[5:]

    assert written({TAKES: {key: 1}}, {}) == [message(SET_DESTINATION, key, 0)]
