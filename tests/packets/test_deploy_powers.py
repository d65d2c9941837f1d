"""The powers the manifests of deploy/kubernetes give are enough for what they are given for, and none is there for nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.dataplane import NEEDS
from tests.lab.netns import Namespace

pytestmark = pytest.mark.packets

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
MANIFESTS = """\
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.10, type: NodePort, ports: [{port: 80, nodePort: 30080}]}
---
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.0.1]}]
"""


@pytest.fixture
def host() -> Iterator[Namespace]:
    namespace = Namespace("host")
    namespace.ip("address add 192.0.2.1/32 dev lo")
    yield namespace
    namespace.close()


@pytest.fixture
def manifests(tmp_path: Path) -> str:
    (tmp_path / "shop.yaml").write_text(MANIFESTS)
    return str(tmp_path)


def given(path: str, *way: str | int) -> set[str]:
    """Return the capabilities a manifest adds."""
    content: Any = yaml.safe_load((KUBERNETES / path).read_text())
    for step in ("spec", "template", "spec", *way, "securityContext", "capabilities", "add"):
        content = content[step]
    return set(content)


BASE = given("base/daemonset.yaml", "containers", 0)
NFTABLES = given("overlays/nftables/less.yaml", "containers", 0)
CLEANUP = given("overlays/cleanup/daemonset.yaml", "initContainers", 0)
(CLEANUP_KUBE_PROXY,) = (
    set(one["value"])
    for one in yaml.safe_load((KUBERNETES / "overlays/cleanup-kube-proxy/kube-proxy.yaml").read_text())
    if one["path"].endswith("capabilities/add")
)


def kpx(host: Namespace, capabilities: set[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run kpx as a container runtime would: root with these capabilities, no way to more, and /proc/sys read-only."""
    added = "".join(f",+{name.lower()}" for name in sorted(capabilities))
    bounds = (f"--bounding-set=-all{added}", f"--inh-caps=-all{added}", "--no-new-privs")
    hide = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"'
    command = ("setpriv", *bounds, sys.executable, "-m", "kpx", *arguments)
    return host.run("unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh", *command, check=False)


@pytest.mark.needs(*NEEDS["nftables"])
def test_nftables_needs_no_more_than_its_overlay_gives(host: Namespace, manifests: str) -> None:
    settings = ("--manifests", manifests, "--proxy-mode", "nftables", "--cluster-cidr", "10.244.0.0/16")
    done = kpx(host, NFTABLES, "sync", *settings)
    assert done.returncode == 0, done.stderr
    assert "10.96.0.10" in kpx(host, NFTABLES, "get", "frontends").stdout
    assert kpx(host, NFTABLES, "cleanup").returncode == 0

    assert kpx(host, set(), "sync", *settings).returncode == 4


@pytest.mark.needs(*NEEDS["ipvs"])
def test_ipvs_needs_all_the_base_gives(host: Namespace, manifests: str) -> None:
    """Sysctls are the init container's; what it has set is not set again."""
    settings = ("--manifests", manifests, "--proxy-mode", "ipvs", "--cluster-cidr", "10.244.0.0/16")
    prepared = host.run(sys.executable, "-m", "kpx", "run", "--init-only", "--proxy-mode", "ipvs", check=False)
    assert prepared.returncode == 0, prepared.stderr
    done = kpx(host, BASE, "sync", *settings)
    assert done.returncode == 0, done.stderr
    assert "10.96.0.10" in kpx(host, BASE, "get", "frontends").stdout
    assert kpx(host, CLEANUP, "cleanup").returncode == 0

    for less in BASE:
        assert kpx(host, BASE - {less}, "sync", *settings).returncode != 0, less


@pytest.mark.needs("xt_set")
def test_rules_that_match_ipsets_need_a_raw_socket(host: Namespace) -> None:
    """Why NET_RAW is there (get_version in libxt_set.h), seen on any kernel with ipset."""
    host.run("ipset", "create", "trial", "hash:ip,port")
    for powers, able in ((BASE, True), (BASE - {"NET_RAW"}, False)):
        added = "".join(f",+{name.lower()}" for name in sorted(powers))
        rule = ("-t", "mangle", "-A", "PREROUTING", "-m", "set", "--match-set", "trial", "dst,dst", "-j", "ACCEPT")
        done = host.run("setpriv", f"--bounding-set=-all{added}", f"--inh-caps=-all{added}", "iptables", "-w", *rule, check=False)

        assert (done.returncode == 0) == able, done.stderr


def test_seeing_a_kube_proxy_takes_what_its_cleanup_is_given(host: Namespace, tmp_path: Path) -> None:
    """It has all capabilities, as kube-proxy's container has, and its namespaces are nobody's business without ptrace."""
    pretender = tmp_path / "kube-proxy"
    pretender.symlink_to("/bin/sleep")
    running = host.start(["kube-proxy", "600"], executable=str(pretender))
    try:
        seen = kpx(host, CLEANUP_KUBE_PROXY, "cleanup", "--kube-proxy")
        assert (seen.returncode, "serves this network namespace" in seen.stderr) == (3, True)

        assert kpx(host, CLEANUP_KUBE_PROXY - {"SYS_PTRACE"}, "cleanup", "--kube-proxy").returncode == 0
    finally:
        running.kill()
        running.wait()
