"""
The constant rules: what every packet of a new flow walks through, however many Services there are.

They depend on settings of the node (which addresses answer on node ports, how pods are told from others) and on nothing else.
Each chain is a row (see `schema.CHAINS`), so that drift in a rule is a difference like any other. The packet's way is drawn in
`docs/dataplane-nftables.md`.
"""

from __future__ import annotations

import sys

from kpx.dataplanes.nftables import courtesies
from kpx.dataplanes.nftables.rules import Chain, Rule, Words
from kpx.dataplanes.nftables.schema import NFPROTOS
from kpx.kernel.wire import nft_expression as x
from kpx.kernel.wire.nft import NF_DROP, NFT_GOTO, NFT_JUMP, NFT_RETURN, BaseHook
from kpx.model.addresses import Family
from kpx.model.facts import DetectLocal, LocalDetector, NodeFacts

DSTNAT, FILTER, SRCNAT = -100, 0, 100
RTN_LOCAL = x.RTN_LOCAL.to_bytes(4, sys.byteorder)
NEW = x.CT_STATE_NEW_BIT.to_bytes(4, sys.byteorder)
DNATED = x.CT_STATUS_DNAT_BIT.to_bytes(4, sys.byteorder)
ZERO = bytes(4)
POD_CLIENT_MS = 60_000
"""How long a client counts as a pod after its last new flow came by the interface of pods; it needs to last one packet."""

HOOKS = {
    "prerouting": BaseHook("nat", "prerouting", DSTNAT),
    "output": BaseHook("nat", "output", DSTNAT),
    "postrouting": BaseHook("nat", "postrouting", SRCNAT),
    "filter-input": BaseHook("filter", "input", FILTER),
    "filter-forward": BaseHook("filter", "forward", FILTER),
    "filter-output": BaseHook("filter", "output", FILTER),
}
"""The base chains, by name."""


def skeleton(facts: NodeFacts, family: Family) -> tuple[Chain, ...]:
    """Return the constant chains of a family, those that are jumped to first."""
    return (
        *_masquerading(facts, family),
        *_by_source(facts.local_detector, family),
        *_forwarding(facts, family),
        *_refusing(facts, family),
        *courtesies.strays(facts, family),
        *_entrances(facts),
    )


def _entrances(facts: NodeFacts) -> tuple[Chain, ...]:
    strays = courtesies.way_to_strays(facts)

    def entrance(name: str, target: str, *conditions: bytes, words: str, behind: tuple[Rule, ...] = ()) -> Chain:
        return Chain(name, (Rule(words, (*conditions, x.verdict(NFT_GOTO, target))), *behind), HOOKS[name])

    new = (x.ct(x.CT_STATE, 0), x.mask(NEW, 0), x.compare(x.CMP_NEQ, ZERO, 0))
    dnated = (x.ct(x.CT_STATUS, 0), x.mask(DNATED, 0), x.compare(x.CMP_NEQ, ZERO, 0))
    # What this host sends to itself has passed postrouting, maybe as somebody else.
    came_in = (x.meta(x.META_IIFNAME, 0), x.compare(x.CMP_NEQ, b"lo".ljust(16, b"\0"), 0))
    remembered = Rule("flows to an endpoint of this host", (*new, *dnated, *came_in, x.verdict(NFT_JUMP, "remembering")))
    refused_here = Rule("new flows to this host", (*new, x.verdict(NFT_GOTO, "refusing-input")))
    return (
        entrance("prerouting", "forwarding", words="packets that come in"),
        entrance("output", "forwarding", words="packets of this host"),
        entrance("postrouting", "masquerading", *dnated, words="flows sent to an endpoint"),
        Chain("filter-input", (remembered, refused_here, *strays), HOOKS["filter-input"]),
        entrance("filter-forward", "refusing", *new, words="new flows through this host", behind=strays),
        entrance("filter-output", "refusing", *new, words="new flows of this host", behind=strays),
    )


def _node_port_condition(facts: NodeFacts, family: Family) -> tuple[bytes, ...]:
    """Match addresses that answer on node ports: any local one but loopback, or the listed ones (N1, N4)."""
    w = Words(family)
    if family not in facts.node_port_any:
        return (w.destination(0), x.in_set("node-addresses", 0))
    local = (x.fib_type(x.FIB_F_DADDR, 0), x.compare(x.CMP_EQ, RTN_LOCAL, 0))
    if family == Family.IPV4:
        loopback = x.payload(x.PAYLOAD_NETWORK, w.destination_offset, 1, 0)
        return (*local, loopback, x.compare(x.CMP_NEQ, b"\x7f", 0))
    return (*local, w.destination(0), x.compare(x.CMP_NEQ, bytes(15) + b"\x01", 0))


