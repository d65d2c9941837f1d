"""Rules of the contract that hold because nothing is done about them."""

from __future__ import annotations

import msgspec
import pytest
from policy_builders import FACTS, compiled, endpoint, one_slice, pod_backends, service

from kpx.dataplanes.registry import open_dataplane
from kpx.policy.desired import Backend


@pytest.mark.parametrize("plane", ["nftables", "ipvs"])
def test_every_endpoint_counts_the_same(plane: str) -> None:
    """E9: in the rows of a Service each of its endpoints stands as often as any other, in any slice it is listed with."""
    addresses = [f"10.244.2.{number}" for number in range(1, 6)]
    slices = [one_slice(*map(endpoint, addresses[:4]), name="web-1"), one_slice(*map(endpoint, addresses[1:]), name="web-2")]
    dataplane = open_dataplane(plane, kernel=False)
    rows = dataplane.render_service(compiled(service(), *slices), FACTS)

    found = dataplane.frontends_of(rows)
    assert found
    for frontend in found:
        backends: tuple[Backend, ...] = frontend.pod.backends
        assert [str(backend) for backend in backends] == [f"{address}:8080" for address in addresses]


@pytest.mark.parametrize(("zone", "expected"), [("a", ["10.244.2.1:8080"]), ("b", ["10.244.2.1:8080", "10.244.2.2:8080"])])
def test_an_endpoint_with_several_hints_is_for_each_of_them(zone: str, expected: list[str]) -> None:
    """T11."""
    facts = msgspec.structs.replace(FACTS, zone=zone)
    slices = one_slice(endpoint("10.244.2.1", zones=("a", "b")), endpoint("10.244.2.2", zones=("b", "c")))

    assert pod_backends(compiled(service(), slices, facts=facts), "10.96.0.1:80/TCP") == expected
