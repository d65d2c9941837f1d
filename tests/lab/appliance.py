"""
The lab of vagrant/ as namespaces: the same description, the same manifests, servers and probes, and no hypervisor.

All machines are ports of one bridge with addresses of one network, and find each other by ARP, as virtual machines on a private
network do. That is what the point-to-point links of `tests.lab.topology` leave out: a load balancer with one arm, whose
clients and servers are neighbours of each other.

As under a hypervisor, every machine has a first interface besides, which has the default route and the same address on all of
them; nothing of the lab is behind it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import yaml

from tests.lab import dataplane
from tests.lab.agent import REPOSITORY, environment, start_ready
from tests.lab.netns import PATIENCE, LabError
from tests.lab.topology import Host, Lab
from tests.lab.traffic import Responder
from vagrant.topology import Topology, client_routes, settings, sysctls, write_manifests

DESCRIPTION = REPOSITORY / "vagrant/topology.yaml"
INTERFACE = "eth1"
PROVIDER_ADDRESS = "10.0.2.15"
"""What VirtualBox gives the first interface of every machine."""

PROBES_S = 120.0 * PATIENCE
STOP_S = 10.0 * PATIENCE
SSH = 22


class Appliance:
    """
    The machines with all that runs in them, except kpx, which `start_kpx` starts; use as a context manager.

    Args:
        directory: for the manifests, the description in JSON, and logs.
    """

    def __init__(self, directory: Path) -> None:
        description = yaml.safe_load(DESCRIPTION.read_text())
        self.topology = Topology.of(description)
        self.directory = directory
        self.manifests = directory / "manifests"
        self.hosts: dict[str, Host] = {}
        self.running: dict[str, subprocess.Popen[str]] = {}
        self._told = directory / "topology.json"
        self._told.write_text(json.dumps(description))
        self.manifests.mkdir()
        write_manifests(self.topology, self.manifests)
        with contextlib.ExitStack() as undo:
            self._lab = undo.enter_context(Lab())
            undo.callback(self._stop_all)
            self._plug_in()
            self._serve(undo.enter_context(contextlib.closing(Responder())))
            self._undo = undo.pop_all()

    def __enter__(self) -> Appliance:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._undo.close()

    @property
    def client(self) -> Host:
        """Who asks."""
        return self.hosts[self.topology.having("client")[0].name]

    @property
    def balancers(self) -> list[str]:
        """Who runs kpx."""
        return [machine.name for machine in self.topology.having("lb")]

    def start_kpx(self, name: str) -> None:
        """Start `kpx run` with the settings it would have there but the tests' data plane, and wait until it is ready."""
        own = {"KPX_MANIFESTS": str(self.manifests), "KPX_PROXY_MODE": dataplane.CHOSEN}
        values = settings(self.topology, name) | own
        command = ["env", *(f"{key}={value}" for key, value in values.items()), sys.executable, "-m", "kpx", "run"]
        self.running[name] = start_ready(self.hosts[name].namespace, command, self.directory / f"{name}.log")

    def stop(self, name: str) -> None:
        """Stop what runs on a machine, kpx or its server."""
        process = self.running.pop(name)
        process.terminate()
        process.wait(STOP_S)
        if process.stdout:
            process.stdout.close()

    def cleanup(self, name: str) -> None:
        """Run `kpx cleanup` on a load balancer whose agent was stopped."""
        with self.hosts[name].namespace.entered():
            command = [sys.executable, "-m", "kpx", "cleanup"]
            subprocess.run(command, env=environment(), capture_output=True, check=True, timeout=STOP_S)

    def probe(self, wait_s: float = 0.0) -> subprocess.CompletedProcess[str]:
        """Run the probes from the client; exit code 0 when everything is as it must be."""
        command = [sys.executable, "-m", "vagrant.probes", "--topology", str(self._told), "--wait", str(wait_s)]
        with self.client.namespace.entered():
            return subprocess.run(
                command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=PROBES_S, check=False
            )

    def be_gateway(self, address: str) -> None:
        """Let the switch have an address, as the machine has that virtual machines run on; it forwards nothing."""
        self._switch.namespace.ip(f"address add {address}/{self.topology.network.prefixlen} dev switch")

    def logs(self) -> str:
        """What agents and servers wrote."""
        return "".join(f"\n{path.name}:\n{path.read_text()}" for path in sorted(self.directory.glob("*.log")))

    def _plug_in(self) -> None:
        """Connect every machine to the switch and make it what its role asks for."""
        self._switch = self._lab.host("switch")
        switch = self._switch.namespace
        switch.ip("link add switch type bridge", "link set switch up")
        for machine in self.topology.machines:
            host = self.hosts[machine.name] = self._lab.host(machine.name, [PROVIDER_ADDRESS])
            self._attach_provider(host)
            inside = host.namespace
            switch.ip(
                f"link add {machine.name} type veth peer name {INTERFACE} netns {inside.path}",
                f"link set {machine.name} master switch up",
            )
            inside.ip(
                f"link set {INTERFACE} up",
                f"address add {machine.address}/{self.topology.network.prefixlen} broadcast + dev {INTERFACE}",
            )
            if machine.role == "lb":
                self._be_load_balancer(host)
        self.client.namespace.ip(*client_routes(self.topology))

    @staticmethod
    def _be_load_balancer(host: Host) -> None:
        """Set what a load balancer needs, and let it be as sparing of ICMP errors as any machine that is no lab."""
        for key, value in sysctls().items():
            for interface in ("all", "default", "eth0", INTERFACE) if "*" in key else ("",):
                host.namespace.sysctl(**{key.removeprefix("net.").replace("*", interface).replace(".", "__"): value})
        host.namespace.sysctl(ipv4__icmp_ratelimit=1000)

    def _attach_provider(self, host: Host) -> None:
        """Give a machine its first interface; behind it everything is prohibited, which is heard sooner than silence."""
        provider = self._lab.host(f"provider-{host.title}")
        provider.forward()
        port = self._lab.attach(host, provider)
        provider.namespace.ip(
            f"route add {self.topology.network} via {PROVIDER_ADDRESS} dev {port} onlink", "route add prohibit default"
        )

    def _serve(self, responder: Responder) -> None:
        """Start the servers, and on the load balancers what stands for their sshd."""
        for machine in self.topology.having("web"):
            self._start_server(machine.name, machine.address)
        for name in self.balancers:
            responder.listen(self.hosts[name].namespace, name, "TCP", "0.0.0.0", SSH)

    def _start_server(self, name: str, address: str) -> None:
        with (self.directory / f"{name}.log").open("a") as log:
            server = self.hosts[name].namespace.start(
                [sys.executable, "-m", "vagrant.web", name, address],
                stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, env=environment(), cwd=REPOSITORY,
            )  # fmt: skip
        self.running[name] = server
        if server.stdout is None or server.stdout.readline() != "ready\n":
            raise LabError(f"the server in {name} did not start: {self.logs()}")

    def _stop_all(self) -> None:
        for name in list(self.running):
            self.stop(name)
