"""The powers the manifests of deploy/kubernetes give are enough for what they are given for, and none is there for nothing."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.dataplane import NEEDS
from tests.lab.netns import PATIENCE, Namespace

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


NEEDS_NET_ADMIN = (
    "kpx: error: writing the kernel's tables needs CAP_NET_ADMIN in this network namespace; "
    "run kpx as root, for example with sudo"
)
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


def unit(setting: str) -> set[str]:
    """Return the capabilities a setting of the systemd unit names."""
    (value,) = re.findall(rf"^{setting}=(.*)$", (ROOT / "systemd" / "kpx.service").read_text(), re.MULTILINE)
    return {name.removeprefix("CAP_") for name in value.split()}


NUMBERS = {"NET_ADMIN": 12, "NET_RAW": 13}
"""include/uapi/linux/capability.h."""


def as_the_unit(capabilities: set[str], *arguments: str) -> list[str]:
    """Return the command that runs kpx as systemd does by the unit: with these capabilities and no way to others."""
    added = "".join(f",+{name.lower()}" for name in sorted(capabilities))
    bounds = (f"--bounding-set=-all{added}", f"--inh-caps=-all{added}", f"--ambient-caps=-all{added}", "--no-new-privs")
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *bounds, sys.executable, "-m", "kpx", *arguments]


@pytest.fixture
def for_everybody(manifests: str) -> Iterator[str]:
    """The manifests where nobody may read them, the user of that name included."""
    for parent in (ROOT, *ROOT.parents, Path(sys.executable).resolve()):
        if not parent.stat().st_mode & stat.S_IXOTH:
            pytest.skip(f"{parent} is closed to other users, so none of them can run kpx from here")
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        copied = Path(shutil.copy(Path(manifests) / "shop.yaml", directory))
        copied.chmod(0o644)
        yield directory


@pytest.mark.needs(*NEEDS["nftables"])
@pytest.mark.parametrize("powers", [unit("AmbientCapabilities"), NFTABLES], ids=["as installed", "without NET_RAW"])
def test_the_agent_runs_with_what_the_unit_gives(host: Namespace, for_everybody: str, powers: set[str]) -> None:
    """From the start through a change to the end, as a user that owns nothing; its powers are these and it can have no others."""
    assert unit("CapabilityBoundingSet") == unit("AmbientCapabilities")
    settings = ("--manifests", for_everybody, "--proxy-mode", "nftables", "--cluster-cidr", "10.244.0.0/16")
    agent = host.start(as_the_unit(powers, "run", *settings, "--healthz-bind-address", "", "--metrics-bind-address", ""))
    try:
        assert eventually(lambda: "10.96.0.10" in frontends(host), agent)
        status = dict(line.split(":\t") for line in Path(f"/proc/{agent.pid}/status").read_text().splitlines() if ":\t" in line)
        wanted = f"{sum(1 << NUMBERS[name] for name in powers):016x}"
        assert {status[kind] for kind in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {wanted}
        assert (status["NoNewPrivs"], status["Uid"].split()[1]) == ("1", "65534")

        moved = Path(for_everybody) / ".shop.yaml"
        moved.write_text(MANIFESTS.replace("10.96.0.10", "10.96.0.11"))
        moved.chmod(0o644)
        moved.rename(Path(for_everybody) / "shop.yaml")
        assert eventually(lambda: "10.96.0.11" in frontends(host), agent)
    finally:
        agent.terminate()
        assert agent.wait(30) == 0


@pytest.mark.needs(*NEEDS["nftables"])
def test_without_net_admin_the_unit_says_so(host: Namespace, for_everybody: str) -> None:
    settings = ("--manifests", for_everybody, "--proxy-mode", "nftables", "--cluster-cidr", "10.244.0.0/16")
    done = host.run(*as_the_unit(unit("AmbientCapabilities") - {"NET_ADMIN"}, "run", *settings), check=False)

    assert done.returncode == 4, done.stderr
    assert "CAP_NET_ADMIN" in done.stderr.splitlines()[-1]


def frontends(host: Namespace) -> str:
    return host.run(sys.executable, "-m", "kpx", "get", "frontends", "--proxy-mode", "nftables", check=False).stdout


def eventually(reached: Callable[[], bool], agent: subprocess.Popen[str]) -> bool:
    """Tell whether it comes to be while the agent runs."""
    give_up_at = time.monotonic() + 30 * PATIENCE
    while not reached():
        assert agent.poll() is None
        if time.monotonic() > give_up_at:
            return False
    return True


@pytest.mark.needs(*NEEDS["nftables"])
def test_nftables_needs_no_more_than_its_overlay_gives(host: Namespace, manifests: str) -> None:
    settings = ("--manifests", manifests, "--proxy-mode", "nftables", "--cluster-cidr", "10.244.0.0/16")
    done = kpx(host, NFTABLES, "sync", *settings)
    assert done.returncode == 0, done.stderr
    assert "10.96.0.10" in kpx(host, NFTABLES, "get", "frontends").stdout
    assert kpx(host, NFTABLES, "cleanup").returncode == 0

    refused = kpx(host, set(), "sync", *settings)
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (4, NEEDS_NET_ADMIN)


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
        refused = kpx(host, BASE - {less}, "sync", *settings)
        assert refused.returncode != 0, less
        assert refused.stderr.splitlines()[-1].startswith("kpx: error: "), refused.stderr


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
