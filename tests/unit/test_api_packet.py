"""Packets as people write them."""

from __future__ import annotations

import re

import click
import pytest

from kpx.api import packet
from kpx.cli.destination import address_value, packet_value
from kpx.model.addresses import parse_address
from kpx.model.names import Protocol
from kpx.policy.story import Packet


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.96.0.10:53/udp", Packet(parse_address("10.96.0.10"), 53, Protocol.UDP)),
        ("10.96.0.10:53/UDP", Packet(parse_address("10.96.0.10"), 53, Protocol.UDP)),
        ("10.96.0.10:80", Packet(parse_address("10.96.0.10"), 80, Protocol.TCP)),
        ("[fd00::1]:80", Packet(parse_address("fd00::1"), 80, Protocol.TCP)),
        ("[fd00::1]:36412/sctp", Packet(parse_address("fd00::1"), 36412, Protocol.SCTP)),
        (" 10.0.0.1:65535 ", Packet(parse_address("10.0.0.1"), 65535, Protocol.TCP)),
    ],
)
def test_packet_is_read(text: str, expected: Packet) -> None:
    assert packet(text) == expected


def test_packet_has_the_source_it_is_given() -> None:
    assert packet("10.96.0.10:80", "10.244.1.7").source == parse_address("10.244.1.7")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("10.96.0.10", "ADDRESS:PORT"),
        (":80", "ADDRESS:PORT"),
        ("fd00::1:80", "ADDRESS:PORT"),
        ("10.96.0.10:0", "port '0'"),
        ("10.96.0.10:65536", "port '65536'"),
        ("10.96.0.10:http", "port 'http'"),
        ("10.96.0.10:", "port ''"),
        ("10.96.0.10:80/icmp", "protocol 'icmp'"),
        ("10.96.0.10:80/", "protocol ''"),
        ("10.96.0.300:80", "'10.96.0.300' is not an IP address"),
        ("web.shop:80", "is not an IP address"),
    ],
)
def test_bad_packet_names_the_part_that_is_wrong(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=re.escape(part)):
        packet(text)


@pytest.mark.parametrize("text", ["10.96.0.10:53/UDP", "[fd00::1]:80/TCP"])
def test_packet_prints_as_it_is_read(text: str) -> None:
    assert str(packet(text)) == text


def test_bad_values_are_usage_errors() -> None:
    parameter = click.Argument(["what"])
    context = click.Context(click.Command("x"))
    for read in (packet_value, address_value):
        with pytest.raises(click.BadParameter):
            read(context, parameter, "nonsense")
