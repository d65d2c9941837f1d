"""kube-proxy in nftables mode, where there is one, on the same objects from the same stand-in API server, for comparison."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.manifests import CLUSTER_CIDR
from benchmarks.process import QUIET_S, READY_S, Commits, Proxy
from benchmarks.stages import NODE

VARIABLE: Final = "KPX_BENCH_KUBE_PROXY"


def find() -> str | None:
    """
    Return the kube-proxy to compare with: the one the environment names, else the one on PATH, else None.

    Raises:
        SystemExit: the one that is named cannot be executed.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return shutil.which("kube-proxy")
    if not os.access(named, os.X_OK) or not Path(named).is_file():
        raise SystemExit(f"{VARIABLE}={named}: not a program; give the path of a kube-proxy, or unset it")
    return named


def version(program: str) -> str:
    """Return what it says of itself ("Kubernetes v1.36.0")."""
    return subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def configuration(kubeconfig: Path) -> dict[str, Any]:
    """
    Return a KubeProxyConfiguration: defaults, but for what a network namespace needs.

    Connection tracking is left as it is, since its limits can be set in the first namespace only. The stand-in speaks JSON.
    """
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {
            "kubeconfig": str(kubeconfig),
            "contentType": "application/json",
            "acceptContentTypes": "application/json",
        },
        "hostnameOverride": NODE,
        "bindAddress": "127.0.0.1",
        "clusterCIDR": CLUSTER_CIDR,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
            "udpTimeout": "0s",
            "udpStreamTimeout": "0s",
        },
    }


def command(program: str, config: Path) -> list[str]:
    """Return how it is started."""
    return [program, f"--config={config}", "--v=1"]


class KubeProxy(Proxy):
    """It does not say when it is ready: everything is in the kernel when it neither commits nor computes any more."""

    def __init__(self, program: str, kubeconfig: Path, commits: Commits) -> None:
        place = kubeconfig.parent
        config = place / "kube-proxy.yaml"
        config.write_text(yaml.safe_dump(configuration(kubeconfig)))
        commits.drain()
        super().__init__(command(program, config), place / "kube-proxy.log", {})
        try:
            self._wait_quiet(commits)
        except BaseException:
            self.cleanup()
            raise

    def _wait_quiet(self, commits: Commits) -> None:
        last, limit = None, time.perf_counter() + READY_S
        while time.perf_counter() < limit:
            self.check()
            before = self.cpu_s()
            if commits.wait(QUIET_S):
                last = commits.quiet_after(0.2, READY_S)
            elif last is not None and self.cpu_s() - before < 0.05 * QUIET_S:
                self.note_start(last)
                return
        raise SystemExit(f"kube-proxy had not written everything within {READY_S:g} s")

    def cleanup(self) -> None:
        """End it and remove what it leaves."""
        self.stop()
        for family in ("ip", "ip6"):
            subprocess.run(["nft", "delete", "table", family, "kube-proxy"], capture_output=True, timeout=120, check=False)
