"""Who stands for a kind of source: an address that counts as such, on every node that has such a kind at all."""

from __future__ import annotations

import pytest

from kpx.model.addresses import Address, parse_address, parse_prefix
from kpx.model.facts import DetectLocal, LocalDetector, NodeFacts
from kpx.model.names import Protocol
from kpx.policy.desired import Source
from kpx.policy.explain import source_kind
from kpx.policy.stand_ins import stand_ins
from kpx.policy.story import Packet

NODE, BRIDGE = parse_address("192.0.2.1"), parse_address("10.244.0.1")
HOST = {NODE, BRIDGE, parse_address("127.0.0.1"), parse_address("2001:db8::1")}
ASKED = Packet(parse_address("10.96.0.10"), 80, Protocol.TCP)
SIX = Packet(parse_address("fd00:96::10"), 80, Protocol.TCP)
BY_CIDR = LocalDetector(prefixes=(parse_prefix("10.244.0.0/16"), parse_prefix("fd00:244::/64")))
NO_DETECTOR = LocalDetector()
BY_BRIDGE = LocalDetector(DetectLocal.BRIDGE_INTERFACE, interface="cni0")
BY_PREFIX = LocalDetector(DetectLocal.INTERFACE_NAME_PREFIX, interface="cali")


@pytest.mark.parametrize("packet", [ASKED, SIX])
@pytest.mark.parametrize("detector", [BY_CIDR, NO_DETECTOR, BY_BRIDGE, BY_PREFIX])
def test_each_kind_that_can_be_has_somebody_who_is_of_it(detector: LocalDetector, packet: Packet) -> None:
    facts = NodeFacts("n1", node_ips=(NODE,), local_detector=detector)
    found = dict(stand_ins(packet, facts, HOST))

    assert set(found) == (set(Source) if detector is not NO_DETECTOR else {Source.HOST, Source.OUTSIDE})
    for kind, one in found.items():
        assert source_kind(one.source, facts, HOST, one.interface) is kind
        assert one[:3] == packet[:3]
        assert (one.source in HOST) is (kind is Source.HOST)


def test_of_a_source_that_is_known_nobody_else_is_asked() -> None:
    facts = NodeFacts("n1", local_detector=BY_CIDR)
    client = ASKED._replace(source=parse_address("10.244.3.4"))

    assert [(kind, one.source) for kind, one in stand_ins(client, facts, HOST)] == [(Source.POD, client.source)]


def test_where_only_the_interface_tells_a_client_may_be_either() -> None:
    facts = NodeFacts("n1", local_detector=BY_BRIDGE)
    client = ASKED._replace(source=parse_address("10.244.3.4"))

    assert [kind for kind, _ in stand_ins(client, facts, HOST)] == [Source.POD, Source.OUTSIDE]
    assert [kind for kind, _ in stand_ins(client._replace(interface="cni0"), facts, HOST)] == [Source.POD]


@pytest.mark.parametrize(
    ("ranges", "client"), [((), "198.51.100.1"), (("203.0.113.64/26",), "203.0.113.65"), (("203.0.113.7/32",), "203.0.113.7")]
)
def test_outsiders_are_from_where_they_may_be(ranges: tuple[str, ...], client: str) -> None:
    facts = NodeFacts("n1", local_detector=BY_CIDR)

    found = dict(stand_ins(ASKED, facts, HOST, tuple(map(parse_prefix, ranges))))

    assert found[Source.OUTSIDE].source == parse_address(client)


def test_nobody_asks_himself() -> None:
    far = Packet(Address(parse_address("198.51.100.1")), 80, Protocol.TCP)

    assert dict(stand_ins(far, NodeFacts("n1"), HOST))[Source.OUTSIDE].source != far.destination
