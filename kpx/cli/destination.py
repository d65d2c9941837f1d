"""How the packets people ask about become arguments: `10.96.0.10:53/udp`, `[fd00::1]:80`, a client address."""

from __future__ import annotations

import click

from kpx.api import packet
from kpx.model.addresses import Address, parse_address
from kpx.policy.story import Packet


def packet_value(_context: click.Context, _parameter: click.Parameter, value: str) -> Packet:
    """Read a packet argument; what is wrong with it is a usage error (exit 2)."""
    try:
        return packet(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def address_value(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Address | None:
    """Read an address option; what is wrong with it is a usage error (exit 2)."""
    if value is None:
        return None
    try:
        return parse_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
