"""The Kubernetes source with a server on this machine, without the child that looks for credentials."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from kpx.sources.kubernetes.access import Access, Told, access_of
from kpx.sources.kubernetes.source import KubernetesSource
from kpx.sources.kubernetes.troubles import Trouble
from tests.lab.hearing import Listener


class Server(Protocol):
    """What both the stand-in and a real server are."""

    @property
    def url(self) -> str:
        """Where clients find it."""

    @property
    def port(self) -> int:
        """Of 127.0.0.1."""

    @property
    def authority(self) -> Path | None:
        """Whom to trust; None with plain HTTP."""


class KnownAccess:
    """How to get at a server; implements `kpx.sources.kubernetes.finder.AccessSource`."""

    trouble: Trouble | None = None

    def __init__(self, server: Server, token: str = "") -> None:
        authorization = f"Bearer {token}" if token else ""
        ca = server.authority.read_text() if server.authority else ""
        host = "127.0.0.1"
        told = Told(
            server=server.url, host=host, port=server.port, addresses=(host,), tls=bool(ca), ca=ca, authorization=authorization
        )
        self._access = access_of(told)
        self.refusals = 0

    def current(self, now: float) -> Access | None:
        return self._access

    def refused(self, now: float) -> None:
        self.refusals += 1

    def unreachable(self, now: float) -> None:
        """There is nowhere else to look."""

    def wake_at(self) -> float | None:
        return None

    def close(self) -> None:
        """There is nothing to close."""


@contextlib.contextmanager
def listening(server: Server, node_name: str = "n1", token: str = "") -> Iterator[Listener]:
    """Yield a listener to a source that has known access to a server."""
    with contextlib.closing(KubernetesSource(node_name, access=KnownAccess(server, token))) as source:
        yield Listener(source)
