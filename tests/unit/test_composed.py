"""Two data planes as one: which carries what, in which order they are written, and what one does when the other fails."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from kpx.dataplanes.carrying import is_plain, others
from kpx.dataplanes.composed import Composed
from kpx.model.addresses import Family, parse_address, parse_prefix
from kpx.model.facts import LocalDetector, NodeFacts
from kpx.model.names import Protocol
from kpx.policy.desired import (
    Action,
    Backend,
    Frontend,
    FrontendKind,
    FrontendProgram,
    Pool,
    ServiceProgram,
    Verdict,
)
from kpx.reconcile.diff import diff
from kpx.reconcile.plan import Failure, Operation, Outcome, Plan, Verb
from kpx.reconcile.rows import Rows
from tests.lab.programs import service_program
from tests.scenarios.scenario_kernel import DictionaryKernel, IpvsPart

FACTS = NodeFacts(
    "n1",
    node_port_addresses=frozenset(map(parse_address, ("192.0.2.1", "192.0.2.9"))),
    local_detector=LocalDetector(prefixes=(parse_prefix("10.244.0.0/16"),)),
)
A, B = (Backend(parse_address(each), 8080) for each in ("10.244.1.2", "10.244.2.2"))
ALL, MINE = Pool("cluster", (A, B)), Pool("local", (A,))
KEEP, MASQUERADE = Verdict(Action.FORWARD, ALL, False), Verdict(Action.FORWARD, ALL, True)
KEEP_MINE, MASQUERADE_MINE = Verdict(Action.FORWARD, MINE, False), Verdict(Action.FORWARD, MINE, True)
DROP, REJECT = Verdict(Action.DROP, None, False), Verdict(Action.REJECT, None, False)
FRONTEND = Frontend(Family.IPV4, parse_address("203.0.113.5"), Protocol.TCP, 80)
CHANGED = service_program("web", "10.96.0.10", ["10.244.1.2"], node_port=30080)
STICKY = service_program("web", "10.96.0.10", ["10.244.1.2"], node_port=30080, affinity_s=60)


@pytest.mark.parametrize(
    ("pod", "host", "outside", "plain"),
    [
        (KEEP, MASQUERADE, MASQUERADE, True),
        (MASQUERADE, MASQUERADE, MASQUERADE, True),
        (KEEP, KEEP, KEEP, True),
        (KEEP_MINE, MASQUERADE_MINE, MASQUERADE_MINE, True),
        (REJECT, REJECT, REJECT, True),
        (KEEP, MASQUERADE, KEEP_MINE, False),
        (KEEP_MINE, MASQUERADE_MINE, KEEP_MINE, False),
        (KEEP, MASQUERADE, DROP, False),
        (DROP, DROP, DROP, False),
    ],
    ids=["M1-M3", "M7", "6.2", "M4, M5", "M14", "M8-M10", "M8-M10, all endpoints here", "M11, M12", "M6"],
)
def test_ipvs_carries_what_is_the_same_for_all_but_for_the_name_of_the_client(
    pod: Verdict, host: Verdict, outside: Verdict, plain: bool
) -> None:
    program = FrontendProgram(FRONTEND, FrontendKind.LOAD_BALANCER_IP, pod, host, outside)

    assert is_plain(program) is plain
    assert not is_plain(FrontendProgram(*_fields(program), affinity_timeout_s=60)), "A1: shared by the frontends of a port"
    assert not is_plain(FrontendProgram(*_fields(program), source_ranges=(parse_prefix("192.0.2.0/24"),))), "F1"


def _fields(program: FrontendProgram) -> tuple[Frontend, FrontendKind, Verdict, Verdict, Verdict]:
    return program.frontend, program.kind, *program.verdicts()


def test_a_plain_service_has_no_row_of_nftables() -> None:
    plane = Composed(IpvsPart(), DictionaryKernel())

    assert others(CHANGED) is None
    assert not plane.parts(plane.render_service(CHANGED, FACTS))[1]
    assert plane.render_service(CHANGED, FACTS) == IpvsPart().render_service(CHANGED, FACTS)


class Kernels:
    """Both kernels, and a record of whose operations they saw, run by run."""

    def __init__(self, refuses: Callable[[str, Operation], bool] = lambda name, operation: False) -> None:
        self.runs: list[tuple[str, list[Verb]]] = []
        self.ipvs, self.nftables = self._part(IpvsPart(), refuses), self._part(DictionaryKernel(), refuses)
        self.plane = Composed(self.ipvs, self.nftables)

    def _part(self, part: IpvsPart | DictionaryKernel, refuses: Callable[[str, Operation], bool]) -> IpvsPart | DictionaryKernel:
        apply = part.apply

        def recorded(plan: Plan) -> Outcome:
            if plan:
                self.runs.append((part.name, sorted({o.verb for o in plan.operations}, key=lambda verb: verb.value)))
            bad = tuple(Failure(o, errno.EINVAL, "no") for o in plan.operations if refuses(part.name, o))
            good = apply(Plan(tuple(o for o in plan.operations if not refuses(part.name, o))))
            return good._replace(failures=good.failures + bad)

        part.apply = recorded  # type: ignore[method-assign]
        return part

    def make(self, program: ServiceProgram | None) -> Outcome:
        """Let the kernels hold this Service and the node's rows."""
        wanted = self.plane.render_node(FACTS, ())
        for table, content in self.plane.render_service(program, FACTS).items() if program else ():
            wanted.setdefault(table, {}).update(content)
        return self.plane.apply(diff(self.held(), wanted))

    def held(self) -> Rows:
        return self.plane.observe().rows

    def actions(self) -> dict[str, set[str]]:
        """What becomes of new flows, by frontend."""
        return {str(f.frontend): {v.action for v in (f.pod, f.host, f.outside)} for f in self.plane.frontends_of(self.held())}


