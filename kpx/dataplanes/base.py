"""
The seam between the agent and a data plane: generic verbs on rows.

`render_*`, `frontends_of` and `commands` are pure. `observe`, `apply`, `cleanup` and the watch talk to the kernel. A data
plane holds no desired state of its own: what it is told to apply is a `Plan`, what it reports is rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple, Protocol

from kpx.dataplanes.way import Hook
from kpx.model.addresses import Address, Prefix
from kpx.model.facts import NodeFacts
from kpx.model.node import ServiceCIDR
from kpx.policy.desired import Backend, Frontend, FrontendKind, ServiceProgram, Source
from kpx.reconcile.plan import Outcome, Plan
from kpx.reconcile.rows import Key, Rows, Table, Value


class KernelVerdict(NamedTuple):
    """
    What rows do with new flows of one kind of source.

    Args:
        action: "forward", "reject", "drop", or "pass" where it is left to another data plane.
        backends: in slot order; empty unless the action is "forward".
        masquerade: the endpoint sees an address of this node; one that reaches itself sees it in any case (M16).
    """

    action: str
    backends: tuple[Backend, ...] = ()
    masquerade: bool = False


class KernelFrontend(NamedTuple):
    """
    A frontend as rows say it: what `kpx get` shows and `kpx explain` walks.

    Args:
        kind: None when rows cannot tell an external IP from a load-balancer IP; then CLUSTER_IP or NODE_PORT only.
        pod, host, outside: what becomes of each kind of source.
        affinity_timeout_s: None without session affinity.
        source_ranges: only these sources may pass, sorted (F1); empty means all.
    """

    frontend: Frontend
    kind: FrontendKind | None
    pod: KernelVerdict
    host: KernelVerdict
    outside: KernelVerdict
    affinity_timeout_s: int | None = None
    source_ranges: tuple[Prefix, ...] = ()

    def verdict(self, source: Source) -> KernelVerdict:
        """Return what becomes of a kind of source."""
        return {Source.POD: self.pod, Source.HOST: self.host, Source.OUTSIDE: self.outside}[source]

    @property
    def backends(self) -> tuple[Backend, ...]:
        """Every endpoint that some kind of source may reach: those for pods first, each once."""
        return tuple(dict.fromkeys((*self.pod.backends, *self.host.backends, *self.outside.backends)))


class AffinityEntry(NamedTuple):
    """One client kept on one endpoint: `frontend.address` is b"" for the entry its node-port traffic uses."""

    client: Address
    frontend: Frontend
    backend: Backend
    expires_in_s: float
    timeout_s: float


class Refusal(NamedTuple):
    """What rows do with new flows to an address that no frontend catches: "reject" or "drop", and why in a sentence."""

    action: str
    why: str


class Draining(NamedTuple):
    """
    An endpoint that takes no new flows of a frontend and keeps those it has (contract section 13).

    Args:
        for_s: how long it has been so, seconds. active, inactive: connections it still has.
    """

    frontend: Frontend
    backend: Backend
    for_s: float
    active: int
    inactive: int


Listed = Callable[[Frontend, Backend], bool]
"""Tells whether an endpoint is still in a slice of the Service that owns a frontend, whatever its conditions."""


class Observed(NamedTuple):
    """
    What the kernel holds of ours.

    Args:
        rows: every row kpx owns.
        differences: sentences about what is not a row: a missing or edited rule of the skeleton. Empty when it is intact
            or when nothing of kpx is there (`present` False).
    """

    rows: Rows
    differences: tuple[str, ...] = ()
    present: bool = True


class Dataplane(Protocol):
    """
    How desired state becomes kernel rows, and back.

    Attributes:
        audit_every_s: how often `audit` is wanted, seconds; None where the kernel tells of everything.
    """

    name: str
    audit_every_s: float | None

    def render_service(self, program: ServiceProgram, facts: NodeFacts) -> Rows:
        """Return the rows of one Service; a function of its arguments alone. Pure."""

    def render_node(self, facts: NodeFacts, cidrs: Iterable[ServiceCIDR]) -> Rows:
        """Return the rows that belong to the node and not to any Service. Pure."""

    def frontends_of(self, rows: Rows) -> list[KernelFrontend]:
        """Read rows back as frontends, sorted; the inverse of rendering as far as rows can say. Pure."""

    def refusal_of(self, rows: Rows, destination: Address, host: Collection[Address]) -> Refusal | None:
        """
        Tell whether rows refuse new flows to an address that no frontend catches (R5, R6); None leaves them alone. Pure.

        `host` is all addresses of this host, which are never refused.
        """

    def hooks(self, rows: Rows, facts: NodeFacts, host: Collection[Address]) -> Iterable[Hook]:
        """
        Return what rows, and the rules they rely on, do to packets at each hook of the kernel, for `kpx.dataplanes.way`. Pure.

        `host` is all addresses of this host.
        """

    def row_command(self, table: Table, key: Key, value: Value) -> str:
        """Return the command a person would type to add the row. Pure."""

    def row_frontend(self, table: Table, key: Key) -> Frontend | None:
        """Return the frontend a row belongs to, None for rows that several share. Pure."""

    def prepare(self, facts: NodeFacts) -> list[str]:
        """
        Make the constant part of the data plane exist and be right; idempotent, no write when it already is.

        Returns a sentence for each thing that had to be made or mended. Rows survive whenever their tables' types do.
        """

    def expect(self, facts: NodeFacts) -> None:
        """Let `observe` compare the constant part with what it must be on this node; nothing is written."""

    def observe(self) -> Observed:
        """Read back everything kpx owns; the only dump there is."""

    def apply(self, plan: Plan) -> Outcome:
        """Carry the plan out, each family atomically; a row the kernel refuses is reported and does not stop the others."""

    def forget_affinity(self, gone: Callable[[AffinityEntry], bool]) -> int:
        """Delete the affinity entries for which `gone` holds (A4); return how many there were."""

    def affinity(self) -> list[AffinityEntry]:
        """Return the live affinity entries, sorted."""

    def missing_schedulers(self, names: Collection[str]) -> frozenset[str]:
        """Return those of the schedulers that this kernel does not have; none where nothing is scheduled by name."""

    def draining(self) -> list[Draining]:
        """Return the endpoints that drain, sorted; none where connections live on by themselves."""

    def draining_count(self) -> int:
        """Return how many endpoints are known to drain, without asking the kernel; may be called from other threads."""

    def deadline(self) -> float | None:
        """Return when `tend` wants to be called, monotonic seconds; None when there is nothing to tend."""

    def tend(self, listed: Listed) -> int:
        """Do what is due: delete endpoints that have drained, and return how many; `touched` is to be asked afterwards."""

    def audit(self, counts: Mapping[Table, int], sample: Rows) -> list[str]:
        """
        Look whether others touched what the kernel tells nobody of; return a sentence for each difference.

        Args:
            counts: how many rows each table is known to have. sample: all rows of some Services, compared one by one.
        """

    def retire(self, facts: NodeFacts) -> float | None:
        """
        Hand over to another data plane that is in place: take no new flows, let those that live on end, then remove the rest.

        Idempotent. Returns in how many seconds it wants to be called again, None when nothing of this data plane is left.
        """

    def cleanup(self) -> list[str]:
        """Remove everything kpx owns and nothing else; idempotent; return a sentence for each thing removed."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when somebody may have touched what is ours."""

    def touched(self) -> Collection[str]:
        """Drain the notifications: sentences about what others did to our objects; empty when it was none of ours."""

    def close(self) -> None:
        """Close sockets; forwarding stays as it is."""
