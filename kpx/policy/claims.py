"""
Claims: two Services ask for one frontend, and exactly one of them gets it (V11).

The API lets any number of Services name the same external IP, and files may even repeat a ClusterIP or a node port. The
winner is the Service created first, then the one whose namespace/name sorts first, so every node gives the same answer
after any history.

What is claimed: a ClusterIP address as a whole (its other ports are refused, R5, so it cannot be shared); an external or
load-balancer IP per address, protocol and port (sharing such an address on different ports is legal); a node port per
protocol and port. A ClusterIP's own ports can be lost to an older Service that names them as external IP, and a Service that
lost a ClusterIP as a whole does not compete for its ports.

A claim on a node port says nothing of addresses, so it is never lost to one on an address of this node; but where both have the
same number, the exact one catches the packets (V12), and who has the node port must know on which addresses that is so.

`Claims` is a fold that is told of every Service. It exists because a change of one Service can make another one dirty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kpx.model.addresses import Address, Family, family_of
from kpx.model.names import ObjectName, Protocol
from kpx.model.service import Service
from kpx.policy.desired import Frontend

NODE_PORT_ADDRESS = Address(b"")


class Claim(NamedTuple):
    """
    What one Service can own.

    Args:
        address: b"" for a node port.
        protocol: None for a ClusterIP address as a whole; then `port` is 0.
        port: the Service's port, or the node port.
    """

    address: Address
    protocol: Protocol | None
    port: int


def claim_on(frontend: Frontend) -> Claim:
    """Return the claim that decides who owns a frontend."""
    return Claim(frontend.address, frontend.protocol, frontend.port)


def families_of(service: Service) -> frozenset[Family]:
    """Return the families a Service has a ClusterIP in; in others it does not exist (V1)."""
    return frozenset(family_of(address) for address in service.cluster_ips)


def claims_of(service: Service) -> frozenset[Claim]:
    """Return everything a Service asks for; nothing when it is skipped (S1, S4)."""
    if service.skipped:
        return frozenset()
    result = {Claim(address, None, 0) for address in service.cluster_ips}
    result.update(_shared_claims(service))
    for address in service.cluster_ips:
        result.update(_ports_on(service, address))
    return frozenset(result)


def _ports_on(service: Service, address: Address) -> Iterator[Claim]:
    return (Claim(address, port.protocol, port.port) for port in service.ports)


def _shared_claims(service: Service) -> Iterator[Claim]:
    """Yield the claims that are not backed by a ClusterIP: external and load-balancer IPs, node ports."""
    families = families_of(service)
    for addresses in (service.external_ips, service.load_balancer_ips):
        for address in addresses:
            if family_of(address) in families:
                yield from _ports_on(service, address)
    if families:
        for port in service.ports:
            if port.node_port:
                yield Claim(NODE_PORT_ADDRESS, port.protocol, port.node_port)


class Claims:
    """
    Who owns which frontend; the content is a function of the Services present, in whatever order they came.

    Only contested claims cost anything beyond one entry, and claims on the ports of a ClusterIP are not stored at all: they
    follow from the owner of the address.
    """

    def __init__(self) -> None:
        self._services: dict[ObjectName, Service] = {}
        self._claimants: dict[Claim, tuple[ObjectName, ...]] = {}
        self._ports: dict[int, int] = {}
        self._node_ports: dict[int, int] = {}
        """How often each number is a port and a node port: few are both, and only those can shadow or be shadowed (V12)."""

    def update(self, name: ObjectName, service: Service | None) -> frozenset[ObjectName]:
        """
        Take note of a Service as it is now, None when it is gone; idempotent.

        Returns:
            The other Services that won or lost something, lose it to somebody else than before, or have a node port whose
            number came to or left an address (V12): they are dirty.
        """
        old = self._services.get(name)
        if service is not None and service.skipped:
            service = None
        if old == service:
            return frozenset()
        touched = self._touched(old) | self._touched(service)
        shadowing = [
            claim for claim in touched if claim.port in self._node_ports and claim.address and claim.protocol is not None
        ]
        if not shadowing and not any(self._contested(claim, name) for claim in touched):
            self._replace(name, old, service)
            return frozenset()
        before = {claim: self.owner(claim) for claim in touched}
        dirty = {claim: self._contenders(claim) for claim in touched}
        self._replace(name, old, service)
        changed = [claim for claim in touched if self.owner(claim) != before[claim]]
        names = {contender for claim in changed for contender in (*dirty[claim], *self._contenders(claim))}
        moved = [claim for claim in shadowing if (before[claim] is None) != (self.owner(claim) is None)]
        names.update(owner for owner in map(self.owner, map(_node_port_of, moved)) if owner is not None)
        return frozenset(names - {name})

    def addresses_with(self, protocol: Protocol, number: int, addresses: Iterable[Address]) -> list[Address]:
        """Return those of `addresses` on which some Service has an exact frontend with a port number (V12)."""
        if number not in self._ports:
            return []
        return [address for address in addresses if self.owner(Claim(address, protocol, number)) is not None]

    def owner(self, claim: Claim) -> ObjectName | None:
        """Return the Service that owns a claim, None when nobody asks for it."""
        contenders = self._contenders(claim)
        if len(contenders) < 2:
            return contenders[0] if contenders else None
        return min(contenders, key=self._seniority)

    def _contested(self, claim: Claim, name: ObjectName) -> bool:
        if any(rival != name for rival in self._claimants.get(claim, ())):
            return True
        if claim.protocol is None or not claim.address:
            return False
        return any(rival != name for rival in self._claimants.get(Claim(claim.address, None, 0), ()))

    def _contenders(self, claim: Claim) -> tuple[ObjectName, ...]:
        """Return the Services among which the oldest wins; those that lost the ClusterIP as a whole do not count."""
        direct = self._claimants.get(claim, ())
        if claim.protocol is None or not claim.address:
            return direct
        holder = self.owner(Claim(claim.address, None, 0))
        if holder is None or holder in direct or claim not in _ports_on(self._services[holder], claim.address):
            return direct
        return (*direct, holder)

    def _touched(self, service: Service | None) -> set[Claim]:
        """Return the claims whose owner may change when this Service comes, goes or changes."""
        if service is None:
            return set()
        result = set(claims_of(service))
        for address in service.cluster_ips:
            # When a ClusterIP as a whole changes hands, so do the ports that only its other claimants have.
            for rival in self._claimants.get(Claim(address, None, 0), ()):
                result.update(_ports_on(self._services[rival], address))
        return result

    def _seniority(self, name: ObjectName) -> tuple[bool, str, ObjectName]:
        created = self._services[name].created
        return (not created, created, name)

    def _count(self, service: Service, by: int) -> None:
        for port in service.ports:
            _add(self._ports, port.port, by)
            if port.node_port:
                _add(self._node_ports, port.node_port, by)

    def _replace(self, name: ObjectName, old: Service | None, new: Service | None) -> None:
        for claim in _stored(old):
            rest = tuple(claimant for claimant in self._claimants[claim] if claimant != name)
            if rest:
                self._claimants[claim] = rest
            else:
                del self._claimants[claim]
        if old is not None:
            self._count(old, -1)
        if new is None:
            self._services.pop(name, None)
        else:
            self._services[name] = new
            self._count(new, 1)
        for claim in _stored(new):
            # Sorted, so that equal content is an equal value whatever came first.
            self._claimants[claim] = tuple(sorted({*self._claimants.get(claim, ()), name}))


def _add(counts: dict[int, int], number: int, by: int) -> None:
    count = counts.get(number, 0) + by
    if count:
        counts[number] = count
    else:
        del counts[number]


def _node_port_of(claim: Claim) -> Claim:
    return Claim(NODE_PORT_ADDRESS, claim.protocol, claim.port)


def _stored(service: Service | None) -> frozenset[Claim]:
    if service is None:
        return frozenset()
    return frozenset((*(Claim(address, None, 0) for address in service.cluster_ips), *_shared_claims(service)))
