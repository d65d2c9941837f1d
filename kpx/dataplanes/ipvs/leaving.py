"""
Give way: hand over to another data plane without losing connections, and take everything away in the end.

A flow that IPVS translates is translated by IPVS to its end: connection tracking alone cannot go on with it. So when another data
plane takes over, new flows are no longer steered here from one moment to the next, and those that exist are, until none of them
is active. UDP flows have no end; they are forgotten at once, and their next packet is a new flow (U1).
"""

from __future__ import annotations

import time
from typing import Final

from kpx.dataplanes.ipvs import firewall, observe, rules
from kpx.dataplanes.ipvs.doors import Doors
from kpx.dataplanes.ipvs.draining import kernel_key
from kpx.dataplanes.ipvs.schema import PREFIXES, ROUTE_PRIORITY, ROUTE_TABLE, TABLES, read_server, set_name
from kpx.errors import KernelError
from kpx.kernel import routing
from kpx.kernel.conntrack import ConntrackFlows
from kpx.kernel.wire.ipvs import DEL_SERVER, server_message
from kpx.model.addresses import Family
from kpx.model.facts import NodeFacts
from kpx.model.names import Protocol
from kpx.reconcile.rows import Rows

LOOK_S: Final = 2.0
"""How often it is looked whether connections are left, seconds; a handshake takes less."""


class Leaving:
    """How far the handing over has come."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._since: float | None = None

    def step(self, facts: NodeFacts, rows: Rows, timeout_s: float) -> float | None:
        """
        Do the next thing: stop taking new flows, wait, remove.

        Returns:
            In how many seconds to call again, None when everything is removed.
        """
        now = time.monotonic()
        if self._since is None:
            for family in facts.families:
                self._restore(family, rules.chains(facts, family, retiring=True))
            self._forget_udp(rows)
            self._since = now
            return LOOK_S
        if now - self._since < timeout_s and self._any_active(rows):
            return LOOK_S
        self.remove(rows)
        return None

    def _restore(self, family: Family, chains: tuple[rules.Chain, ...]) -> None:
        held = firewall.saved(self._doors.iptables, family)
        if not firewall.our_chains(held.get("mangle", ())):
            return
        self._doors.iptables.restore(int(family), firewall.restoration(chains, held))

    def _forget_udp(self, rows: Rows) -> None:
        flows = ConntrackFlows(self._doors.netlink)
        for family in Family:
            servers = (read_server(family, key) for key in rows.get(TABLES[family, "servers"], {}) if isinstance(key, bytes))
            asked = {(s.address, s.port) for s in servers if s is not None and s.protocol is Protocol.UDP}
            if asked:
                flows.delete([flow for flow in flows.udp(int(family)) if (flow.orig_dst, flow.orig_dport) in asked])

    def _any_active(self, rows: Rows) -> bool:
        """Tell whether a virtual server of ours has an active connection that is not UDP."""
        for family in Family:
            for key in rows.get(TABLES[family, "virtual-servers"], {}):
                assert isinstance(key, bytes)
                server = kernel_key(family, key)
                if server.protocol != Protocol.UDP and any(s.active for _, s in self._doors.ipvs.destinations(server)):
                    return True
        return False

    def remove(self, rows: Rows) -> list[str]:
        """
        Remove everything of ours; idempotent, and what fails in one family stops nothing in the other.

        Steering goes first, so that no packet is for a virtual server that is gone (D22); the record of what is ours goes last,
        so that a run that is cut short can be run again (D27).
        """
        sentences: list[str] = []
        problems: list[KernelError] = []
        names = observe.present_sets(self._doors)
        for family in Family:
            try:
                sentences += self._remove_family(family, rows, names)
            except KernelError as error:
                problems.append(error)
        if problems:
            raise problems[0]
        return sentences

    def _remove_family(self, family: Family, rows: Rows, names: list[str]) -> list[str]:
        mine = [name for name in names if name.startswith(PREFIXES[family])]
        sentences = []
        for table in ("cluster-ips", "service-cidrs", "frontends", "node-ports"):
            if (name := set_name(family, table)) in mine:
                self._doors.sets.flush(name)
        if text := firewall.removal(firewall.saved(self._doors.iptables, family)):
            self._doors.iptables.restore(int(family), text)
            sentences.append(f"iptables chains KPX-* ({family})")
        sentences += routing.remove_table(int(family), ROUTE_PRIORITY, ROUTE_TABLE)
        servers = [key for key in rows.get(TABLES[family, "virtual-servers"], {}) if isinstance(key, bytes)]
        self._doors.ipvs.write([server_message(DEL_SERVER, kernel_key(family, key)) for key in servers])
        if servers:
            sentences.append(f"{len(servers)} virtual servers ({family})")
        record = set_name(family, "servers")
        for name in sorted(mine, key=lambda name: name == record):
            self._doors.sets.destroy(name)
        if mine:
            sentences.append(f"{len(mine)} ipsets ({family})")
        return sentences
