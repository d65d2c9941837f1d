"""
A real kube-apiserver with its etcd, from the directory $KUBEBUILDER_ASSETS names (the convention of envtest), on loopback.

It answers to the calls of `tests.lab.apiserver.ApiServer` that tests of both need, so that the stand-in is held to it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from tests.lab.apiserver_kinds import RESOURCES, Manifest, Resource, resource_of
from tests.lab.certificates import Certificates
from tests.lab.netns import PATIENCE

ASSETS_VARIABLE: Final = "KUBEBUILDER_ASSETS"
START_S: Final = 60.0 * PATIENCE
ADMIN: Final = "admin-of-the-lab"
"""Bearer token of who may do everything."""
AGENT: Final = "agent-of-the-lab"
"""Bearer token of who may do what the agent may."""
USER: Final = "kpx"

_NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", False)


def assets() -> Path | None:
    """Return where the programs are, None when nobody said so."""
    value = os.environ.get(ASSETS_VARIABLE, "")
    return Path(value) if value else None


class KubeApiServer:
    """
    One server; use as a context manager.

    Args:
        directory: empty, for certificates, data and logs.
        rights: verbs by API group and plural name that the agent's token is good for.
    """

    def __init__(self, directory: Path, rights: Mapping[tuple[str, str], list[str]]) -> None:
        programs = assets()
        assert programs is not None, f"{ASSETS_VARIABLE} is not set"
        self._programs = programs
        self._directory = directory
        self._rights = rights
        self._certificates = Certificates(directory / "pki")
        self._stack = contextlib.ExitStack()
        self._apiserver: subprocess.Popen[bytes] | None = None
        self._namespaces: set[str] = {"default"}
        self._etcd_port, self._peer_port, self.port = free_ports(3)
        self.token = AGENT

    def __enter__(self) -> KubeApiServer:
        try:
            self._write_credentials()
            self._start("etcd", self._etcd_arguments())
            self._start_apiserver()
            self._grant()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_apiserver()
        self._stack.close()

    @property
    def url(self) -> str:
        """Return where clients find it."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def authority(self) -> Path:
        """Return the certificate to trust."""
        return self._certificates.authority

    def apply(self, *manifests: Manifest) -> None:
        """Create or change objects, their status too."""
        for manifest in manifests:
            resource = resource_of(manifest)
            namespace = manifest["metadata"].get("namespace", "") if resource.namespaced else ""
            if namespace and namespace not in self._namespaces:
                self._apply(_NAMESPACES, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
                self._namespaces.add(namespace)
            self._apply(resource, namespace, manifest)
            if "status" in manifest:
                self._apply(resource, namespace, manifest, "/status")

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        """Delete an object."""
        resource = next(one for one in RESOURCES if one.kind == kind)
        self._ask("DELETE", _path(resource, namespace, name))

    def events(self) -> list[Manifest]:
        """Return the Events of kpx; the server has some of its own."""
        items = self._ask("GET", "/apis/events.k8s.io/v1/events")["items"]
        return [item for item in items if item.get("reportingController") == "kpx"]

    def restart(self) -> None:
        """End the API server and start it again on the same port, with its data."""
        self._end_apiserver()
        self._start_apiserver()

    def compact(self) -> None:
        """Let etcd forget its history; the API server notices when it is started again."""
        etcd = f"http://127.0.0.1:{self._etcd_port}/v3/kv"
        revision = _post_json(f"{etcd}/range", {"key": "AA=="})["header"]["revision"]
        _post_json(f"{etcd}/compaction", {"revision": revision, "physical": True})
        self.restart()

    def _write_credentials(self) -> None:
        (self._directory / "tokens.csv").write_text(f'{ADMIN},admin,admin,"system:masters"\n{AGENT},{USER},{USER}\n')
        key = self._directory / "service-account.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)

    def _etcd_arguments(self) -> list[str]:
        client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        listen = ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer]
        cluster = ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
        return ["--data-dir", str(self._directory / "etcd"), *listen, *cluster]

    def _start_apiserver(self) -> None:
        key = str(self._directory / "service-account.key")
        arguments = [
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={self._certificates.server.certificate}",
            f"--tls-private-key-file={self._certificates.server.key}",
            f"--client-ca-file={self._certificates.authority}",
            f"--token-auth-file={self._directory / 'tokens.csv'}",
            f"--cert-dir={self._directory / 'made'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/12",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--disable-admission-plugins=ServiceAccount",
        ]
        self._apiserver = self._start("kube-apiserver", arguments)
        self._wait_until_ready(self._apiserver)

    def _end_apiserver(self) -> None:
        if self._apiserver is not None:
            self._apiserver.terminate()
            self._apiserver.wait(START_S)
            self._apiserver = None

    def _start(self, program: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        output = self._stack.enter_context((self._directory / f"{program}.log").open("ab"))
        command = [str(self._programs / program), *arguments]
        process = self._stack.enter_context(subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL))
        self._stack.callback(process.kill)
        return process

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._request("GET", "/readyz")[0] == 200:
                    return
            log = self._directory / "kube-apiserver.log"
            assert process.poll() is None, f"kube-apiserver ended with {process.returncode}, see {log}"
            assert time.monotonic() < deadline, f"kube-apiserver is not ready, see {log}"
            time.sleep(0.1)

    def _grant(self) -> None:
        """Let the agent's token be good for its rights and nothing else."""
        rules = [
            {"apiGroups": [group], "resources": [resource], "verbs": verbs} for (group, resource), verbs in self._rights.items()
        ]
        rbac = "rbac.authorization.k8s.io"
        role = {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": USER}, "rules": rules}
        binding = {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": USER},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": USER},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": USER}],
        }
        self._apply(Resource(rbac, "v1", "clusterroles", "ClusterRole", False), "", role)
        self._apply(Resource(rbac, "v1", "clusterrolebindings", "ClusterRoleBinding", False), "", binding)

    def _apply(self, resource: Resource, namespace: str, manifest: Manifest, part: str = "") -> None:
        path = f"{_path(resource, namespace, manifest['metadata']['name'])}{part}?fieldManager=lab&force=true"
        self._ask("PATCH", path, manifest)

    def _ask(self, method: str, path: str, body: Manifest | None = None) -> Any:
        status, data = self._request(method, path, body)
        assert 200 <= status < 300, f"{method} {path}: {status} {data.decode(errors='replace')}"
        return json.loads(data)

    def _request(self, method: str, path: str, body: Manifest | None = None) -> tuple[int, bytes]:
        context = ssl.create_default_context(cafile=str(self.authority))
        headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/apply-patch+yaml"}
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=START_S, context=context)
        with contextlib.closing(connection):
            connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _path(resource: Resource, namespace: str, name: str) -> str:
    where = f"/namespaces/{namespace}" if namespace else ""
    return f"{resource.root}{where}/{resource.plural}/{name}"


def _post_json(url: str, body: Manifest) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=START_S) as answer:
        return json.loads(answer.read())