def names(kernels: Kernels) -> list[tuple[str, str]]:
    return [(name, "".join(verb.value for verb in verbs)) for name, verbs in kernels.runs]


def test_who_takes_over_is_in_place_before_the_other_lets_go() -> None:
    kernels = Kernels()
    kernels.make(CHANGED)
    kernels.runs.clear()

    kernels.make(STICKY)
    assert names(kernels) == [("nftables", "+"), ("ipvs", "+-")]
    kernels.runs.clear()
    kernels.make(CHANGED)
    assert names(kernels) == [("ipvs", "+-"), ("nftables", "-")]


def test_what_is_about_nftables_alone_is_one_transaction() -> None:
    kernels = Kernels()
    kernels.make(STICKY)
    kernels.runs.clear()

    kernels.make(service_program("web", "10.96.0.10", ["10.244.1.3"], node_port=30080, affinity_s=90))
    assert [name for name, _ in names(kernels)].count("nftables") <= 2
    kernels.runs.clear()
    kernels.make(service_program("web", "10.96.0.10", ["10.244.1.3"], node_port=30080, affinity_s=60))
    assert [name for name, _ in kernels.runs] == ["nftables"]


def test_a_frontend_is_told_of_once_by_who_carries_it() -> None:
    kernels = Kernels()
    kernels.make(STICKY)

    told = kernels.plane.frontends_of(kernels.held())
    assert [(str(f.frontend), f.kind, f.affinity_timeout_s) for f in told] == [
        ("nodePort:30080/TCP (IPv4)", FrontendKind.NODE_PORT, 60),
        ("10.96.0.10:80/TCP", FrontendKind.CLUSTER_IP, 60),
    ]
    table = next(table for table in kernels.held() if table.name == "nftables/frontends")
    (key,) = kernels.held()[table]
    assert kernels.plane.row_frontend(table, key) == told[1].frontend
    assert kernels.plane.row_command(table, key, "goto pick-1").startswith("add element ip kpx frontends { 10.96.0.10 . tcp . 80")


def test_what_nftables_refuses_stays_with_ipvs() -> None:
    """Half a frontend is worse than the old one: neither the ClusterIP nor the node port changes hands, whatever its address."""
    kernels = Kernels(lambda name, o: name == "nftables" and o.table.name in ("frontends", "nodeports"))
    kernels.make(CHANGED)

    failures = kernels.make(STICKY).failures
    assert {table.name for table, _ in {(f.operation.table, f.reason) for f in failures}} >= {"by-nftables", "destinations"}
    assert kernels.actions() == {"10.96.0.10:80/TCP": {"forward"}, "nodePort:30080/TCP (IPv4)": {"forward"}}
    assert all(f.reason == "no" or "no" in f.reason for f in failures)


def test_what_ipvs_refuses_stays_with_nftables() -> None:
    kernels = Kernels(lambda name, o: name == "ipvs" and o.table.name == "destinations" and o.verb is Verb.ADD)
    kernels.make(STICKY)
    before = {t: dict(content) for t, content in kernels.nftables.rows.items() if content}

    failures = kernels.make(CHANGED).failures
    kept = {t: c for t, c in before.items() if t.name in ("frontends", "nodeports", "endpoints", "nodeport-endpoints")}
    assert {t: kernels.nftables.rows[t] for t in kept} == kept
    assert {f.operation.table.name for f in failures} >= {"destinations", "nftables/frontends", "nftables/nodeports"}


def test_a_failure_is_nobody_elses() -> None:
    """A ClusterIP whose port is that of nobody's node port goes on though another frontend of port 80 fails."""
    refused = parse_address("10.96.0.10")
    kernels = Kernels(
        lambda name, o: name == "nftables" and o.table.name == "frontends" and bytes(o.key).startswith(refused)  # type: ignore[call-overload]
    )
    both = [service_program(n, vip, ["10.244.1.2"], affinity_s=60) for n, vip in (("a", "10.96.0.10"), ("b", "10.96.0.11"))]
    wanted = kernels.plane.render_node(FACTS, ())
    for program in both:
        for table, content in kernels.plane.render_service(program, FACTS).items():
            wanted.setdefault(table, {}).update(content)

    kernels.plane.apply(diff({}, wanted))
    assert list(kernels.actions()) == ["10.96.0.11:80/TCP"]
