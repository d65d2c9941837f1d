"""
IPVS and ipset know no transactions, and nftables beside them knows nothing of theirs, so an agent can die between any two writes:
every prefix of what it writes must be harmless, and the next agent must come out right (16.2, D16, D22).

The data plane runs in this process, behind doors to the kernel that let one message through at a time: after each the kernel is
looked at, and after a given number the process dies, in the way that leaves nothing of it but what is in the kernel.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pytest

from kpx.agent.engine import Engine
from kpx.cluster.events import Delete, Event, Synced, Upsert
from kpx.dataplanes.composed import Composed
from kpx.dataplanes.ipvs.doors import Doors, close_doors, open_doors
from kpx.dataplanes.ipvs.observe import packed
from kpx.dataplanes.ipvs.plane import IpvsDataplane
from kpx.dataplanes.ipvs.schema import BY_NAME, TABLES, key_of, read_server, set_name
from kpx.dataplanes.nftables.plane import NftablesDataplane
from kpx.kernel import routing
from kpx.kernel.conntrack import ConntrackFlows
from kpx.kernel.netlink import Netlink
from kpx.model.addresses import Address, Family, parse_address, parse_prefix
from kpx.model.decode import decode_document
from kpx.model.facts import LocalDetector, NodeFacts
from kpx.reconcile.rows import Rows
from tests.lab.agent import Object
from tests.lab.holdings import HOLDINGS, THEIR_ADDRESS, left_behind
from tests.lab.netns import PATIENCE, Namespace
from tests.lab.objects import port, service, service_cidr, slice_of

pytestmark = pytest.mark.dataplane("ipvs")

HELD = HOLDINGS["ipvs"]
FAMILY = Family.IPV4
ENDPOINTS = ("10.244.1.1", "10.244.1.2", "10.244.1.3", "10.244.1.4")
STEERING, MASQUERADING = ("frontends", "node-ports"), ("masq-all", "masq-nonpod")
KILLS = 20 if PATIENCE == 1 else 6
"""About so many places of a run are tried to die at, evenly spread; an emulated machine has time for fewer."""
T = TypeVar("T")


def facts(*node_addresses: str) -> NodeFacts:
    """A node of IPv4 with these node-port addresses."""
    detector = LocalDetector(prefixes=(parse_prefix("10.244.0.0/16"),))
    addresses = frozenset(map(parse_address, node_addresses))
    return NodeFacts("n1", families=(FAMILY,), node_port_addresses=addresses, local_detector=detector)


def web(**changes: Any) -> Object:
    """The Service that is there before and after."""
    return service("web", "10.96.0.10", port(80, node_port=30080), external_ips=["203.0.113.5"], **changes)


BEFORE = facts("192.168.10.1"), (
    service_cidr("10.96.0.0/16"),
    web(), slice_of("web", *ENDPOINTS[:3]),
    service("dns", "10.96.0.53", port(53, "UDP")), slice_of("dns", *ENDPOINTS[:2], protocol="UDP"),
    service("gone", "10.96.0.30"), slice_of("gone", ENDPOINTS[0]),
    service("fading", "10.96.0.40"), slice_of("fading", ENDPOINTS[1]),
    service("waking", "10.96.0.60", port(80, node_port=30060)),
)  # fmt: skip
AFTER = facts("192.168.10.1", "192.168.10.9"), (
    service_cidr("10.96.0.0/16"),
    web(affinity_s=600, annotations={"kpx.io/scheduler": "wrr"}), slice_of("web", *ENDPOINTS[1:]),
    service("dns", "10.96.0.53", port(53, "UDP")), slice_of("dns", *ENDPOINTS[1:3], protocol="UDP"),
    service("fading", "10.96.0.40"),
    service("waking", "10.96.0.60", port(80, node_port=30060)), slice_of("waking", ENDPOINTS[1]),
    service("fresh", "10.96.0.50", port(80, node_port=30050), external_ips=["203.0.113.9"]), slice_of("fresh", ENDPOINTS[3]),
)  # fmt: skip
State = tuple[NodeFacts, tuple[Object, ...]]


class Died(BaseException):
    """The process ends here; nobody may catch this, as nobody catches SIGKILL."""


class Fuse:
    """
    Lets writes through, one after the other.

    Attributes:
        written: how many there were. last: die instead of writing more than this, None for never.
        look: called after each write.
    """

    def __init__(self) -> None:
        self.written = 0
        self.last: int | None = None
        self.look: Callable[[], None] = lambda: None

    def burn(self, write: Callable[[], T]) -> T:
        """Carry one write out, or die."""
        if self.last is not None and self.written >= self.last:
            raise Died
        result = write()
        self.written += 1
        self.look()
        return result


class OneByOne:
    """A door to the kernel through which everything goes; each write by itself, and over the fuse."""

    def __init__(self, door: Any, fuse: Fuse) -> None:
        self._door = door
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        """Reading is not our concern."""
        return getattr(self._door, name)


class OneElement(OneByOne):
    """`IpSets`, an element at a time."""

    def write(self, changes: Sequence[tuple[str, bool, Sequence[Any]]]) -> list[tuple[int, int, int]]:
        refused: list[tuple[int, int, int]] = []
        for index, (name, adds, elements) in enumerate(changes):
            for place, element in enumerate(elements):
                change = (name, adds, [element])
                answers = self._fuse.burn(lambda change=change: self._door.write([change]))  # type: ignore[misc]
                refused += [(index, place, number) for _, _, number in answers]
        return refused

    def create(self, shape: Any) -> None:
        self._fuse.burn(lambda: self._door.create(shape))

    def destroy(self, name: str) -> None:
        self._fuse.burn(lambda: self._door.destroy(name))

    def flush(self, name: str) -> None:
        self._fuse.burn(lambda: self._door.flush(name))


class OneMessage(OneByOne):
    """`Ipvs`, a message at a time."""

    def write(self, messages: Sequence[bytes]) -> list[int]:
        return [self._fuse.burn(lambda one=one: self._door.write([one]))[0] for one in messages]  # type: ignore[misc]


class OneTable(OneByOne):
    """`Iptables`, a table at a time: that is what iptables-restore commits at once."""

    def restore(self, family: int, text: str) -> None:
        tables = re.findall(r"^\*.*?^COMMIT$", text, re.MULTILINE | re.DOTALL)
        assert tables, f"nothing that iptables-restore would commit: {text}"
        for table in tables:
            self._fuse.burn(lambda table=table: self._door.restore(family, table + "\n"))  # type: ignore[misc]


class OneTransaction(OneByOne):
    """`Netlink` of nf_tables, a transaction at a time."""

    def transact(self, datagram: bytes, first: int, last: int) -> list[Any]:
        return self._fuse.burn(lambda: self._door.transact(datagram, first, last))


class Bench:
    """A namespace in which agents live and die."""

    def __init__(self, host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = host
        self.looking = open_doors()
        self.beside = NftablesDataplane(Netlink())
        self.fuse = Fuse()
        change = routing._change
        monkeypatch.setattr(routing, "_change", lambda *a, **k: self.fuse.burn(lambda: change(*a, **k)))

    @contextlib.contextmanager
    def plane(self) -> Iterator[Composed]:
        """A data plane with a fresh memory, as after a start; every write goes over the fuse."""
        doors = open_doors()
        sets: Any = OneElement(doors.sets, self.fuse)
        ipvs: Any = OneMessage(doors.ipvs, self.fuse)
        iptables: Any = OneTable(doors.iptables, self.fuse)
        split = Doors(doors.netlink, sets, ipvs, iptables)
        netlink = Netlink()
        tables: Any = OneTransaction(netlink, self.fuse)
        try:
            yield Composed(IpvsDataplane(split), NftablesDataplane(tables))
        finally:
            close_doors(doors)
            netlink.close()

    def become(self, state: State, start: State | None = None, last: int | None = None) -> int:
        """
        Let a new agent make the kernel equal to a state; return how many writes that took.

        Args:
            start: let it start in this state, and hear of the other then.
            last: let it die instead of writing more than this; a start that writes nothing does not count.
        """
        with self.plane() as plane:
            engine = Engine(plane, (start or state)[0], ConntrackFlows(self.looking.netlink))
            if start:
                engine.fold([*said(start), Synced()])
                engine.round("start")
                engine.set_facts(state[0])
                engine.fold([*said(state), *unsaid(start, state)])
            else:
                engine.fold([*said(state), Synced()])
            self.fuse.written, self.fuse.last = 0, last
            try:
                engine.round("test")
                assert not engine.refusals
            except Died:
                pass
            finally:
                self.fuse.last = None
            return self.fuse.written

    def rows_of(self, state: State) -> Rows:
        """What the kernel must hold in a state; nothing is read or written but the names of schedulers."""
        rows: Rows = {}
        with self.plane() as plane:
            engine = Engine(plane, state[0])
            engine.fold([*said(state), Synced()])
            engine.compile()
            # An engine that has not read the kernel has everything to add.
            for operation in engine.delta.plan().operations:
                rows.setdefault(operation.table, {})[operation.key] = operation.new
        return rows

    def clean_up(self, last: int | None = None) -> int:
        """Let `kpx cleanup` remove everything, or die on the way."""
        self.fuse.written, self.fuse.last = 0, last
        with self.plane() as plane, contextlib.suppress(Died):
            plane.cleanup()
        self.fuse.last = None
        return self.fuse.written

    def keys(self, *tables: str) -> set[bytes]:
        """The rows of some sets, as the kernel has them now."""
        found: set[bytes] = set()
        present = set(self.looking.sets.names())
        for table in tables:
            if (name := set_name(FAMILY, table)) in present:
                found |= {key_of(BY_NAME[table], element) or b"" for element in self.looking.sets.elements(name)}
        return found

    def carried(self) -> set[Any]:
        """The frontends that nftables has."""
        return {each.frontend for each in self.beside.frontends_of(self.beside.observe().rows)}

    def held(self) -> tuple[str, Rows]:
        """Everything of kpx but what drains, which an agent that died may have begun to let go."""
        lines = (line for line in HELD.ours(self.host).splitlines() if " -w 0" not in line and "DRAINING " not in line)
        return "\n".join(lines), {table: rows for table, rows in self.beside.observe().rows.items() if rows}


def values(state: State) -> list[Any]:
    """The objects of a state, decoded."""
    return [value for document in state[1] for one in decode_document(document, "test").objects for value in one.values]


def said(state: State) -> list[Event]:
    """That they exist."""
    return [Upsert(value) for value in values(state)]


def unsaid(old: State, new: State) -> list[Event]:
    """That those of the old state which the new one does not have are gone."""
    left = {(type(value), value.name) for value in values(new)}
    return [Delete(type(value), value.name) for value in values(old) if (type(value), value.name) not in left]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A host with somebody else's things on it."""
    host = Namespace("host")
    HELD.plant(host)
    host.ip("link add e type veth peer name f", "link set e up", "link set f up", "route add 10.244.0.0/16 dev e")
    with host.entered():
        bench = Bench(host, monkeypatch)
        yield bench
        close_doors(bench.looking)
        bench.beside.close()
    host.close()