def _forwarding(facts: NodeFacts, family: Family) -> tuple[Chain, ...]:
    w = Words(family)
    # An exact frontend wins over a node port, also one that has no endpoints (V12).
    exact = (*w.frontend(), x.in_set("refused", 0, inverted=True))
    inside = Rule("the choice of a frontend that only some sources may use", (*w.frontend(), x.map_verdict("ranged", 0)))
    return (
        Chain("ranged-choice", (inside,)),
        Chain(
            "forwarding",
            (
                _taken_by_ipvs(facts),
                *_learning_rules(facts.local_detector, family),
                Rule("an address and port of a Service", (*w.frontend(), x.map_verdict("frontends", 0))),
                Rule(
                    "a node port of a Service",
                    (*_node_port_condition(facts, family), *exact, *w.node_port(), x.map_verdict("nodeports", 0)),
                ),
                *courtesies.pings(facts, family),
            ),
        ),
    )


def _by_source(detector: LocalDetector, family: Family) -> tuple[Chain, ...]:
    """Tell pods and this host from everybody else, for frontends that do not lead all to the same endpoints (M8-M12)."""
    w = Words(family)
    chains = []
    for prefix, maps, key in (("", "frontends", w.frontend()), ("nodeport-", "nodeports", w.node_port())):
        inside = x.verdict(NFT_GOTO, f"{prefix}from-inside")
        by_host = Rule("this host", (*_from_this_host(), inside))
        pods = Rule("pods", (*_from_pods(detector, family), inside))
        others = Rule("everybody else", (*key, x.map_verdict(f"{maps}-outside", 0)))
        chains += [
            Chain(f"{prefix}from-inside", (Rule("pods and this host", (*key, x.map_verdict(f"{maps}-inside", 0))),)),
            Chain(f"{prefix}by-host", (by_host, others)),
            Chain(f"{prefix}by-source", (pods, by_host, others)),
        ]
    return tuple(chains)


def _from_this_host() -> tuple[bytes, ...]:
    """Match what has an address of this host as source (M10)."""
    return (x.fib_type(x.FIB_F_SADDR, 0), x.compare(x.CMP_EQ, RTN_LOCAL, 0))


def _from_pods(detector: LocalDetector, family: Family) -> tuple[bytes, ...]:
    """Match, on the way in, what comes from pods (6.3)."""
    if not detector.by_interface:
        return (Words(family).source(0), x.in_set("pod-sources", 0))
    name = detector.interface.encode()
    whole = name if detector.mode is DetectLocal.INTERFACE_NAME_PREFIX else name.ljust(16, b"\0")
    return (x.meta(x.META_IIFNAME, 0), x.compare(x.CMP_EQ, whole, 0))


def _taken_by_ipvs(facts: NodeFacts) -> Rule:
    """
    Leave alone what the ipvs data plane has steered to a virtual server.

    While a host moves from one data plane to the other both are in place, and exactly one may translate a flow. Which one, the
    lower of our mark bits says; nobody sets it unless the ipvs data plane is there.
    """
    steer = (facts.mark_bits & -facts.mark_bits).to_bytes(4, sys.byteorder)
    marked = (x.meta(x.META_MARK, 0), x.mask(steer, 0), x.compare(x.CMP_NEQ, ZERO, 0))
    return Rule("packets that the ipvs data plane takes", (*marked, x.verdict(NFT_RETURN)))


def _refusing(facts: NodeFacts, family: Family) -> tuple[Chain, ...]:
    w = Words(family)
    refuse = Chain("refuse", (Rule("at once, with port unreachable", (x.reject(NFPROTOS[family]),)),))
    to_refuse = x.verdict(NFT_GOTO, "refuse")
    without_endpoints = Rule("a frontend without endpoints", (*w.frontend(), x.in_set("refused", 0), to_refuse))
    node_port = Rule(
        "a node port without endpoints",
        (*_node_port_condition(facts, family), *w.node_port(), x.in_set("nodeport-refused", 0), to_refuse),
    )
    foreign = (x.fib_type(x.FIB_F_DADDR, 0), x.compare(x.CMP_NEQ, RTN_LOCAL, 0))
    unknown_port = Rule(
        "a port that a ClusterIP does not have",
        (w.destination(0), x.in_set("cluster-ips", 0), *foreign, to_refuse),
    )
    unowned = Rule(
        "a Service address that nobody owns",
        (
            w.destination(0),
            x.in_set("service-cidrs", 0),
            x.in_set("captured", 0, inverted=True),
            *foreign,
            x.verdict(NF_DROP),
        ),
    )
    return (
        refuse,
        Chain("refusing", (without_endpoints, unknown_port, unowned)),
        # What ipvs has taken is for an exact frontend there, if it is for a node port here (V12).
        Chain("refusing-input", (_taken_by_ipvs(facts), without_endpoints, node_port)),
    )


