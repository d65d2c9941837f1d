"""
How scripts/bench measures a kube-proxy, with a program in its place that takes the same arguments and reads the same server.

What it writes is a table of its own; what matters is that it is found ready, that each change is waited for, and that nothing is
left of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import agent, kube_proxy
from benchmarks.feeds import ApiFeed
from benchmarks.manifests import Cluster
from tests.lab.netns import Namespace

pytestmark = [pytest.mark.alike, pytest.mark.packets]

PROGRAM = f"""#!{sys.executable}
import http.client, json, subprocess, sys, urllib.parse, yaml

if sys.argv[1:] == ["--version"]:
    sys.exit(print("Kubernetes v1.36.0"))
config = yaml.safe_load(open(sys.argv[1].removeprefix("--config=")))
assert sys.argv[2:] == ["--v=1"] and config["mode"] == "nftables", sys.argv
server = yaml.safe_load(open(config["clientConnection"]["kubeconfig"]))["clusters"][0]["cluster"]["server"]

def nft(text):
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)

def ask(query):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(server).netloc)
    connection.request("GET", "/apis/discovery.k8s.io/v1/endpointslices?" + query)
    return connection.getresponse()

listed = json.load(ask(""))
nft("table ip kube-proxy {{ set seen {{ type ipv4_addr; }}; }}")
for line in ask("watch=true&resourceVersion=" + listed["metadata"]["resourceVersion"]):
    for endpoint in json.loads(line)["object"]["endpoints"]:
        nft("flush set ip kube-proxy seen; add element ip kube-proxy seen {{ %s }}" % endpoint["addresses"][0])
        break
"""


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace("bench")
    try:
        yield made
    finally:
        made.close()


def test_a_kube_proxy_is_started_waited_for_changed_and_taken_away(namespace: Namespace, tmp_path: Path) -> None:
    program, manifests = tmp_path / "kube-proxy", tmp_path / "manifests"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    manifests.mkdir()
    cluster = Cluster(3, 2)
    cluster.write(manifests)

    with namespace.entered():
        feed = ApiFeed(manifests, cluster)
        try:
            numbers = agent.measure_kube_proxy(str(program), feed, feed.kubeconfig, changes=4)
        finally:
            feed.close()

    assert kube_proxy.version(str(program)) == "Kubernetes v1.36.0"
    assert (numbers.program, numbers.feed, len(numbers.changes_s)) == ("kube-proxy", "API server", 4)
    assert numbers.start.wall_s > 0
    assert numbers.rss_bytes > 0
    assert json.loads(namespace.run("nft", "--json", "list", "tables").stdout)["nftables"][1:] == []
