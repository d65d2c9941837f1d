"""
A stand-in API server: list, watch and Events over HTTP or HTTPS, as recorded of a real one (tests/data/apiserver-1.36).

In a test it runs in threads of the test's process, and whatever a real server or the net to it may do can be ordered:

    with ApiServer(tls=certificates) as server:
        server.apply({"apiVersion": "v1", "kind": "Service", ...})
        server.faults.order(Fault(429, verb="list", retry_after_s=1))
        ... server.kubeconfig(path) ...

For benchmarks it is a process: `python -m tests.lab.apiserver --objects FILE` prints its URL and serves until it is ended.

After an etcd restore it says nothing to a watch from a revision that is yet to come, as a real server does.
"""

from __future__ import annotations

import argparse
import base64
import json
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec
import yaml

from tests.lab import apiserver_answers as answers
from tests.lab.apiserver_access import Access
from tests.lab.apiserver_faults import Fault, Faults
from tests.lab.apiserver_http import Listener
from tests.lab.apiserver_kinds import Manifest
from tests.lab.apiserver_requests import Request
from tests.lab.apiserver_store import Store
from tests.lab.certificates import Certificates
from tests.lab.netns import PATIENCE

__all__ = ["ApiServer", "Fault", "Manifest", "Request"]

LONG_S: Final = 10.0 * PATIENCE
"""How long `wait_until` waits, seconds."""
WATCH_LIST_MODES: Final = ("on", "failing", "refused", "ignored")