def _masquerading(facts: NodeFacts, family: Family) -> tuple[Chain, ...]:
    w = Words(family)
    pair = (w.source(0), w.destination(w.width), x.in_set("hairpin", 0))
    always = Chain("masquerade-always", (Rule("the client's address becomes this node's", (x.masquerade(),)),))
    hairpin = Chain("masquerade-hairpin", (Rule("only an endpoint that reaches itself", (*pair, x.masquerade())),))
    unless_pod = Chain(
        "masquerade-unless-pod",
        (*_pod_rules(facts.local_detector, family), Rule("clients that are not pods", (x.masquerade(),))),
    )
    only_host = Chain(
        "masquerade-host",
        (
            *_pod_rules(facts.local_detector, family),
            Rule("this host", (*_from_this_host(), x.masquerade())),
            Rule("everybody else", (x.verdict(NFT_GOTO, "masquerade-hairpin"),)),
        ),
    )
    original = w.original_frontend()
    exact = (w.protocol(0), w.original_port(1), w.destination(2), w.port(2 + w.width))
    port_sticky = Rule("session affinity", (*exact, x.map_verdict("nodeport-sticky", 0)))
    port_masquerade = Chain(
        "nodeport-masquerade-always", (port_sticky, Rule("the client's address becomes this node's", (x.masquerade(),)))
    )
    port_only_host = Chain(
        "nodeport-masquerade-host", (port_sticky, Rule("this host only", (x.verdict(NFT_GOTO, "masquerade-host"),)))
    )
    masquerading = Chain(
        "masquerading",
        (
            Rule("by the frontend that was asked", (*original, x.map_verdict("masquerades", 0))),
            Rule(
                "a frontend whose clients keep their address",
                (*original, x.in_set("keeping", 0), x.verdict(NFT_GOTO, "sticky-host")),
            ),
            Rule("by the node port that was asked", (*exact, x.map_verdict("nodeport-masquerades", 0))),
            Rule(
                "a node port whose clients keep their address",
                (*exact, x.in_set("nodeport-keeping", 0), x.verdict(NFT_GOTO, "nodeport-masquerade-host")),
            ),
        ),
    )
    sticky = Rule("session affinity", (*original, x.map_verdict("sticky", 0)))
    masquerades = (always, hairpin, unless_pod, only_host)
    return (
        *masquerades,
        *(_after(sticky, chain) for chain in masquerades),
        port_masquerade,
        port_only_host,
        masquerading,
        _remembering(family),
    )


def _after(sticky: Rule, chain: Chain) -> Chain:
    """Return the chain that frontends with session affinity go to in the place of a `masquerade-` one; others ask for none."""
    name = chain.name.replace("masquerade-", "sticky-")
    return Chain(name, (sticky, Rule("and whose address is replaced", (x.verdict(NFT_GOTO, chain.name),))))


def _remembering(family: Family) -> Chain:
    """Record affinity of flows to endpoints that have an address of this host: they never pass postrouting."""
    w = Words(family)
    exact = (w.protocol(0), w.original_port(1), w.destination(2), w.port(2 + w.width))
    # A verdict map cannot be asked whether it has a key, but a frontend with endpoints has one in slot 0. The comparison, true of
    # any endpoint, is for the listing: nft leaves out a map whose answer nobody uses.
    slot = (x.random_below(1, w.width + 2), x.map_value("endpoints", 0, 0), x.compare(x.CMP_NEQ, bytes(min(w.bytes + 4, 16)), 0))
    is_exact = (*w.original_frontend(), *slot)
    return Chain(
        "remembering",
        (
            Rule("session affinity", (*w.original_frontend(), x.map_verdict("sticky", 0))),
            Rule("no node port, though it may have the number of one", (*is_exact, x.verdict(NFT_RETURN))),
            Rule("session affinity of a node port", (*exact, x.map_verdict("nodeport-sticky", 0))),
        ),
    )


def _pod_rules(detector: LocalDetector, family: Family) -> tuple[Rule, ...]:
    """Let pods keep their address (M1) unless they reach themselves; who is a pod, the detector says (6.3)."""
    name, words = ("pod-clients", "pods, seen coming in") if detector.by_interface else ("pod-sources", "pods, by their address")
    return (Rule(words, (Words(family).source(0), x.in_set(name, 0), x.verdict(NFT_GOTO, "masquerade-hairpin"))),)


def _learning_rules(detector: LocalDetector, family: Family) -> tuple[Rule, ...]:
    """
    Remember, on the way in, which clients come by the interface of pods.

    At postrouting the incoming interface may be gone: with br_netfilter a flow between two pods of one bridge is bridged after
    its destination was translated, and passes there without one (net/bridge/br_netfilter_hooks.c, br_nf_post_routing).
    """
    if not detector.by_interface:
        return ()
    learn = (Words(family).source(0), x.update_set("pod-clients", 0, POD_CLIENT_MS))
    return (Rule("pods, by their interface", (*_from_pods(detector, family), *learn)),)
