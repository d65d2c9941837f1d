"""
The iptables rules: a constant text for each family, whatever Services there are (ADR 0011).

All that varies is in the sets they ask. Two bits of the packet mark are ours (`--mark-bits`); no rule reads or writes another:
*steer*, the lower one, says that a packet is for a virtual server of ours and must be delivered here for IPVS to take it, though
its address is nobody's here (D3-D6); *masquerade* carries a decision from where a packet comes in, and the client and the
frontend can both be seen, to where it goes out, and neither can.

What a rule is, is told by its comment, which ends in a hash of its text: that is how a restarted process knows whether the rules
it finds are the ones it would write, in whatever way `iptables-save` spells them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from kpx.dataplanes.ipvs.schema import set_name
from kpx.model.addresses import Family
from kpx.model.facts import DetectLocal, LocalDetector, NodeFacts


class Chain(NamedTuple):
    """A chain of ours, its rules in words and in iptables' language, and the built-in chains that jump to it."""

    table: str
    name: str
    rules: tuple[tuple[str, str], ...]
    entered_from: tuple[str, ...] = ()


class Bits(NamedTuple):
    """Our two bits of the packet mark."""

    steer: int
    masquerade: int


TABLES: Final = ("mangle", "filter", "nat")


def mark_bits(facts: NodeFacts) -> Bits:
    """Split the setting: the lower bit steers, the upper one masquerades."""
    low = facts.mark_bits & -facts.mark_bits
    return Bits(low, facts.mark_bits ^ low)


def chains(facts: NodeFacts, family: Family, retiring: bool = False) -> tuple[Chain, ...]:
    """
    Return our chains, those that are jumped to first.

    Args:
        retiring: another data plane has taken over; only TCP and SCTP connections that exist are still steered.
    """
    writing = _Writing(facts, family)
    return (*writing.mangle(retiring), *writing.filter(), *writing.nat())


