"""
Which UDP flows the kernel must forget after a change (contract section 11).

A tracked flow keeps going where its first packet went, and a UDP flow with steady traffic never ends by itself. So once the
rows are in place, flows that lead to where nobody is any more are deleted, and their next packet is decided anew (U1). All
others stay: an endpoint that still serves keeps its flows, whatever became of policies, of other endpoints, or of kpx
itself (U6). TCP and SCTP are never touched (U7).

The rule is one table, frontend to *refuges*: the endpoints whose flows live on. With a serving endpoint these are all that are
serving, terminating ones included (U3). Without any they are all that are still listed: a flow to the last, dying endpoint
is let to finish, a flow to one that is gone is not (U4; kube-proxy 1.36 leaves that alone). A flow whose answers come from
anywhere else is stale. This covers flows from before the Service existed, which were never translated, since no endpoint has
the frontend's own address as its own (U5); and changed target ports, since address and port are compared (U8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kpx.kernel.wire.conntrack import Flow
from kpx.model.addresses import Address
from kpx.model.names import Protocol
from kpx.policy.desired import Backend, Frontend, PortProgram

Refuges = dict[tuple[int, bytes, int], frozenset[Backend]]
"""By family, address and port of a UDP frontend; the address of a node port is b""."""


def stale_flows(
    flows: Iterable[Flow],
    before: Iterable[PortProgram],
    after: Iterable[PortProgram],
    is_node_address: Callable[[Address], bool],
    former: Iterable[Frontend] = (),
) -> list[Flow]:
    """
    Return the flows to forget, in the order given.

    A frontend that passes from one Service to another is the other's (N10). A frontend that nobody has any more (Service or
    port deleted, address taken away) loses the flows that were translated; flows to the same address and port that were not
    are none of ours (U5). Equal programs before and after still find flows that should have gone earlier.

    Args:
        flows: as the kernel lists them, of any protocol and family.
        before: the ports of the changed Services as they were; empty at start.
        after: the same Services' ports as they are now, rows in place.
        is_node_address: tells whether a destination can be a node port; others with the same port number are strangers
            (U5).
        former: frontends found in the kernel at start, whose Services may have gone while nobody watched.
    """
    now = _refuges(after)
    then = _refuges(before).keys() | {_key(frontend) for frontend in former if frontend.protocol == Protocol.UDP}
    gone = then - now.keys()
    result = []
    for flow in flows:
        if flow.protocol != Protocol.UDP:
            continue
        key = (flow.family, flow.orig_dst, flow.orig_dport)
        if key not in now and key not in gone:
            key = (flow.family, b"", flow.orig_dport)
            if (key not in now and key not in gone) or not is_node_address(Address(flow.orig_dst)):
                continue
        refuges = now.get(key)
        if refuges is None:
            stale = (flow.reply_src, flow.reply_sport) != (flow.orig_dst, flow.orig_dport)
        else:
            stale = (flow.reply_src, flow.reply_sport) not in refuges
        if stale:
            result.append(flow)
    return result


def needs_flush(before: Iterable[PortProgram], after: Iterable[PortProgram]) -> bool:
    """
    Tell whether a change can have left stale flows behind, so that listing all flows is worth its price.

    It can when a UDP frontend came or went, or an endpoint stopped being a refuge of one. More endpoints alone, or
    endpoints that terminate while they serve, leave nothing behind. The first endpoint to serve a frontend should leave
    nothing behind either; but there a client kept on a flow that leads nowhere would wait longest, so it is looked (U8).
    """
    before, after = list(before), list(after)
    old, new = _refuges(before), _refuges(after)
    if old.keys() != new.keys() or any(old[key] - new[key] for key in new):
        return True
    return not _refuges(port for port in after if port.serving).keys() <= _refuges(port for port in before if port.serving).keys()


def refuges_of(port: PortProgram) -> tuple[Backend, ...]:
    """Return the endpoints of a port whose flows live on."""
    return port.serving or port.listed


def _refuges(ports: Iterable[PortProgram]) -> Refuges:
    result: Refuges = {}
    for port in ports:
        if port.name.protocol != Protocol.UDP:
            continue
        refuges = frozenset(refuges_of(port))
        for program in port.frontends:
            result[_key(program.frontend)] = refuges
    return result


def _key(frontend: Frontend) -> tuple[int, bytes, int]:
    return (int(frontend.family), frontend.address, frontend.port)
