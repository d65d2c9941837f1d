"""Network programming latency, from times the cluster wrote into slices (E10)."""

from __future__ import annotations

from agent_builders import eps

from kpx.agent.triggers import Triggers
from kpx.cluster.events import Delete
from kpx.model.addresses import Family
from kpx.model.endpointslice import EndpointSlice
from kpx.model.names import ObjectName

SINCE = 1_700_000_000.0
BEFORE, AT_10, AT_20 = "2023-11-14T22:13:19Z", "2023-11-14T22:13:30Z", "2023-11-14T22:13:40.5Z"


def heard(*triggers: str | None) -> Triggers:
    result = Triggers(SINCE)
    result.hear(eps("shop/a", "10.244.2.1", trigger=trigger) for trigger in triggers)
    return result


def test_age_is_told_once_when_written() -> None:
    triggers = heard(AT_10)

    assert triggers.written(SINCE + 12) == [(Family.IPV4, 2.0)]
    assert triggers.written(SINCE + 13) == []


def test_same_time_again_is_the_same_change() -> None:
    triggers = heard(AT_10, AT_10, AT_20)

    assert triggers.written(SINCE + 21) == [(Family.IPV4, 11.0), (Family.IPV4, 0.5)]


def test_what_happened_before_the_start_is_not_our_latency() -> None:
    assert heard(BEFORE, None, "yesterday", "").written(SINCE + 1) == []


def test_deleted_slice_is_forgotten() -> None:
    triggers = heard(AT_10)
    triggers.written(SINCE + 12)
    triggers.hear([Delete(EndpointSlice, ObjectName("shop", "a-1")), eps("shop/a", trigger=AT_10)])

    assert len(triggers.written(SINCE + 12)) == 1


def test_clock_of_the_cluster_may_be_ahead() -> None:
    assert heard(AT_10).written(SINCE + 5) == [(Family.IPV4, 0.0)]
