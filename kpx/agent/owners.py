"""Whose a row is: from frontends the kernel knows to the Services that own them, and to the endpoints these still list."""

from __future__ import annotations

from kpx.agent.compiler import Compiler
from kpx.model.addresses import Address
from kpx.model.names import ObjectName
from kpx.policy.claims import NODE_PORT_ADDRESS, claim_on
from kpx.policy.desired import Backend, Frontend


class Owners:
    """
    Answers from what is compiled.

    Attributes:
        host: all addresses of the host; on these a frontend may be a node port.
    """

    def __init__(self, compiler: Compiler) -> None:
        self.host: frozenset[Address] = frozenset()
        self._compiler = compiler

    def of(self, frontend: Frontend) -> ObjectName | None:
        """Return the Service that has a frontend; an exact one goes before a node port on the same address (V12)."""
        claims = self._compiler.claims
        owner = claims.owner(claim_on(frontend))
        if owner is None and frontend.address in self.host:
            owner = claims.owner(claim_on(frontend._replace(address=NODE_PORT_ADDRESS)))
        return owner

    def is_listed(self, frontend: Frontend, backend: Backend) -> bool:
        """Tell whether an endpoint's address is in a slice of the Service that owns a frontend, whatever its conditions (G6)."""
        owner = self.of(frontend)
        program = self._compiler.programs.get(owner) if owner else None
        ports = program.ports if program else ()
        return any(backend.address == known.address for port in ports for known in port.listed)
