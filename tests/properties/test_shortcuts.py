"""Where the way of nearly everything is a shorter one, it leads where the long way does."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from kpx.cluster.events import Delete, Event, Upsert
from kpx.model.addresses import Address, Family, parse_address
from kpx.model.endpointslice import Endpoint, EndpointSlice, SlicePort
from kpx.model.names import ObjectName, Protocol
from kpx.model.service import Service
from kpx.policy.desired import Backend
from kpx.policy.eligibility import Listed, join
from kpx.reconcile.delta import DeltaTable
from kpx.reconcile.order import order
from kpx.reconcile.plan import Operation, Outcome, Plan, Verb
from kpx.reconcile.rows import ABSENT, Table
from kpx.sources.documents import Held
from kpx.sources.ledger import Ledger, Shelf

octets = st.tuples(st.integers(0, 300), st.integers(0, 3)).map(lambda pair: "0" * pair[1] + str(pair[0]))


@given(st.lists(octets, min_size=3, max_size=5).map(".".join))
def test_four_numbers_up_to_255_are_an_address_whatever_zeros_lead_them(text: str) -> None:
    numbers = [int(part) for part in text.split(".")]
    try:
        parsed = parse_address(text)
    except ValueError:
        assert len(numbers) != 4 or max(numbers) > 255
    else:
        assert parsed == bytes(numbers)
        assert len(numbers) == 4


@given(st.text("0123456789.abcdef: ٣²-+_", max_size=20))
def test_no_other_text_is_an_address_than_before(text: str) -> None:
    """Digits of other scripts, signs and underlines are numbers to Python, and none of an address."""
    try:
        wanted = ipaddress.ip_address(
            ".".join(part.lstrip("0") or "0" if part.isascii() and part.isdigit() else part for part in text.strip().split("."))
            if "." in text and ":" not in text
            else text.strip()
        )
    except ValueError:
        wanted = None
    try:
        parsed = parse_address(text)
    except ValueError:
        assert wanted is None
    else:
        mapped = getattr(wanted, "ipv4_mapped", None)
        assert wanted is not None
        assert parsed == (mapped or wanted).packed


NAMES = [ObjectName("shop", f"web-{number}") for number in range(3)]
endpoints = st.builds(
    Endpoint,
    st.integers(1, 4).map(lambda last: Address(bytes((10, 0, 0, last)))),
    ready=st.booleans(),
    terminating=st.booleans(),
)
ports = st.sampled_from([SlicePort(name, protocol, 8080) for name in ("", "http") for protocol in (Protocol.TCP, Protocol.UDP)])
slices = st.lists(
    st.builds(
        EndpointSlice,
        st.sampled_from(NAMES),
        st.just(ObjectName("shop", "web")),
        st.just(Family.IPV4),
        st.lists(ports, max_size=3).map(tuple),
        st.lists(endpoints, max_size=5).map(tuple),
    ),
    max_size=3,
    unique_by=lambda one: one.name,
)


def joined_one_by_one(parts: list[EndpointSlice], name: str, protocol: Protocol) -> Listed:
    listed: Listed = {}
    for one in sorted(parts, key=lambda part: part.name):
        for port in one.ports:
            for endpoint in one.endpoints if (port.name, port.protocol) == (name, protocol) else ():
                backend = Backend(endpoint.address, port.port)
                held = listed.get(backend)
                if held is None or (endpoint.terminating, not endpoint.ready) < (held[0].terminating, not held[0].ready):
                    listed[backend] = (endpoint, one.name.name)
    return listed


@given(slices)
def test_endpoints_are_joined_as_if_one_by_one(parts: list[EndpointSlice]) -> None:
    """Also where a slice names an endpoint twice, or comes with two ports of one name."""
    joined = join(parts, "http", Protocol.TCP)

    assert joined == joined_one_by_one(parts, "http", Protocol.TCP)
    assert all(type(backend) is Backend for backend in joined)


shelves = st.dictionaries(
    st.sampled_from("abcd"),
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.integers(1, 2)).map(
            lambda pair: Held("Service", pair[0], 1, (Service(pair[0], scheduler="rr" if pair[1] == 1 else "lc"),))
        ),
        max_size=3,
        unique_by=lambda held: held.name,
    ).map(lambda objects: Shelf(tuple(objects))),
)


def state_after(events: list[Event]) -> dict[ObjectName, Service]:
    state: dict[ObjectName, Service] = {}
    for event in events:
        if isinstance(event, Upsert) and isinstance(event.object, Service):
            state[event.object.name] = event.object
        elif isinstance(event, Delete):
            del state[event.name]
    return state


@given(shelves, st.randoms())
def test_files_read_at_once_say_what_they_say_one_after_the_other(files: dict[str, Shelf], chance) -> None:  # type: ignore[no-untyped-def]
    at_once, by_itself = Ledger(), Ledger()
    order_of_coming = chance.sample(sorted(files), len(files))
    events = [event for path in order_of_coming for event in by_itself.apply({path: files[path]})]

    assert state_after(at_once.apply(dict(sorted(files.items())))) == state_after(events)
    assert list(at_once.findings()) == list(by_itself.findings())
    # Whatever came at once can go one by one.
    for path in order_of_coming:
        assert at_once.apply({path: None}) == by_itself.apply({path: None})


TABLE = Table("ip", "endpoints", 1)
rows = st.dictionaries(st.binary(max_size=2), st.none() | st.integers(0, 2), max_size=8)


@given(rows)
def test_an_empty_table_is_filled_by_the_same_operations_as_any(wanted: dict[bytes, int | None]) -> None:
    absent = dict.fromkeys(wanted, ABSENT)
    made = order({TABLE: absent}, {TABLE: wanted})

    assert made == order({TABLE: absent}, {TABLE: wanted}, skip=lambda _, __: False)
    assert made == Plan(tuple(Operation(Verb.ADD, TABLE, key, None, wanted[key]) for key in sorted(wanted)))
    assert all(type(one) is Operation for one in made.operations)


@given(rows, rows, rows)
def test_a_kernel_found_empty_is_filled_again_whatever_was_known_of_it(
    first: dict[bytes, int | None], held: dict[bytes, int | None], second: dict[bytes, int | None]
) -> None:
    delta = DeltaTable()
    delta.replace({}, {TABLE: dict(first)})
    delta.observe({TABLE: dict(held)})
    delta.observe({})
    assert delta.pending() == len(first)

    delta.replace({TABLE: first}, {TABLE: second})
    plan = delta.plan()
    assert {one.key: one.new for one in plan.operations} == second
    assert {one.verb for one in plan.operations} <= {Verb.ADD}

    delta.confirm(plan, Outcome())
    assert delta.is_clean
    assert delta.actual_rows().get(TABLE, {}) == second