class ApiServer:
    """
    One server; use as a context manager.

    Args:
        tls: serve HTTPS with these; clients may have certificates of the same authority. None: plain HTTP.
        tokens: bearer token -> user. With neither tokens nor certificates everybody may do everything.
        watch_list: what becomes of `sendInitialEvents`: "on"; "failing", as recorded, an ERROR inside the stream; "refused",
            422, as with the feature gate off; "ignored", as servers do that have never heard of it.
        allocate_node_ports: as a real server does; otherwise only node ports that are written are there.
        bookmark_s: between bookmarks. longest_watch_s: of watches that say nothing of a timeout. Seconds.
        port: 0 takes a free one.

    Attributes:
        store: the objects. faults: what is to go wrong. access: who may do what.
        missing_kinds: plural names of kinds this server is too old for.
        connections: how many were accepted.
    """

    def __init__(
        self,
        *,
        tls: Certificates | None = None,
        tokens: dict[str, str] | None = None,
        watch_list: str = "on",
        allocate_node_ports: bool = False,
        bookmark_s: float = 60.0,
        longest_watch_s: float = 1800.0,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        assert watch_list in WATCH_LIST_MODES, watch_list
        self.store = Store(allocate_node_ports)
        self.faults = Faults()
        self.access = Access(tokens, certificates=tls is not None)
        self.watch_list = watch_list
        self.bookmark_s = bookmark_s
        self.longest_watch_s = longest_watch_s
        self.missing_kinds: set[str] = set()
        self.connections = 0
        self._tls = tls
        self._address = (host, port)
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None
        self._requests: list[Request] = []

    def __enter__(self) -> ApiServer:
        self.up()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.down()

    # Up and down

    def up(self) -> None:
        """Listen, on the port of last time."""
        assert self._listener is None, "it is up"
        context = self._tls.server_context() if self._tls else None
        self._listener = Listener(self, self._address, context)
        self._address = self._listener.server_address[:2]
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,), name="apiserver", daemon=True)
        self._thread.start()

    def down(self) -> None:
        """Cut all connections and refuse new ones; idempotent."""
        if self._listener is None or self._thread is None:
            return
        self._listener.closing = True
        self._listener.shutdown()
        self._listener.server_close()
        self._listener.cut()
        with self.store.changed:
            self.store.changed.notify_all()
        self._thread.join()
        self._listener = self._thread = None

    def restart(self) -> None:
        """Go down and come up on the same port; a client that waits meets a cut connection, not a refused one."""
        self.down()
        self.up()

    def restore(self, revision: int) -> None:
        """Come back as of a former revision, as after an etcd restore: the counter goes backwards, and so do the objects."""
        self.down()
        self.store.restore(revision)
        self.up()

    # Where it is and how to get in

    @property
    def port(self) -> int:
        """Return the port; it stays the same."""
        return self._address[1]

    @property
    def url(self) -> str:
        """Return where clients find it."""
        host, port = self._address
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def authority(self) -> Path | None:
        """Return the certificate to trust, None with plain HTTP."""
        return self._tls.authority if self._tls else None

    def kubeconfig(self, path: Path, user: dict[str, Any] | None = None, **cluster: Any) -> Path:
        """
        Write a kubeconfig and return its path.

        Args:
            user: how to log in, as in a kubeconfig ({"token": ...}, {"exec": ...}, client certificates).
            cluster: what is different from what would be right (`server`, `certificate-authority-data` ...).
        """
        right: dict[str, Any] = {"server": self.url}
        if self._tls:
            right["certificate-authority-data"] = base64.b64encode(self._tls.authority.read_bytes()).decode()
        whole = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": right | cluster}],
            "users": [{"name": "kpx", "user": user or {}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "kpx"}}],
            "current-context": "lab",
        }
        path.write_text(yaml.safe_dump(whole))
        return path

    def service_account(self, directory: Path, token: str) -> dict[str, str]:
        """Write what a pod finds of its account, and return the environment that says where the server is."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "token").write_text(token)
        (directory / "namespace").write_text("kube-system")
        if self._tls:
            (directory / "ca.crt").write_bytes(self._tls.authority.read_bytes())
        return {"KUBERNETES_SERVICE_HOST": self._address[0], "KUBERNETES_SERVICE_PORT": str(self.port)}

    # Objects

    def apply(self, *manifests: Manifest) -> Manifest:
        """Create or replace objects; return the last one as it is stored."""
        assert manifests
        return [self.store.apply(manifest) for manifest in manifests][-1]

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        """Delete an object; KeyError when it is not there."""
        self.store.delete(kind, name, namespace)

    def events(self) -> list[Manifest]:
        """Return the Events that were announced."""
        return self.store.every("Event")

    @property
    def revision(self) -> int:
        """Return the revision of the last change."""
        return self.store.revision

    def compact(self) -> None:
        """Forget the history: watches and pages from before get 410."""
        self.store.compact()

    # Watches under way

    def watching(self, resource: str) -> int:
        """Return how many watches of a resource (plural name) are under way."""
        with self.store.changed:
            return sum(watch.resource.plural == resource for watch in self.store.watches)

    def cut_watches(self, resource: str = "", half_line: bool = False) -> None:
        """Cut the connections of watches, of one resource or all; with `half_line` in the middle of an event."""
        with self.store.changed:
            for watch in self.store.watches:
                if resource in ("", watch.resource.plural):
                    if half_line:
                        whole = msgspec.json.encode(answers.bookmark(watch.resource, self.store.revision))
                        watch.changes.append(whole[: len(whole) // 2])
                    watch.cut_when_told = True
            self.store.changed.notify_all()

    def say_in_watches(self, event: Manifest | bytes, resource: str = "") -> None:
        """Let watches under way say this: an event of any shape, or bytes as they are."""
        data = event if isinstance(event, bytes) else msgspec.json.encode(event) + b"\n"
        with self.store.changed:
            for watch in self.store.watches:
                if resource in ("", watch.resource.plural):
                    watch.changes.append(data)
            self.store.changed.notify_all()

    def mute_watches(self, resource: str = "") -> None:
        """Let watches under way say nothing more, though their connections stay: neither changes nor bookmarks nor an end."""
        with self.store.changed:
            for watch in self.store.watches:
                watch.muted |= resource in ("", watch.resource.plural)

    # What was asked

    def note(self, request: Request) -> None:
        """Take note of a request; for the connections."""
        with self.store.changed:
            self._requests.append(request)
            self.store.changed.notify_all()

    def requests(self, verb: str = "", resource: str = "") -> list[Request]:
        """Return the requests received so far, of one verb and resource (plural name), or of any."""
        with self.store.changed:
            return [one for one in self._requests if verb in ("", one.verb) and resource in ("", one.resource)]

    def wait_until(self, reached: Callable[[], bool], timeout_s: float = LONG_S) -> None:
        """Wait until a condition about this server holds; it is looked at when anything happens here."""
        deadline = time.monotonic() + timeout_s
        with self.store.changed:
            while not reached():
                left = deadline - time.monotonic()
                assert left > 0, "not reached"
                self.store.changed.wait(min(left, 0.05))


def manifests_in(path: Path) -> Iterable[Manifest]:
    """Yield the objects of a file, JSON or YAML, or of all files of a directory; lists are taken apart."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        data = file.read_bytes()
        documents = [json.loads(data)] if file.suffix == ".json" else yaml.load_all(data, yaml.CSafeLoader)
        for document in documents:
            if document is not None:
                yield from document["items"] if document["kind"].endswith("List") else [document]


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.apiserver", description=__doc__.splitlines()[1])
    parser.add_argument(
        "--objects", type=Path, metavar="FILE", help="what there is at the start: a JSON or YAML file or a directory"
    )
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1")
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="write how to get in there")
    parser.add_argument("--tls", type=Path, metavar="DIRECTORY", help="serve HTTPS; the certificates are made there")
    parser.add_argument("--watch-list", choices=WATCH_LIST_MODES, default="on", help="what becomes of sendInitialEvents")
    options = parser.parse_args()
    # Blocked before there are threads, which would otherwise take the signal and die of it.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    tls = Certificates(options.tls) if options.tls else None
    tokens = {"lab": "system:kpx"} if tls else None
    server = ApiServer(tls=tls, tokens=tokens, watch_list=options.watch_list, host=options.host, port=options.port)
    if options.objects:
        server.store.load(manifests_in(options.objects))
    with server:
        if options.kubeconfig:
            server.kubeconfig(options.kubeconfig, {"token": "lab"} if tls else None)
        print(server.url, flush=True)
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
