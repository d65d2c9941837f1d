"""What other people do to the kernel objects of a data plane: by accident, by habit, or to see what happens."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.lab.holdings import HOLDINGS, ROUTING_TABLE, sets, virtual_servers
from tests.lab.netns import Namespace
from tests.lab.ruleset import delete_element, listed, nft

Tamper = Callable[[Namespace], None]
POD = "10.244.1.9"
"""A client of the tests that tamper; `drop_everything_in_our_chains` shuts it out."""


def flush_table(namespace: Namespace) -> None:
    nft(namespace, "flush", "table", "ip", "kpx")


def delete_table(namespace: Namespace) -> None:
    nft(namespace, "delete", "table", "ip", "kpx")


def flush_ruleset(namespace: Namespace) -> None:
    nft(namespace, "flush", "ruleset")


def flush_every_map(namespace: Namespace) -> None:
    for each in listed(namespace, "ip", "map"):
        flush = {"flush": {"map": {key: each[key] for key in ("family", "table", "name")}}}
        nft(namespace, "-j", "-f", "-", stdin=json.dumps({"nftables": [flush]}))


def delete_first_rule_of_every_base_chain(namespace: Namespace) -> None:
    hooks = {chain["name"] for chain in listed(namespace, "ip", "chain") if "hook" in chain}
    for rule in listed(namespace, "ip", "rule"):
        if rule["chain"] in hooks:
            hooks.discard(rule["chain"])
            nft(namespace, "delete", "rule", "ip", "kpx", rule["chain"], "handle", str(rule["handle"]))


def delete_one_element_of_every_map(namespace: Namespace) -> None:
    for each in listed(namespace, "ip", "map"):
        if each.get("elem") and not each["name"].startswith("affinity"):
            delete_element(namespace, each)


def drop_everything_in_our_chains(namespace: Namespace) -> None:
    for chain in listed(namespace, "ip", "chain"):
        if "hook" in chain:
            nft(namespace, "insert", "rule", "ip", "kpx", chain["name"], "ip", "saddr", POD, "drop")


def delete_every_virtual_server_of_ours(namespace: Namespace) -> None:
    for line in HOLDINGS["ipvs"].ours(namespace).splitlines():
        if line.startswith("-A "):
            namespace.run("ipvsadm", "-D", *line.split()[1:3])


def delete_a_destination(namespace: Namespace) -> None:
    first = next(line for line in HOLDINGS["ipvs"].ours(namespace).splitlines() if line.startswith("-a -t 10.96.0.10:80"))
    namespace.run("ipvsadm", "-d", *first.split()[1:5])


def set_every_weight_to_zero(namespace: Namespace) -> None:
    for line in HOLDINGS["ipvs"].ours(namespace).splitlines():
        if line.startswith("-a "):
            namespace.run("ipvsadm", "-e", *line.split()[1:5], "-m", "-w", "0")


def change_a_scheduler(namespace: Namespace) -> None:
    namespace.run("ipvsadm", "-E", "-t", "10.96.0.10:80", "-s", "wlc")


def flush_ipvs_of_ours(namespace: Namespace) -> None:
    """All of IPVS goes and what others had comes back, as a careless restart of keepalived does it."""
    theirs = [line for line in virtual_servers(namespace) if line not in HOLDINGS["ipvs"].ours(namespace).splitlines()]
    namespace.run("ipvsadm", "-C")
    namespace.run("ipvsadm", "-R", stdin="\n".join(theirs) + "\n")


def flush_every_set_of_ours(namespace: Namespace) -> None:
    for name in sets_of_ours(namespace):
        namespace.run("ipset", "flush", name)


def flush_what_steers(namespace: Namespace) -> None:
    for name in ("KPX-FRONTENDS", "KPX-NODE-PORTS"):
        namespace.run("ipset", "flush", name)


def delete_one_element_of_every_set(namespace: Namespace) -> None:
    lines = [line for line in sets(namespace) if line.startswith("add KPX")]
    for line in {line.split()[1]: line for line in lines}.values():
        namespace.run("ipset", "del", *line.split()[1:3])


def add_elements_to_our_sets(namespace: Namespace) -> None:
    namespace.run("ipset", "add", "KPX-FRONTENDS", "10.96.0.77,tcp:80")
    namespace.run("ipset", "add", "KPX-CLUSTER-IPS", "10.96.0.78")


def flush_our_chains(namespace: Namespace) -> None:
    for table, chain in chains_of_ours(namespace):
        namespace.run("iptables", "-t", table, "-F", chain)


def delete_our_jumps(namespace: Namespace) -> None:
    for line in HOLDINGS["ipvs"].ours(namespace).splitlines():
        if line.startswith("iptables ") and " -A KPX" not in line and " -A " in line:
            program, _, table, _, *rule = line.split()
            namespace.run("sh", "-c", f"{program} -t {table} -D {' '.join(rule)}")


def flush_the_tables_of_iptables(namespace: Namespace) -> None:
    """
    As firewalld does when it starts, but for what the lab's other people have there.

    A table at a time and each at once, so that a repair in between finds whole tables, there or gone.
    """
    lines = [line.split(" ", 3) for line in HOLDINGS["ipvs"].ours(namespace).splitlines() if line.startswith("iptables ")]
    for table in dict.fromkeys(words[2] for words in lines):
        ours = [words[3] for words in lines if words[2] == table]
        chains = [line.split()[0][1:] for line in ours if line.startswith(":")]
        jumps = [line.replace("-A", "-D", 1) for line in ours if line.startswith("-A") and not line.startswith("-A KPX")]
        undo = [*jumps, *(f"-F {chain}" for chain in chains), *(f"-X {chain}" for chain in chains)]
        namespace.run("iptables-restore", "--noflush", stdin="\n".join((f"*{table}", *undo, "COMMIT", "")))


def delete_our_policy_route(namespace: Namespace) -> None:
    namespace.ip(f"rule del lookup {ROUTING_TABLE}", f"route flush table {ROUTING_TABLE}", version=4)


def sets_of_ours(namespace: Namespace) -> list[str]:
    """The names of our sets."""
    return [line.split()[1] for line in sets(namespace) if line.startswith("create KPX")]


def chains_of_ours(namespace: Namespace) -> list[tuple[str, str]]:
    """Table and name of our IPv4 chains, in an order in which they can be deleted once they are empty."""
    lines = [line.split() for line in HOLDINGS["ipvs"].ours(namespace).splitlines()]
    return [(words[2], words[3][1:]) for words in lines if words[0] == "iptables" and words[3].startswith(":KPX")]


BY_PLANE: dict[str, tuple[Tamper, ...]] = {
    "nftables": (
        flush_table, delete_table, flush_ruleset, flush_every_map, delete_first_rule_of_every_base_chain,
        delete_one_element_of_every_map, drop_everything_in_our_chains,
    ),
    "ipvs": (
        delete_every_virtual_server_of_ours, delete_a_destination, set_every_weight_to_zero, change_a_scheduler,
        flush_ipvs_of_ours, flush_what_steers, flush_every_set_of_ours, delete_one_element_of_every_set,
        add_elements_to_our_sets, flush_our_chains, delete_our_jumps, flush_the_tables_of_iptables, delete_our_policy_route,
    ),
}  # fmt: skip

BREAK: dict[str, Tamper] = {"nftables": flush_table, "ipvs": flush_what_steers}
"""What makes forwarding stop at once."""
