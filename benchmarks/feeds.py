"""Where the agent under measurement reads from: a directory of manifests, or a stand-in API server in a process of its own."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from benchmarks.manifests import Cluster, node, replace_file
from benchmarks.stages import NODE

START_S = 300.0


class Feed(Protocol):
    """
    A source of one cluster.

    Attributes:
        name: as in the tables. options: what `kpx run` is told.
    """

    name: str
    options: list[str]

    def prepare(self, number: int) -> Callable[[], None]:
        """Return what makes the n-th change of the cluster, with all that takes time and is not the agent's done."""

    def close(self) -> None:
        """End what was started."""


class DirectoryFeed:
    """Files; a change replaces one by renaming."""

    name = "manifests"

    def __init__(self, directory: Path, cluster: Cluster) -> None:
        self._directory = directory
        self._cluster = cluster
        self.options = ["--manifests", str(directory)]

    def prepare(self, number: int) -> Callable[[], None]:
        """Return what replaces the file of one slice."""
        return partial(replace_file, self._directory, *self._cluster.changed_file(number))

    def close(self) -> None:
        """Leave the files to whoever made the directory."""


class ApiFeed:
    """
    A stand-in API server with the objects of the same files; a change is a PUT.

    Attributes:
        kubeconfig: says how to get in, to kpx and to kube-proxy alike.
    """

    name = "API server"

    def __init__(self, directory: Path, cluster: Cluster) -> None:
        self._cluster = cluster
        self.kubeconfig = directory.parent / "kubeconfig"
        (directory / "node.json").write_text(json.dumps(node(NODE, "127.0.0.1")))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.apiserver", "--objects", str(directory), "--kubeconfig", str(self.kubeconfig)],
            cwd=Path(__file__).resolve().parents[1],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        url = urlsplit(self._process.stdout.readline().strip())
        if not url.hostname:
            raise SystemExit("the stand-in API server did not start")
        self._connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30.0)
        self.options = ["--kubeconfig", str(self.kubeconfig)]

    def prepare(self, number: int) -> Callable[[], None]:
        """Return what replaces one slice."""
        document = self._cluster.changed_slice(number)
        place = "/apis/discovery.k8s.io/v1/namespaces/bench/endpointslices/" + document["metadata"]["name"]
        return partial(self._put, place, json.dumps(document))

    def _put(self, place: str, text: str) -> None:
        self._connection.request("PUT", place, text, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        answer.read()
        if answer.status != http.client.OK:
            raise SystemExit(f"the stand-in API server refused a change: {answer.status}")

    def close(self) -> None:
        """End the server."""
        self._connection.close()
        self._process.terminate()
        self._process.wait(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()