class Watchman:
    """Looks at the kernel after each write, and complains about what must never be."""

    def __init__(self, bench: Bench, old: Rows, new: Rows) -> None:
        self._bench = bench
        both = [rows.get(TABLES[FAMILY, table], {}).keys() for rows in (old, new) for table in MASQUERADING]
        self._masqueraded = set().union(*both)
        self._always = self._frontends(old) & self._frontends(new)
        self._served = {key for key in self._always if self._endpoints(old, key) and self._endpoints(new, key)}
        self.complaints: list[str] = []
        assert self._masqueraded, "a watchman who knows of no frontend sees nothing wrong"

    @staticmethod
    def _frontends(rows: Rows) -> set[Any]:
        return set().union(*(rows.get(TABLES[FAMILY, table], {}).keys() for table in STEERING))

    @staticmethod
    def _endpoints(rows: Rows, key: bytes) -> bool:
        served = [*rows.get(TABLES[FAMILY, "destinations"], {}), *rows.get(TABLES[FAMILY, "by-nftables"], {})]
        return any(isinstance(each, bytes) and each.startswith(key) for each in served)

    def __call__(self) -> None:
        """Look."""
        servers = {packed(key): key for key, _ in self._bench.looking.ipvs.servers() if not key.fwmark}
        theirs = {key for key in servers if key[:4] == parse_address(THEIR_ADDRESS)}
        ours, steered = servers.keys() - theirs, self._bench.keys(*STEERING)
        masqueraded = self._bench.keys(*MASQUERADING)
        number = self._bench.fuse.written
        self._expect(len(theirs) == 2, f"{number}: somebody else's virtual server is gone")
        self._expect(steered <= ours, f"{number}: steered without a virtual server: {shown(steered - ours)}")
        recorded = self._bench.keys("servers")
        self._expect(ours <= recorded, f"{number}: virtual servers without a record: {shown(ours - recorded)}")
        self._expect(self._always <= steered, f"{number}: not steered any more: {shown(self._always - steered)}")
        # What is refused is not steered, whatever set it is in besides.
        refused = self._bench.keys("refused")
        self._expect(not self._served & refused, f"{number}: refused in between: {shown(self._served & refused)}")
        left = self._bench.keys("by-nftables") & steered
        carried = self._bench.carried() if left else set()
        self._expect(all(_carriers(key) & carried for key in left), f"{number}: left to nobody, of {shown(left)}")
        for key in (steered & ours) - refused - left:
            working = any(state.weight for _, state in self._bench.looking.ipvs.destinations(servers[key]))
            self._expect(working, f"{number}: steered to nobody: {shown({key})}")
            bare = key in self._masqueraded and key not in masqueraded
            self._expect(not bare, f"{number}: steered to endpoints without masquerading: {shown({key})}")

    def _expect(self, holds: bool, complaint: str) -> None:
        if not holds:
            self.complaints.append(complaint)


