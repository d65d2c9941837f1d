"""
What the kernel holds of kpx, as other people's tools see it: nft, ipvsadm, ipset, iptables-save and ip.

Texts are made comparable: equal texts mean that forwarding is equal, whatever was counted, hashed or timed in between.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Protocol

from tests.lab.features import has
from tests.lab.netns import Namespace
from tests.lab.ruleset import assert_lists_cleanly, generation, nft

ROUTING_TABLE = "27504"
THEIR_ADDRESS = "198.51.100.200"
"""The address all foreign virtual servers of the lab have."""

_NFTABLES_OF_OTHERS = """
table ip kpx-not {
  set addresses { type ipv4_addr; elements = { 192.0.2.1 } }
  chain input {
    type filter hook input priority 10; policy accept;
    ip saddr @addresses counter accept comment "not ours"
  }
}
table inet firewall {
  chain forward { type filter hook forward priority 10; policy accept; }
}
"""
_IPTABLES_OF_OTHERS = {
    "filter": "-N THEIRS\n-A THEIRS -s 192.0.2.1/32 -j ACCEPT\n-A INPUT -j THEIRS\n",
    "nat": "-A PREROUTING -d 198.51.100.201/32 -j ACCEPT\n-A POSTROUTING -s 198.51.100.202/32 -j MASQUERADE\n",
    "mangle": "-A PREROUTING -d 198.51.100.203/32 -j MARK --set-xmark 0x40/0x40\n",
}
_SETS_OF_OTHERS = """create THEIRS hash:ip,port
add THEIRS 192.0.2.1,tcp:80
create NOT-KPX-FRONTENDS hash:net
add NOT-KPX-FRONTENDS 192.0.2.0/24
"""
_SERVERS_OF_OTHERS = f"""-A -t {THEIR_ADDRESS}:80 -s wlc
-a -t {THEIR_ADDRESS}:80 -r 10.244.1.1:8080 -m -w 7
-a -t {THEIR_ADDRESS}:80 -r 10.244.2.1:8080 -m -w 0
-A -u {THEIR_ADDRESS}:53 -s rr -p 300
-A -f 77 -s rr
-a -f 77 -r 10.244.1.1:0 -m -w 1
"""


class Holdings(Protocol):
    """How to look at the kernel's objects of one data plane."""

    def ours(self, namespace: Namespace) -> str:
        """All objects of kpx as text, "" when there is none."""

    def version(self, namespace: Namespace) -> object:
        """Something that is another one after every write of the data plane, as far as a kernel lets it be seen."""

    def plant(self, namespace: Namespace) -> None:
        """Make objects that belong to somebody else."""

    def theirs(self, namespace: Namespace) -> str:
        """The objects of others, as `plant` made them."""


class NftablesHoldings:
    """Tables `ip kpx` and `ip6 kpx`."""

    def ours(self, namespace: Namespace) -> str:
        """Both tables as nft lists them; the whole ruleset must list cleanly."""
        if not has("nf_tables"):
            return ""
        if not any(iptables_rules(namespace)):
            # Of rules that iptables made nft may complain that it has no words for them.
            assert_lists_cleanly(namespace)
        tables = (namespace.run("nft", "list", "table", family, "kpx", check=False).stdout for family in ("ip", "ip6"))
        return "".join(tables)

    def version(self, namespace: Namespace) -> object:
        """The generation of the ruleset: every write adds one."""
        return generation(namespace)

    def plant(self, namespace: Namespace) -> None:
        """Two tables, one with a name that is nearly ours."""
        nft(namespace, "-f", "-", stdin=_NFTABLES_OF_OTHERS)

    def theirs(self, namespace: Namespace) -> str:
        """The two tables."""
        return nft(namespace, "list", "table", "ip", "kpx-not") + nft(namespace, "list", "table", "inet", "firewall")


