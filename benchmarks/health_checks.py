"""
What health checks cost the agent: CPU time for a thousand checks a second, and how evenly they come.

Run as root: `python -m benchmarks.health_checks`. Everything is in a network namespace of its own: the agent, and a server that
answers at all endpoints, in another process. Endpoints that are silent are cut off by a rule.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGETS = 1000
SECONDS = 20.0
WARM_UP_S = 4.0
PORT = 8080
RANGE = "10.200.0.0/16"
CASES = {"tcp": "tcp", "http": "http://:8080/healthz", "silent": "tcp", "none": ""}


def main() -> None:
    """Print a line a case."""
    if os.environ.get("KPX_BENCH_INSIDE") != "1":
        os.environ["KPX_BENCH_INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, "-m", "benchmarks.health_checks"])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "route", "add", "local", RANGE, "dev", "lo"], check=True)
    server = os.fork()
    if not server:
        serve()
    try:
        for name, check in CASES.items():
            if name == "silent":
                rules = f"table ip plug {{ chain input {{ type filter hook input priority 0; ip daddr {RANGE} drop; }}; }}"
                subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
            print(f"{name:8} {measure(check)}", flush=True)
            subprocess.run(["nft", "delete", "table", "ip", "plug"], check=False, capture_output=True)
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)


def serve() -> None:
    """Answer HTTP at every address until killed."""
    listener = socket.create_server(("0.0.0.0", PORT), backlog=1024)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    talking: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in poll.poll():
            try:
                if descriptor == listener.fileno():
                    connection = listener.accept()[0]
                    connection.setblocking(False)
                    talking[connection.fileno()] = connection
                    poll.register(connection, select.EPOLLIN)
                    continue
                if talking[descriptor].recv(4096):
                    talking[descriptor].send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass
            talking.pop(descriptor).close()


def measure(check: str) -> str:
    """Run the agent with so many endpoints, and return what it used."""
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory), check)
        options = ["--manifests", directory, "--proxy-mode", "nftables", "--healthz-bind-address=", "--metrics-bind-address="]
        with open(Path(directory, ".log"), "w") as log:
            agent = subprocess.Popen([sys.executable, "-m", "kpx", "run", *options], stdout=log, stderr=log)
        try:
            time.sleep(WARM_UP_S)
            before, sockets = cpu_s(agent.pid), opened()
            time.sleep(SECONDS)
            used, asked = cpu_s(agent.pid) - before, opened() - sockets
        finally:
            agent.terminate()
            agent.wait()
    return f"{asked / SECONDS:6.0f} connections/s  {used / SECONDS * 100:5.1f} % of a core"


def write(directory: Path, check: str) -> None:
    """Write one Service with all endpoints."""
    metadata = {"namespace": "bench", "name": "web", "annotations": {"kpx.io/health-check": check}}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]},
    }
    endpoints = [{"addresses": [f"10.200.{number // 250}.{number % 250 + 1}"]} for number in range(TARGETS)]
    labels = {"kubernetes.io/service-name": "web"}
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "bench", "name": "web-1", "labels": labels}, "ports": [{"port": PORT}], "endpoints": endpoints,
    }  # fmt: skip
    Path(directory, "all.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, slice_]}))


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process in seconds, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def opened() -> int:
    """Return how many TCP connections were asked for in this namespace (RFC 4022, tcpActiveOpens)."""
    names, values = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Tcp:")]
    return int(values[names.index("ActiveOpens")])


if __name__ == "__main__":
    main()