class _Writing:
    """The words the rules of one family are made of."""

    def __init__(self, facts: NodeFacts, family: Family) -> None:
        self.family = family
        self.detector = facts.local_detector
        bits = mark_bits(facts)
        self.steer, self.masquerade = f"{bits.steer:#x}", f"{bits.masquerade:#x}"
        self.icmp = "icmp" if family == Family.IPV4 else "ipv6-icmp"
        self.unreachable = "icmp-port-unreachable" if family == Family.IPV4 else "icmp6-port-unreachable"

    def to(self, table: str, direction: str, inverted: bool = False) -> str:
        return f"-m set {'! ' if inverted else ''}--match-set {set_name(self.family, table)} {direction}"

    def mark(self, bit: str) -> str:
        return f"-j MARK --set-xmark {bit}/{bit}"

    def unmark(self, bit: str) -> str:
        return f"-j MARK --set-xmark 0x0/{bit}"

    def marked(self, bit: str) -> str:
        return f"-m mark --mark {bit}/{bit}"

    def mangle(self, retiring: bool) -> Iterator[Chain]:
        new = "-m conntrack --ctstate NEW"
        yield Chain(
            "mangle",
            "KPX-STEER",
            (
                ("for a virtual server of kpx", self.mark(self.steer)),
                ("the rest is decided once a flow", "-m conntrack ! --ctstate NEW -j RETURN"),
                ("clients that are always masqueraded", f"{self.to('masq-all', 'dst,dst')} {self.mark(self.masquerade)}"),
                (
                    "clients that are not pods",
                    f"{self.to('masq-nonpod', 'dst,dst')}{self._not_a_pod()} {self.mark(self.masquerade)}",
                ),
            ),
        )
        steering = (
            ("flows that somebody else translates", "-m conntrack --ctstate DNAT -j RETURN"),
            # V12: nftables may carry a node port that has the number. Delivered here anyway, they are refused in KPX-INPUT.
            *(
                ()
                if retiring
                else (
                    (
                        "frontends without endpoints at addresses of this host",
                        f"{new} {self.to('refused', 'dst,dst')} -m addrtype --dst-type LOCAL {self.mark(self.steer)}",
                    ),
                )
            ),
            ("frontends without endpoints", f"{new} {self.to('refused', 'dst,dst')} -j RETURN"),
            *(
                (("new flows are for another data plane", f"{new} -j RETURN"), ("and so is UDP", "-p udp -j RETURN"))
                if retiring
                else ()
            ),
            (
                "what nftables carries, but for flows that began here",
                f"{new} ! --ctstatus CONFIRMED {self.to('by-nftables', 'dst,dst')} -j RETURN",
            ),
            ("frontends", f"{self.to('frontends', 'dst,dst')} -j KPX-STEER"),
            ("node ports", f"{self.to('node-ports', 'dst,dst')} -j KPX-STEER"),
        )
        errors = tuple(
            (
                f"ICMP errors about flows to {words}",
                f"-p {self.icmp} -m conntrack --ctstate RELATED {self.to(table, 'dst')} {self.mark(self.steer)}",
            )
            for table, words in (("cluster-ips", "ClusterIPs"), ("captured", "external addresses"))
        )
        yield Chain("mangle", "KPX-PREROUTING", (*steering, *errors), ("PREROUTING",))
        yield Chain("mangle", "KPX-TRANSLATED", self._translated())
        translated = ("IPVS has translated it", f"{self.marked(self.steer)} -g KPX-TRANSLATED")
        yield Chain("mangle", "KPX-OUTPUT", (translated, *steering), ("OUTPUT",))

    def _translated(self) -> tuple[tuple[str, str], ...]:
        """
        Take a packet that IPVS sends on to an endpoint out of our routing table.

        It passes the output hooks again, and connection tracking, seeing another destination than the flow began with, looks up
        its route anew (net/netfilter/nf_nat_proto.c, nf_nat_ipv4_local_fn), which must no longer end here.
        """
        hairpin = f"-m conntrack --ctstate NEW {self.to('hairpin', 'src,dst')} {self.mark(self.masquerade)}"
        return (("endpoints that reach themselves", hairpin), ("steering has done its work", self.unmark(self.steer)))

    def _not_a_pod(self) -> str:
        """Tell pods by where they come in, or by their address (6.3); what this host sends comes in nowhere."""
        if not self.detector.by_interface:
            return f" {self.to('pods', 'src', inverted=True)}"
        return f" ! -i {interface_pattern(self.detector)}"

    def filter(self) -> Iterator[Chain]:
        steered = self.marked(self.steer)
        refuse = f"-j REJECT --reject-with {self.unreachable}"
        without_endpoints = (
            "a frontend without endpoints",
            f"-m conntrack --ctstate NEW {self.to('refused', 'dst,dst')} {refuse}",
        )
        yield Chain(
            "filter",
            "KPX-INPUT",
            (
                without_endpoints,
                (
                    "a connection nobody knows is not for a process of this host",
                    f"-p tcp {steered} -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW"
                    " -j REJECT --reject-with tcp-reset",
                ),
                ("nor is what fits no connection", f"{steered} -m conntrack --ctstate INVALID -j DROP"),
            ),
            ("INPUT",),
        )
        unowned = f"{self.to('service-cidrs', 'dst')} {self.to('captured', 'dst', inverted=True)}"
        yield Chain(
            "filter",
            "KPX-REFUSE",
            (
                without_endpoints,
                ("only new flows are refused", "-m conntrack ! --ctstate NEW -j RETURN"),
                ("what nftables carries it also refuses", f"{self.to('by-nftables', 'dst,dst')} -j RETURN"),
                ("addresses of this host are its own", "-m addrtype --dst-type LOCAL -j RETURN"),
                (
                    "a port that a ClusterIP does not have",
                    f"{self.to('cluster-ips', 'dst')} {refuse}",
                ),
                ("a Service address that nobody owns", f"{unowned} -j DROP"),
            ),
            ("FORWARD", "OUTPUT"),
        )

    def nat(self) -> Iterator[Chain]:
        yield Chain(
            "nat",
            "KPX-MASQUERADE",
            (
                ("the bit has done its work", self.unmark(self.masquerade)),
                ("this node takes the place of the client", "-j MASQUERADE --random-fully"),
            ),
        )
        decided = f"{self.marked(self.masquerade)} -j KPX-MASQUERADE"
        yield Chain("nat", "KPX-POSTROUTING", (("as was decided on the way in", decided),), ("POSTROUTING",))


def interface_pattern(detector: LocalDetector) -> str:
    """Return the interface of pods as iptables takes it: a name, or a beginning and a plus sign."""
    return detector.interface + ("+" if detector.mode is DetectLocal.INTERFACE_NAME_PREFIX else "")


def comment(words: str, rule: str) -> str:
    """Return a rule's comment: words for people, and a hash of its text that tells whether it is as we would write it."""
    return f"kpx: {words} #{hashlib.blake2s(rule.encode(), digest_size=4).hexdigest()}"


def spelled(words: str, rule: str) -> str:
    """Return a rule with its comment, without the chain it is in."""
    return f'-m comment --comment "{comment(words, rule)}" {rule}'


def jump(chain: Chain) -> str:
    """Return the rule by which a built-in chain enters one of ours."""
    return spelled("docs/dataplane-ipvs.md", f"-j {chain.name}")
