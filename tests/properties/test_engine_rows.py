"""
Laws of the whole way from events to rows of either data plane, on a kernel made of dictionaries.

After every single operation, thus at every prefix of every plan, a packet must find what it needs: with nftables a frontend in
the kernel has its chain, all its slots and its masquerading; with ipvs a steered frontend has a recorded virtual server, and
either destinations and masquerading or a refusal. That is what makes a crash between two writes harmless (16.2, D16, D22).
"""

from __future__ import annotations

import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from kpx.agent.engine import Engine
from kpx.cluster.events import Delete, Event, Synced, Upsert
from kpx.dataplanes.ipvs.schema import TABLES, server_of
from kpx.dataplanes.nftables.chains import pool_size
from kpx.dataplanes.nftables.schema import CHAINS, ROWS
from kpx.model.addresses import Family, parse_address, parse_prefix
from kpx.model.endpointslice import Endpoint, EndpointSlice, SlicePort
from kpx.model.facts import LocalDetector, NodeFacts
from kpx.model.names import ObjectName, Protocol
from kpx.model.service import Service, ServicePort
from kpx.reconcile.plan import Failure, Operation
from kpx.reconcile.rows import Rows
from tests.scenarios.scenario_kernel import Dictionary, DictionaryKernel, IpvsDictionary

FACTS = NodeFacts(
    "n1",
    node_port_any=frozenset(Family),
    node_port_addresses=frozenset(map(parse_address, ("192.0.2.1", "198.51.100.1", "2001:db8::1"))),
    local_detector=LocalDetector(prefixes=(parse_prefix("10.244.0.0/16"),)),
)
NAMES = [ObjectName("a", "one"), ObjectName("a", "two"), ObjectName("b", "one")]
SLICES = [ObjectName("a", "s1"), ObjectName("a", "s2"), ObjectName("b", "s1")]
VIPS = [(parse_address(f"10.96.0.{n}"), parse_address(f"fd00:96::{n}")) for n in (1, 2, 3)]
PODS = {
    Family.IPV4: [parse_address(f"10.244.1.{n}") for n in range(1, 6)],
    Family.IPV6: [parse_address(f"fd00:244::{n}") for n in range(1, 6)],
}
EXTERNAL = [parse_address("198.51.100.1"), parse_address("fd00:51::1")]

# Dense on purpose: nearly every Service has an address, nearly every slice an endpoint that is ready, and they join.
services = st.builds(
    Service,
    st.sampled_from(NAMES),
    created=st.sampled_from(["2023-01-01T00:00:00Z", "2024-01-01T00:00:00Z"]),
    cluster_ips=st.sampled_from(VIPS),
    ports=st.sampled_from([80, 81]).flatmap(
        lambda port: st.sampled_from([0, 30000]).map(lambda node_port: (ServicePort("", Protocol.TCP, port, node_port),))
    ),
    external_ips=st.lists(st.sampled_from(EXTERNAL), max_size=2, unique=True).map(tuple),
    affinity_timeout_s=st.sampled_from([None, 60, 90]),
)


def _slices(family: Family) -> st.SearchStrategy[EndpointSlice]:
    endpoints = st.lists(
        st.builds(Endpoint, st.sampled_from(PODS[family]), ready=st.sampled_from([True, True, True, False])), max_size=5
    )
    return st.builds(
        EndpointSlice,
        st.sampled_from(SLICES),
        st.sampled_from(NAMES),
        st.just(family),
        ports=st.just((SlicePort("", Protocol.TCP, 8080),)),
        endpoints=endpoints.map(tuple),
    )


events = st.one_of(
    services.map(Upsert),
    _slices(Family.IPV4).map(Upsert),
    _slices(Family.IPV6).map(Upsert),
    st.builds(Delete, st.just(Service), st.sampled_from(NAMES)),
    st.builds(Delete, st.just(EndpointSlice), st.sampled_from(SLICES)),
)

WAYS = (("frontends", "endpoints", "masquerades", "sticky"), ("nodeports", "nodeport-endpoints", "", "nodeport-sticky"))


class WatchedKernel(DictionaryKernel):
    """Looks at what a packet would find after each operation."""

    def _carry_out(self, operation: Operation) -> Failure | None:
        failure = super()._carry_out(operation)
        for family in Family:
            for names in WAYS:
                self._look(family, *names)
        return failure

    def _look(self, family: Family, frontends: str, endpoints: str, masquerades: str, sticky: str) -> None:
        slots = self.rows.get(ROWS[family, endpoints], {})
        chains = self.rows.get(CHAINS[family], {})
        for key, verdict in self.rows.get(ROWS[family, frontends], {}).items():
            size = pool_size(str(verdict))
            assert size
            assert str(verdict).removeprefix("goto ") in chains
            assert all(key + slot.to_bytes(4, sys.byteorder) in slots for slot in range(size)), "a slot is empty"
            if masquerades:
                assert key in self.rows.get(ROWS[family, masquerades], {}), "nobody says how to masquerade"
            if "stick-" in str(verdict):
                assert key in self.rows.get(ROWS[family, sticky], {}), "nobody records affinity"


