"""
Which of two data planes carries a frontend, where IPVS and nftables share a node (decision 0019). Pure.

A virtual server has one set of endpoints, whoever asks; what it remembers of a client it remembers for its own address alone;
and it keeps nobody out. A frontend that needs no more is *plain*, and IPVS carries it. Every other is carried by nftables.
"""

from __future__ import annotations

from msgspec import structs

from kpx.policy.desired import Action, FrontendProgram, PortProgram, ServiceProgram


def is_plain(frontend: FrontendProgram) -> bool:
    """
    Tell whether a virtual server is all a frontend needs.

    It is when all sources go to the same endpoints or are all refused, no client is remembered, and nobody is kept out (F1).
    Whether the client's address is kept may differ between pods and everybody else (M1-M3), no further.
    """
    if frontend.affinity_timeout_s is not None or frontend.source_ranges:
        return False
    pod, host, outside = frontend.pod, frontend.host, frontend.outside
    if host != outside or outside.action is Action.DROP:
        return False
    same_endpoints = pod.pool is outside.pool or pod.pool == outside.pool
    return pod.action is outside.action and same_endpoints and pod.masquerade <= outside.masquerade


def others(program: ServiceProgram) -> ServiceProgram | None:
    """
    Return the part of a Service that is not plain, None when all of it is.

    Its ClusterIPs are no part of it: that they have no other ports is said by who has the rest (R5).
    """
    for port in program.ports:
        for frontend in port.frontends:
            if not is_plain(frontend):
                return structs.replace(program, ports=tuple(map(_others_of_port, program.ports)), cluster_ips=())
    return None


def _others_of_port(port: PortProgram) -> PortProgram:
    return structs.replace(port, frontends=tuple(frontend for frontend in port.frontends if not is_plain(frontend)))
