"""
Laws of the whole way from events to rows of either data plane, on a kernel made of dictionaries.

After every single operation, thus at every prefix of every plan, a packet must find what it needs: with nftables a frontend in
the kernel has its chains, all its slots, its masquerading and its source ranges, and no outsider's address is kept on a way to
another node; with ipvs a steered frontend has a recorded virtual server, and
either destinations and masquerading or a refusal. That is what makes a crash between two writes harmless (16.2, D16, D22).
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kpx.agent.engine import Engine
from kpx.cluster.events import Delete, Event, Synced, Upsert
from kpx.dataplanes.ipvs.schema import TABLES, read_server, server_of
from kpx.dataplanes.nftables.choices import Choice, slots
from kpx.dataplanes.nftables.schema import CHAINS, ROWS, read_endpoint
from kpx.model.addresses import Address, Family, parse_address, parse_prefix
from kpx.model.endpointslice import Endpoint, EndpointSlice, SlicePort
from kpx.model.facts import LocalDetector, NodeFacts
from kpx.model.names import ObjectName, Protocol
from kpx.model.service import Service, ServicePort
from kpx.reconcile.plan import Failure, Operation
from kpx.reconcile.rows import Key, Rows, Value
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
LOCAL = {pods[number] for pods in PODS.values() for number in (0, 1)}
EXTERNAL = [parse_address("198.51.100.1"), parse_address("fd00:51::1")]
RESTRICTED = [parse_address("203.0.113.1"), parse_address("fd00:52::1")]
RANGES = tuple(map(parse_prefix, ("192.0.2.0/28", "2001:db8::/64")))

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
    load_balancer_ips=st.lists(st.sampled_from(RESTRICTED), max_size=2, unique=True).map(tuple),
    source_ranges=st.sampled_from([RANGES, (*RANGES, parse_prefix("192.0.2.64/32"))]),
    internal_policy_local=st.booleans(),
    external_policy_local=st.booleans(),
    affinity_timeout_s=st.sampled_from([None, 60, 90]),
)


def _endpoint(address: Address, ready: bool) -> Endpoint:
    return Endpoint(address, ready=ready, node_name="n1" if address in LOCAL else "n2")


def _slices(family: Family) -> st.SearchStrategy[EndpointSlice]:
    endpoints = st.lists(
        st.builds(_endpoint, st.sampled_from(PODS[family]), st.sampled_from([True, True, True, False])), max_size=5
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


class WatchedKernel(DictionaryKernel):
    """Looks at what a packet would find after each operation."""

    def _carry_out(self, operation: Operation) -> Failure | None:
        failure = super()._carry_out(operation)
        for family in Family:
            for maps in ("frontends", "nodeports"):
                self._look(family, maps)
        return failure

    def _held(self, family: Family, name: str) -> dict[Key, Value]:
        return self.rows.get(ROWS[family, name], {})

    def _look(self, family: Family, maps: str) -> None:
        for key, verdict in self._held(family, maps).items():
            ranged = str(verdict).startswith("goto ranges-")
            assert ranged or key[:-8] not in RESTRICTED, "open to everybody (F3)"
            self._look_at_choice(family, maps, key, self._held(family, "ranged").get(key, "drop") if ranged else verdict)

    def _look_at_choice(self, family: Family, maps: str, key: Key, verdict: Value) -> None:
        prefix = "nodeport-" if maps == "nodeports" else ""
        ways = [verdict]
        if verdict in (f"goto {prefix}by-source", f"goto {prefix}by-host"):
            ways = [self._held(family, f"{maps}-inside")[key], self._held(family, f"{maps}-outside")[key]]
        for way in ways:
            self._look_at_way(family, prefix, key, str(way))
        self._look_at_outsiders(family, prefix, key, str(ways[-1]))

    def _slots(self, family: Family, prefix: str, key: Key, way: str) -> list[Value]:
        """Return the packed endpoints of a way."""
        choice = Choice.of(way)
        assert choice is not None
        return [self._held(family, f"{prefix}endpoints")[key + slot] for slot in slots(choice)[: choice.size]]

    def _look_at_way(self, family: Family, prefix: str, key: Key, way: str) -> None:
        if way == "drop":
            return
        assert way.removeprefix("goto ") in self.rows[CHAINS[family]]
        masqueraded, keeping = self._held(family, f"{prefix}masquerades"), self._held(family, f"{prefix}keeping")
        for packed in self._slots(family, prefix, key, way):
            place = key + packed if prefix else key
            assert place in masqueraded or place in keeping, "nobody says how to masquerade"
            assert "stick-" not in way or place in self._held(family, f"{prefix}sticky"), "nobody records affinity"

    def _look_at_outsiders(self, family: Family, prefix: str, key: Key, way: str) -> None:
        """Only an endpoint of this node may see an outsider's own address: its answer comes back through here (M8)."""
        for packed in () if way == "drop" else self._slots(family, prefix, key, way):
            place = key + packed if prefix else key
            if place not in self._held(family, f"{prefix}masquerades"):
                assert read_endpoint(packed)[0] in LOCAL, "an answer would go astray"


class WatchedIpvs(IpvsDictionary):
    """Looks at what a packet would find after each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.ipvs.look = self.nftables.look = self._look

    def _look(self) -> None:
        for family in Family:
            self._look_at(family)

    def _look_at(self, family: Family) -> None:
        names = ("servers", "virtual-servers", "refused", "by-nftables", "destinations")
        held = {name: self.ipvs.rows.get(TABLES[family, name], {}) for name in names}
        masqueraded = {key for name in ("masq-all", "masq-nonpod") for key in self.ipvs.rows.get(TABLES[family, name], {})}
        served = {server_of(family, key) for key in held["destinations"]}
        carried = {each.frontend for each in self.nftables.frontends_of(self.nftables.rows)} if held["by-nftables"] else set()
        for name in ("frontends", "node-ports"):
            for key in self.ipvs.rows.get(TABLES[family, name], {}):
                assert key in held["virtual-servers"], "steered to a virtual server that is not there"
                if key in held["by-nftables"]:
                    frontend = read_server(family, key)
                    asked = frontend if name == "frontends" else frontend._replace(address=Address(b""))
                    assert asked in carried, "left to nftables, which knows nothing of it"
                elif key not in held["refused"]:
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
