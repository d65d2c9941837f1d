"""Who may do what at a stand-in API server: 401 for credentials nobody knows, 403 for what a user may not do."""

from __future__ import annotations

from tests.lab import apiserver_answers as answers
from tests.lab.apiserver_kinds import Resource

ANONYMOUS = "system:anonymous"


class Access:
    """
    Tokens and permissions, which tests change while the server runs.

    Args:
        tokens: bearer token -> user.
        certificates: clients may have certificates; their common name is the user.

    Attributes:
        denied: verbs and plural names, "*" for any, that nobody may.
    """

    def __init__(self, tokens: dict[str, str] | None, certificates: bool) -> None:
        self.tokens = dict(tokens or {})
        self.denied: set[tuple[str, str]] = set()
        self._open = tokens is None and not certificates

    def deny(self, verb: str, resource: str) -> None:
        """Forbid a verb on a resource (plural name); "*" means any."""
        self.denied.add((verb, resource))

    def user_of(self, token: str, certificate_name: str) -> str:
        """
        Return who asks.

        Raises:
            Refusal: 401, nobody knows the token.
        """
        if token and not self._open:
            if token not in self.tokens:
                raise answers.unauthorized()
            return self.tokens[token]
        return certificate_name or ANONYMOUS

    def check(self, user: str, verb: str, resource: Resource, namespace: str, name: str) -> None:
        """
        Let pass what the user may do: everything that is not denied, once known.

        Raises:
            Refusal: 403.
        """
        denied = {(verb, resource.plural), (verb, "*"), ("*", resource.plural), ("*", "*")} & self.denied
        if denied or (user == ANONYMOUS and not self._open):
            raise answers.forbidden(user, verb, resource, namespace, name)
