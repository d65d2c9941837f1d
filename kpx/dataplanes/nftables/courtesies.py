"""
Two settings that are about no frontend: pings to addresses of Services, and packets that fit no flow.

*Pings.* Nobody has a Service's address, so nobody answers pings to it (R5). With `--answer-ping` they are translated to this
node's own address, and its stack answers in the name of the Service.

*Strays.* A packet that connection tracking finds invalid (a segment outside of the window, say) belongs to no flow, so nobody
translates it. An endpoint's goes to the client under the endpoint's own address, or, where the client was masqueraded, to this
node; either knows no such connection and resets it, and what it resets is the client's connection as the endpoint sees it
(kubernetes/kubernetes#74839). With `--drop-invalid` such packets are dropped when they come from an endpoint and its port, or go
to a ClusterIP. That is as narrow as it can be told: where answers take another way than questions, all that this node sees of a
flow may look invalid (#117924).
"""

from __future__ import annotations

import sys

from kpx.dataplanes.nftables.rules import Chain, Rule, Words
from kpx.dataplanes.nftables.schema import NFPROTOS, ROWS, service_tail
from kpx.kernel.wire import nft_expression as x
from kpx.kernel.wire.nft import NF_DROP, NFT_GOTO
from kpx.model.addresses import Family, family_of
from kpx.model.facts import NodeFacts
from kpx.model.names import Protocol
from kpx.policy.desired import ServiceProgram
from kpx.reconcile.rows import Rows

INVALID = x.CT_STATE_INVALID_BIT.to_bytes(4, sys.byteorder)
LOCAL = x.RTN_LOCAL.to_bytes(4, sys.byteorder)
ECHO_REQUEST = {Family.IPV4: (1, 8), Family.IPV6: (58, 128)}
"""ICMP of the family and its type of a ping."""


def pings(facts: NodeFacts, family: Family) -> tuple[Rule, ...]:
    """Return the rule that translates pings to this node's address; none when it has no address of the family."""
    here = next((address for address in facts.node_ips if family_of(address) == family), None)
    if not facts.answer_ping or here is None:
        return ()
    w = Words(family)
    protocol, kind = ECHO_REQUEST[family]
    ping = (
        w.protocol(0),
        x.compare(x.CMP_EQ, bytes((protocol,)), 0),
        x.payload(x.PAYLOAD_TRANSPORT, 0, 1, 0),
        x.compare(x.CMP_EQ, bytes((kind,)), 0),
    )
    asked = (w.destination(0), x.in_set("pingable", 0), x.fib_type(x.FIB_F_DADDR, 0), x.compare(x.CMP_NEQ, LOCAL, 0))
    return (Rule("pings to a Service", (*ping, *asked, x.load(here, 0), x.dnat_address(NFPROTOS[family], 0))),)


def strays(facts: NodeFacts, family: Family) -> tuple[Chain, ...]:
    """Return the chain that drops what fits no flow and would otherwise go where it cannot belong."""
    if not facts.drop_invalid:
        return ()
    w = Words(family)
    from_server = (w.source(0), w.protocol(w.width), w.source_port(w.width + 1), x.in_set("servers", 0))
    rules = (
        Rule("what an endpoint says in no flow", (*from_server, x.verdict(NF_DROP))),
        Rule("what a ClusterIP is told in no flow", (w.destination(0), x.in_set("cluster-ips", 0), x.verdict(NF_DROP))),
    )
    return (Chain("strays", rules),)


def way_to_strays(facts: NodeFacts) -> tuple[Rule, ...]:
    """
    Return the rule that sends packets of no flow to the chain of `strays`.

    It stands in the hooks that new flows have a rule in anyway: a hook of its own would cost every packet of the host.
    """
    invalid = (x.ct(x.CT_STATE, 0), x.mask(INVALID, 0), x.compare(x.CMP_NEQ, bytes(4), 0))
    return (Rule("packets of no flow", (*invalid, x.verdict(NFT_GOTO, "strays"))),) if facts.drop_invalid else ()


def render(program: ServiceProgram, facts: NodeFacts) -> Rows:
    """
    Return the rows these settings need of a Service, whoever carries its frontends.

    Strays are dropped of all endpoints that are listed, since a flow may outlive its endpoint's place in a pool. UDP has no state
    that a packet could fail to fit.
    """
    rows: Rows = {}
    if facts.drop_invalid:
        for port in program.ports:
            protocol = port.name.protocol
            if port.listed and protocol is not Protocol.UDP:
                servers = rows.setdefault(ROWS[port.family, "servers"], {})
                servers.update(dict.fromkeys([address + service_tail(protocol, number) for address, number in port.listed], b""))
    if facts.answer_ping:
        for address in {*program.cluster_ips, *(one.frontend.address for _, one in program.frontends())}:
            if address:
                rows.setdefault(ROWS[family_of(address), "pingable"], {})[address] = b""
    return rows
