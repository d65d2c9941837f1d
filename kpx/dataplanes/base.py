"""
The seam between the agent and a data plane: generic verbs on rows.

`render_*`, `frontends_of` and `commands` are pure. `observe`, `apply`, `cleanup` and the watch talk to the kernel. A data
plane holds no desired state of its own: what it is told to apply is a `Plan`, what it reports is rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, Protocol

from kpx.model.addresses import Address
from kpx.model.facts import NodeFacts
from kpx.model.node import ServiceCIDR
from kpx.policy.desired import Backend, Frontend, FrontendKind, ServiceProgram
from kpx.reconcile.plan import Outcome, Plan
from kpx.reconcile.rows import Key, Rows, Table, Value


class KernelFrontend(NamedTuple):
    """
    A frontend as rows say it: what `kpx get` shows and `kpx explain` walks.

    Args:
        kind: None when rows cannot tell an external IP from a load-balancer IP; then CLUSTER_IP or NODE_PORT only.
        action: "forward", "reject" or "drop".
        backends: in slot order.
        masquerade: "always", "unless-pod", "hairpin-only".
        affinity_timeout_s: None without session affinity.
    """

    frontend: Frontend
    kind: FrontendKind | None
    action: str
    backends: tuple[Backend, ...]
    masquerade: str
    affinity_timeout_s: int | None


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
    """How desired state becomes kernel rows, and back."""

    name: str

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

    def row_command(self, table: Table, key: Key, value: Value) -> str:
        """Return the command a person would type to add the row. Pure."""

    def row_frontend(self, table: Table, key: Key) -> Frontend | None:
        """Return the frontend a row belongs to, None for rows that several share. Pure."""

    def prepare(self, facts: NodeFacts) -> list[str]:
        """
        Make the constant part of the data plane exist and be right; idempotent, no write when it already is.

        Returns a sentence for each thing that had to be made or mended. Rows survive whenever their tables' types do.
        """

    def observe(self) -> Observed:
        """Read back everything kpx owns; the only dump there is."""

    def apply(self, plan: Plan) -> Outcome:
        """Carry the plan out, each family atomically; a row the kernel refuses is reported and does not stop the others."""

    def forget_affinity(self, gone: Callable[[AffinityEntry], bool]) -> int:
        """Delete the affinity entries for which `gone` holds (A4); return how many there were."""

    def affinity(self) -> list[AffinityEntry]:
        """Return the live affinity entries, sorted."""

    def cleanup(self) -> list[str]:
        """Remove everything kpx owns and nothing else; idempotent; return a sentence for each thing removed."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when somebody may have touched what is ours."""

    def touched(self) -> Collection[str]:
        """Drain the notifications: sentences about what others did to our objects; empty when it was none of ours."""

    def close(self) -> None:
        """Close sockets; forwarding stays as it is."""
