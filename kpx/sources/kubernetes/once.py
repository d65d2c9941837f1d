"""One question to the API server, asked and waited for: for verbs that end when they have the answer. The agent never waits."""

from __future__ import annotations

import http.client
import json
import socket
import ssl

from kpx.errors import SourceError
from kpx.sources.kubernetes.access import Access, access_of
from kpx.sources.kubernetes.credentials import find

TIMEOUT_S = 15.0
"""How long to connect, and how long to wait for each piece of the answer, seconds."""


def get(kubeconfig: str, path: str, master: str = "") -> bytes:
    """
    Return the body of an answer.

    Args:
        kubeconfig, master: see `kpx.sources.kubernetes.credentials.find`.
        path: from the root of the API: "/api/v1/namespaces/kube-system/configmaps/kube-proxy".

    Raises:
        SourceError: there is none, or it is a refusal; the message says whose and why.
    """
    access = access_of(find(kubeconfig, master))
    try:
        status, body = _ask(access, access.told.path + path)
    except (OSError, http.client.HTTPException) as error:
        raise SourceError(f"the API server {access.server} does not answer: {error}") from error
    if status != http.HTTPStatus.OK:
        raise SourceError(f"the API server {access.server} refuses GET {path}: {_message(body) or f'status {status}'}")
    return body


def _ask(access: Access, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(access.told.host, access.told.port, timeout=TIMEOUT_S)
    connection.sock = _connect(access)
    try:
        connection.request("GET", path, headers=dict(access.headers()))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _connect(access: Access) -> socket.socket | ssl.SSLSocket:
    """Connect to the first address that answers."""
    failure: OSError = OSError("it has no address")
    for _, place in access.addresses():
        try:
            plain = socket.create_connection(place, timeout=TIMEOUT_S)
        except OSError as error:
            failure = error
            continue
        try:
            return access.context.wrap_socket(plain, server_hostname=access.server_name) if access.context else plain
        except OSError:
            plain.close()
            raise
    raise failure


def _message(body: bytes) -> str:
    """Return what a refusal says (meta/v1 Status), "" when it says nothing."""
    try:
        status = json.loads(body)
    except ValueError:
        return ""
    return " ".join(str(status.get("message") or "").split()) if isinstance(status, dict) else ""
