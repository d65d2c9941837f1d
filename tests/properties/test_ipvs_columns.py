"""Packing many messages at once gives the bytes that packing each by itself gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kpx.dataplanes.ipvs.draining import kernel_key
from kpx.dataplanes.ipvs.schema import ADDRESS_BYTES, SCHEMAS, Kind, backend_of, element_of, elements_of
from kpx.kernel.wire import ipset
from kpx.kernel.wire.ipvs import (
    DEL_SERVER,
    NEW_DESTINATION,
    SET_SERVER,
    Destination,
    ServerSettings,
    destination_message,
    server_message,
)
from kpx.kernel.wire.ipvs_columns import destination_messages, server_messages
from kpx.kernel.wire.message import NLM_F_ACK, NLM_F_REQUEST, message
from kpx.model.addresses import Family

families = st.sampled_from(list(Family))
settings = st.builds(ServerSettings, st.sampled_from(("rr", "wlc", "mh")), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
schemas = st.sampled_from([schema for schema in SCHEMAS if schema.is_set])


@st.composite
def keys(draw: st.DrawFn, behind_address: int, addresses: int = 1) -> tuple[Family, list[bytes]]:
    family = draw(families)
    width = addresses * ADDRESS_BYTES[family] + behind_address
    return family, draw(st.lists(st.binary(min_size=width, max_size=width), min_size=1, max_size=40))


def framed(bodies: list[bytes]) -> bytes:
    packed = [message(32, NLM_F_REQUEST, 0xFFFFFF00 + number, body) for number, body in enumerate(bodies)]
    packed[-1] = message(32, NLM_F_REQUEST | NLM_F_ACK, 0xFFFFFF00 + len(bodies) - 1, bodies[-1])
    return b"".join(packed)


@given(keys(3), settings)
def test_virtual_servers(case, wanted):
    family, some = case
    for command, each in ((SET_SERVER, wanted), (DEL_SERVER, None)):
        bodies = [server_message(command, kernel_key(family, key), each) for key in some]
        alike = server_messages(command, family, some, each)

        assert alike.datagram(32, range(0xFFFFFF00, 0xFFFFFF00 + len(some))) == framed(bodies)
        assert list(alike) == bodies
        assert list(alike[1:]) == bodies[1:]


@given(keys(5, addresses=2), st.none() | st.integers(0, 0xFFFFFFFF))
def test_destinations(case, weight):
    family, some = case
    bodies = [
        destination_message(NEW_DESTINATION, kernel_key(family, key), Destination(*backend_of(family, key)), weight)
        for key in some
    ]
    alike = destination_messages(NEW_DESTINATION, family, some, weight)

    assert alike.datagram(32, range(0xFFFFFF00, 0xFFFFFF00 + len(some))) == framed(bodies)
    assert list(alike) == bodies


@st.composite
def rows(draw: st.DrawFn):
    """Keys of rows of one set, such as kpx writes: lengths from 1 on, protocols that are none of ipset's business."""
    schema, family = draw(schemas), draw(families)
    width = ADDRESS_BYTES[family]
    behind = {Kind.SERVER: st.tuples(st.sampled_from((6, 17, 132)), *[st.integers(0, 255)] * 2)}
    behind[Kind.RANGE] = st.tuples(st.integers(1, width * 8))
    one = st.builds(
        lambda address, rest: address + bytes(rest),
        st.binary(min_size=width, max_size=width),
        behind.get(schema.kind, st.just(())),
    )
    return schema, family, draw(st.lists(one, min_size=1, max_size=40)) * draw(st.sampled_from((1, 1, 1, 60)))


@given(rows())
def test_elements(case):
    """Some of the lists are longer than a message may be."""
    schema, family, some = case
    elements = [element_of(schema, family, key) for key in some]
    alike = elements_of(schema, family, some)

    assert list(alike.messages("KPX-X")) == list(ipset.element_messages("KPX-X", elements))
    assert list(alike) == elements
    assert list(alike[1:]) == elements[1:]