class WatchedIpvs(IpvsDictionary):
    """Looks at what a packet would find after each operation."""

    def _carry_out(self, operation: Operation) -> Failure | None:
        failure = super()._carry_out(operation)
        for family in Family:
            self._look(family)
        return failure

    def _look(self, family: Family) -> None:
        held = {
            name: self.rows.get(TABLES[family, name], {}) for name in ("servers", "virtual-servers", "refused", "destinations")
        }
        masqueraded = {key for name in ("masq-all", "masq-nonpod") for key in self.rows.get(TABLES[family, name], {})}
        served = {server_of(family, key) for key in held["destinations"]}
        for name in ("frontends", "node-ports"):
            for key in self.rows.get(TABLES[family, name], {}):
                assert key in held["virtual-servers"], "steered to a virtual server that is not there"
                if key not in held["refused"]:
                    assert key in served, "nobody serves new flows, and nobody refuses them"
                    if family == Family.IPV4:
                        assert key in masqueraded, "nobody says how to masquerade"
        assert held["virtual-servers"].keys() <= held["servers"].keys(), "a virtual server nobody would know as ours"


KERNELS = (WatchedKernel, WatchedIpvs)
kernels = st.sampled_from(KERNELS)


def filled(rows: Rows) -> Rows:
    return {table: content for table, content in rows.items() if content}


def at_once(history: list[Event], kind: type[Dictionary] = DictionaryKernel) -> Rows:
    """Return the rows of the last state of a history, told in one go."""
    last: dict[tuple[type, object], Event] = {}
    for event in history:
        about = type(event.object) if isinstance(event, Upsert) else event.kind if isinstance(event, Delete) else object
        name = event.object.name if isinstance(event, Upsert) else event.name if isinstance(event, Delete) else ""
        last[about, name] = event
    kernel = kind()
    engine = Engine(kernel, FACTS)
    engine.fold([*(event for event in last.values() if isinstance(event, Upsert)), Synced()])
    assert not engine.round().refused
    return filled(kernel.rows)


@settings(max_examples=300)
@given(kernels, st.lists(events, max_size=18), st.lists(st.booleans(), min_size=18, max_size=18), st.integers(0, 18))
def test_any_history_gives_the_rows_of_its_last_state_by_legal_steps_alone(
    kind: type[Dictionary], history: list[Event], rounds: list[bool], synced_after: int
) -> None:
    """Incremental equals full, no operation is refused, and no prefix of a plan leaves a frontend without what it points at."""
    kernel = kind()
    engine = Engine(kernel, FACTS)
    for number, (event, act) in enumerate(zip(history, rounds, strict=False)):
        if number == synced_after:
            engine.fold([Synced()])
        engine.fold([event])
        if act:
            assert not engine.round().refused
            assert engine.view.synced or not kernel.rows, "something was written before everything was heard (S9)"
    engine.fold([Synced()])
    assert not engine.round().refused

    assert filled(kernel.rows) == at_once(history, kind)


@settings(max_examples=80)
@given(kernels, st.lists(events, max_size=12), st.lists(events, max_size=6))
def test_a_restart_adopts_what_is_there_and_writes_what_changed_meanwhile(
    kind: type[Dictionary], before: list[Event], meanwhile: list[Event]
) -> None:
    """With nothing changed it writes nothing; otherwise it ends where one that never stopped would be."""
    kernel = kind()
    first = Engine(kernel, FACTS)
    first.fold([*before, Synced()])
    first.round()
    again = Engine(kernel, FACTS)
    again.fold([*before, Synced()])
    assert again.round().rows == 0

    later = Engine(kernel, FACTS)
    later.fold([*before, *meanwhile, Synced()])
    assert not later.round().refused
    assert filled(kernel.rows) == at_once([*before, *meanwhile], kind)


@settings(max_examples=40)
@given(kernels, st.lists(events, max_size=12))
def test_when_everything_is_deleted_only_the_rows_of_the_node_are_left(kind: type[Dictionary], history: list[Event]) -> None:
    kernel = kind()
    engine = Engine(kernel, FACTS)
    engine.fold([*history, Synced()])
    engine.round()
    view = engine.view
    slices = {one.name for name in NAMES for one in view.slices_of(name)}
    engine.fold([*(Delete(Service, name) for name in list(view.services)), *(Delete(EndpointSlice, name) for name in slices)])
    engine.round()

    assert filled(kernel.rows) == at_once([], kind)