class IpvsHoldings:
    """Virtual servers, sets, chains, rules and routes."""

    def ours(self, namespace: Namespace) -> str:
        """Everything of kpx that the data plane is made of, a line each."""
        return "\n".join(line for line, is_ours in _ipvs_lines(namespace) if is_ours)

    def version(self, namespace: Namespace) -> object:
        """
        All of `ours`, and the generation of the ruleset where iptables is made of nf_tables.

        IPVS and ipset count nothing: that a row was written again with the value it had cannot be seen.
        """
        return self.ours(namespace), generation(namespace) if has("nf_tables") else 0

    def plant(self, namespace: Namespace) -> None:
        """Virtual servers by address and by mark, sets, rules of every table, a policy route, and tables of nftables."""
        if has("nf_tables"):
            NftablesHoldings().plant(namespace)
        namespace.run("ipvsadm", "-R", stdin=_SERVERS_OF_OTHERS)
        namespace.run("ipset", "restore", stdin=_SETS_OF_OTHERS)
        text = "".join(f"*{table}\n{rules}COMMIT\n" for table, rules in _IPTABLES_OF_OTHERS.items())
        namespace.run("iptables-restore", "--noflush", stdin=text)
        namespace.ip("rule add priority 1024 fwmark 0x40/0x40 lookup 100", "route add blackhole 198.51.100.204/32 table 100")

    def theirs(self, namespace: Namespace) -> str:
        """All of the same kinds that is not ours."""
        lines = [line for line, is_ours in _ipvs_lines(namespace) if not is_ours]
        tables = [NftablesHoldings().theirs(namespace)] if has("nf_tables") else []
        return "\n".join([*lines, *tables])


HOLDINGS: dict[str, Holdings] = {"nftables": NftablesHoldings(), "ipvs": IpvsHoldings()}


def left_behind(namespace: Namespace) -> str:
    """Everything of kpx that is in the kernel, of whatever data plane; "" is what a cleanup must leave."""
    return "".join(each.ours(namespace) for each in HOLDINGS.values())


def virtual_servers(namespace: Namespace) -> list[str]:
    """All virtual servers and destinations, a line each, in an order that means nothing; [] on a kernel without IPVS."""
    return sorted(namespace.run("ipvsadm", "-S", "-n").stdout.splitlines()) if has("ip_vs") else []


def sets(namespace: Namespace) -> list[str]:
    """
    All sets and elements as `ipset save` writes them, sorted; [] on a kernel without sets.

    Sizes of hashes, seeds and running times are left out.
    """
    if not has("ip_set"):
        return []
    lines = namespace.run("ipset", "save").stdout.splitlines()
    passing = {"create": r" (hashsize|bucketsize|initval) \S+", "add": r" timeout \S+"}
    return sorted(re.sub(passing[line.split()[0]], "", line) for line in lines)


def iptables_rules(namespace: Namespace) -> Iterator[str]:
    """
    Chains and rules of both families as iptables-save writes them, with program and table in front.

    Counters are left out, and so are built-in chains that accept, which come with the first rule of anybody.
    """
    for program in ("iptables", "ip6tables") if has("iptables") else ():
        table = ""
        for line in namespace.run(f"{program}-save", check=False).stdout.splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith("-") or (line.startswith(":") and " ACCEPT " not in line):
                yield f"{program} -t {table} {line.partition(' [')[0]}"


def policy_routing(namespace: Namespace) -> Iterator[str]:
    """Rules of policy routing and the routes of tables that are not the usual ones."""
    for version in ("-4", "-6"):
        for line in namespace.run("ip", version, "rule").stdout.splitlines():
            yield f"ip {version} rule {' '.join(line.split())}"
        # One `ip` for all tables: starting programs is most of what a look takes.
        for line in namespace.run("ip", version, "route", "show", "table", "all").stdout.splitlines():
            words = line.split()
            table = words[words.index("table") + 1] if "table" in words else ""
            if table in (ROUTING_TABLE, "100"):
                yield f"ip {version} route {' '.join(words)}"


def _ipvs_lines(namespace: Namespace) -> Iterable[tuple[str, bool]]:
    """Every object of the kinds the ipvs data plane is made of, and whether it is kpx's."""
    for line in virtual_servers(namespace):
        yield line, THEIR_ADDRESS not in line and " -f " not in line
    for line in sets(namespace):
        yield line, line.split()[1].startswith(("KPX-", "KPX6-"))
    for line in iptables_rules(namespace):
        yield line, "KPX" in line
    for line in policy_routing(namespace):
        yield line, ROUTING_TABLE in line