def _carriers(key: bytes) -> set[Any]:
    """How nftables may know the frontend of a virtual server: by its address, or as a node port."""
    frontend = read_server(FAMILY, key)
    return {frontend, frontend._replace(address=Address(b""))} if frontend else set()


def shown(keys: set[bytes]) -> list[str]:
    """Keys for people."""
    return sorted(f"{'.'.join(map(str, key[:4]))}:{int.from_bytes(key[5:7], 'big')}/{key[4]}" for key in keys)


NOTHING: State = (BEFORE[0], ())
WAYS = {"first sync": (NOTHING, BEFORE), "changes": (BEFORE, AFTER), "everything goes": (AFTER, NOTHING)}


@pytest.mark.parametrize("way", list(WAYS))
def test_after_every_single_write_the_kernel_is_harmless(bench: Bench, way: str) -> None:
    """
    Nothing is steered without its virtual server, forwarded without its masquerading, or made without its record; what is there
    before and after is served all the while; and nobody else's things are touched.
    """
    old, new = WAYS[way]
    theirs = HELD.theirs(bench.host)
    bench.become(old)
    watchman = Watchman(bench, bench.rows_of(old), bench.rows_of(new))
    bench.fuse.look = watchman

    assert bench.become(new, old) > 10
    assert not watchman.complaints, "\n".join(watchman.complaints)
    assert HELD.theirs(bench.host) == theirs


@pytest.mark.parametrize("way", list(WAYS))
def test_an_agent_that_dies_between_two_writes_leaves_what_the_next_one_completes(bench: Bench, way: str) -> None:
    """Wherever it dies, a new agent that knows nothing but the kernel makes the same of it as one that was never disturbed."""
    old, new = WAYS[way]
    theirs = HELD.theirs(bench.host)
    bench.become(old)
    writes = bench.become(new, old)
    wanted = bench.held()

    for last in range(0, writes, max(1, writes // KILLS)):
        bench.become(old)
        assert bench.become(new, old, last) == last
        bench.become(new)
        assert bench.held() == wanted, f"died after {last} of {writes} writes"
    assert HELD.theirs(bench.host) == theirs


def test_an_agent_may_die_while_it_makes_its_rules(bench: Bench) -> None:
    """The constant part as well: sets, routing and rules, then the rows, from nothing."""
    writes = bench.become(BEFORE)
    wanted = bench.held()
    for last in range(0, writes, max(1, writes // KILLS)):
        bench.clean_up()
        assert left_behind(bench.host) == ""
        assert bench.become(BEFORE, last=last) == last
        bench.become(BEFORE)
        assert bench.held() == wanted, f"died after {last} of {writes} writes"


def test_a_cleanup_may_be_cut_short_and_run_again(bench: Bench) -> None:
    """Wherever it ends, another one finishes it; nobody else's things go (D27)."""
    theirs = HELD.theirs(bench.host)
    bench.become(BEFORE)
    writes = bench.clean_up()
    for last in range(1, writes, max(1, writes // KILLS)):
        bench.become(BEFORE)
        bench.clean_up(last)
        bench.clean_up()
        assert left_behind(bench.host) == "", f"cut short after {last} of {writes} writes"
    assert HELD.theirs(bench.host) == theirs
