"""
The demonstration behind scripts/demo: two nodes, four pods and a client on one machine, and a table of who reached whom.

Whatever is seen is compared with what must be seen, so a demonstration that ends well is a test that passed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scripts.demo_manifests import NODES, SECOND_POD, TOMCAT
from tests.lab.agent import REPOSITORY, environment, start_ready
from tests.lab.holdings import left_behind
from tests.lab.netns import NAMES, PATIENCE
from tests.lab.topology import Host, Lab

PREFIX = "kpx-demo-"
HOME = Path("/run/kpx-demo")
MANIFESTS = HOME / "manifests"
STARTED = HOME / "started.json"
CONNECTIONS = 30
DEADLINE_S = 5.0 * PATIENCE

NODE_ADDRESSES = {"node1": "192.168.56.11", "node2": "192.168.56.12"}
PODS = {
    "tomcat-1": ("node1", "10.244.1.10"), "shell-1": ("node1", "10.244.1.20"),
    "tomcat-2": ("node2", "10.244.2.10"), "shell-2": ("node2", "10.244.2.20"),
}  # fmt: skip
CLIENT = "203.0.113.50"
CLUSTER_IP = "10.96.0.80"
PORTS = ("8080", "8009")


class Ask(NamedTuple):
    """Who asks whom, and which source the answering pod must see."""

    who: str
    address: str
    port: int
    what: str
    seen: dict[str, str]


class Demo:
    """The lab with everything that runs in it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.hosts: dict[str, Host] = {}
        self.processes: list[subprocess.Popen[str]] = []
        self.wrong: list[str] = []

    def lay_out(self) -> None:
        """Make the client, the nodes, the pods, and the network between them."""
        fabric = self.lab.fabric()
        for name, address in NODE_ADDRESSES.items():
            node = self.hosts[name] = self.lab.host(name, [address])
            self.lab.uplink(node, fabric, pods=[pod for home, pod in PODS.values() if home == name])
        for name, (home, address) in PODS.items():
            self.hosts[name] = self.lab.host(name, [address])
            self.lab.attach(self.hosts[name], self.hosts[home])
        self.hosts["client"] = self.lab.host("client", [CLIENT])
        self.lab.attach(self.hosts["client"], fabric)

    def start_pods(self) -> None:
        """Start the servers in the two tomcat pods; each says when it listens."""
        for name in ("tomcat-1", "tomcat-2"):
            command = [sys.executable, "-m", "scripts.demo_pod", PODS[name][1], name, *PORTS]
            # Nothing that may outlive this process holds on to its terminal or its pipes.
            with (HOME / f"{name}.log").open("a") as log:
                pod = self.hosts[name].namespace.start(
                    command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, env=environment(),
                    start_new_session=True,
                )  # fmt: skip
            self._remember(pod)
            assert pod.stdout is not None
            if pod.stdout.readline() != "ready\n":
                raise SystemExit(f"scripts/demo: the server in {name} did not start")

    def start_agents(self) -> None:
        """Start `kpx run` on both nodes, reading the same directory."""
        for name in NODE_ADDRESSES:
            self._remember(start_ready(self.hosts[name].namespace, agent_command(name), HOME / f"{name}.log"))

    def ask(self, ask: Ask) -> Counter[tuple[str, str]]:
        """Make many new connections; return how often each pod answered and which source it saw."""
        answers: Counter[tuple[str, str]] = Counter()
        for _ in range(CONNECTIONS):
            answers[self.connect(ask)] += 1
        return answers

    def connect(self, ask: Ask) -> tuple[str, str]:
        """One new connection: the pod that answered and the source it saw."""
        connection = http.client.HTTPConnection(ask.address, ask.port, timeout=2 * PATIENCE)
        try:
            with self.hosts[ask.who].namespace.entered():
                connection.connect()
            connection.request("GET", "/")
            pod, seen = connection.getresponse().read().decode().split()
        except OSError as error:
            return "nobody", f"({error})"
        finally:
            connection.close()
        return pod, seen

    def stop(self) -> None:
        """Stop everything that was started here."""
        for process in reversed(self.processes):
            process.terminate()
            process.wait(10 * PATIENCE)
            if process.stdout:
                process.stdout.close()

    def _remember(self, process: subprocess.Popen[str]) -> None:
        self.processes.append(process)
        STARTED.write_text(json.dumps({"kept": False, "processes": [each.pid for each in self.processes]}))


def agent_command(node: str) -> list[str]:
    """The command line of an agent, as one would type it on the node."""
    kpx = str(Path(sys.executable).with_name("kpx"))
    mode = os.environ.get("KPX_PROXY_MODE", "")
    options = ["--hostname-override", node, "--cluster-cidr", "10.244.0.0/16", *(["--proxy-mode", mode] if mode else [])]
    return [kpx, "run", "--manifests", str(MANIFESTS), *options]


def asks() -> Iterator[Ask]:
    """What is shown, and what must be seen: section 6 of the behaviour contract, rules M1, M2, M7 and M16."""
    n1, n2 = NODE_ADDRESSES.values()
    for address, port, name in ((n1, 30080, "node1"), (n2, 30080, "node2"), (n1, 30009, "node1")):
        yield Ask("client", address, port, f"{name}:{port}", dict.fromkeys(("tomcat-1", "tomcat-2"), address))
    for who, port in (("shell-1", 8080), ("shell-2", 8009)):
        yield Ask(who, CLUSTER_IP, port, f"ClusterIP:{port}", dict.fromkeys(("tomcat-1", "tomcat-2"), PODS[who][1]))
    for who, address in NODE_ADDRESSES.items():
        yield Ask(who, CLUSTER_IP, 8080, "ClusterIP:8080", dict.fromkeys(("tomcat-1", "tomcat-2"), address))
    for who, other, node in (("tomcat-1", "tomcat-2", n1), ("tomcat-2", "tomcat-1", n2)):
        # A pod that meets itself must see somebody else, or it would answer itself directly.
        yield Ask(who, CLUSTER_IP, 8080, "ClusterIP:8080", {who: node, other: PODS[who][1]})


def write_manifest(name: str, text: str) -> None:
    """Write under a hidden name and rename, so that nobody reads half a file."""
    hidden = MANIFESTS / f".{name}"
    hidden.write_text(text)
    hidden.rename(MANIFESTS / name)


def say(text: str = "") -> None:
    """Tell people, at once."""
    print(text, flush=True)


def show(demo: Demo, rows: list[Ask], gone: str = "") -> None:
    """Ask, print the table, and note what is not as it must be."""
    say(f"  {'who asked':10}{'whom':16}{'who answered':24}{'source the pod saw'}")
    for ask in rows:
        must = {(pod, seen) for pod, seen in ask.seen.items() if pod != gone}
        answers = demo.ask(ask)
        for number, ((pod, seen), count) in enumerate(sorted(answers.items())):
            who, whom = (ask.who, ask.what) if number == 0 else ("", "")
            mark = "" if (pod, seen) in must else "   <- wrong"
            say(f"  {who:10}{whom:16}{f'{pod}  {count} of {CONNECTIONS}':24}{seen}{mark}")
        if set(answers) != must:
            expected = ", ".join(f"{pod} seeing {seen}" for pod, seen in sorted(must))
            demo.wrong.append(f"{ask.who} -> {ask.what}: expected {expected}")


def take_second_pod_away(demo: Demo) -> None:
    """Edit the slice and wait until new connections through both nodes know."""
    write_manifest("tomcat.yaml", TOMCAT.replace(SECOND_POD, ""))
    since = time.monotonic()
    for ask in list(asks())[:2]:
        while any(demo.connect(ask)[0] != "tomcat-1" for _ in range(10)):
            if time.monotonic() > since + DEADLINE_S:
                demo.wrong.append(f"{ask.what} still sends connections to the pod that is gone")
                return
    say(f"tomcat-2 taken out of the EndpointSlice; new connections know after {time.monotonic() - since:.2f} s:")


def clean_up(demo: Demo) -> None:
    """Stop the agents, run `kpx cleanup`, and see that no trace is left on either node."""
    demo.stop()
    kpx = str(Path(sys.executable).with_name("kpx"))
    for name in NODE_ADDRESSES:
        namespace = demo.hosts[name].namespace
        namespace.run(kpx, "cleanup")
        if left_behind(namespace):
            demo.wrong.append(f"kpx cleanup left something behind on {name}")
    say("cleaned up: kpx cleanup on both nodes, then the namespaces")


def leftovers() -> list[str]:
    """The namespaces of a lab that is still there."""
    return sorted(path.name for path in NAMES.glob(f"{PREFIX}*")) if NAMES.is_dir() else []


def remove() -> None:
    """End what an earlier demonstration started, and only that; then its namespaces and files go."""
    started = json.loads(STARTED.read_text())["processes"] if STARTED.exists() else []
    inside: set[int] = set()
    for name in leftovers():
        listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
        inside |= {int(each) for each in listed.stdout.split()}
    for pid in inside & set(started):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    for name in leftovers():
        subprocess.run(["ip", "netns", "del", name], check=False)
    shutil.rmtree(HOME, ignore_errors=True)


def is_kept() -> bool:
    """Tell whether somebody kept a lab and may be using it."""
    return bool(leftovers()) and STARTED.exists() and bool(json.loads(STARTED.read_text())["kept"])


def explain_how_to_enter(demo: Demo) -> None:
    """Say what can be done with the lab that stays."""
    STARTED.write_text(json.dumps({"kept": True, "processes": [each.pid for each in demo.processes]}))
    for process in demo.processes:
        process.returncode = 0  # they go on without us
    kpx = Path(sys.executable).with_name("kpx")
    say("The lab stays up. Namespaces: " + " ".join(f"{PREFIX}{name}" for name in demo.hosts))
    say("Try:")
    say(f"  ip netns exec {PREFIX}client curl -s http://{NODE_ADDRESSES['node1']}:30080/")
    say(f"  ip netns exec {PREFIX}node1 {kpx} get services --manifests {MANIFESTS}")
    say(f"  ip netns exec {PREFIX}node1 nft list ruleset")
    say(f"  ip netns exec {PREFIX}shell-1 bash")
    say(f"  edit {MANIFESTS}/tomcat.yaml; the agents' logs are {HOME}/node1.log and node2.log")
    say("Remove it with: scripts/demo --remove")


def run(keep: bool) -> list[str]:
    """Show everything; return what was wrong."""
    remove()
    MANIFESTS.mkdir(parents=True)
    with Lab(persistent_prefix=PREFIX) as lab, contextlib.ExitStack() as undo:
        demo = Demo(lab)
        undo.callback(demo.stop)
        say("laying out the lab: a client, two nodes, four pods")
        demo.lay_out()
        demo.start_pods()
        write_manifest("nodes.yaml", NODES)
        write_manifest("tomcat.yaml", TOMCAT)
        say(f"starting kpx on node1 and node2: {' '.join(agent_command('node1'))}")
        demo.start_agents()
        say(f"\n{CONNECTIONS} new connections each:")
        show(demo, list(asks()))
        say()
        take_second_pod_away(demo)
        show(demo, list(asks()), gone="tomcat-2")
        say()
        undo.pop_all()
        if keep:
            write_manifest("tomcat.yaml", TOMCAT)
            explain_how_to_enter(demo)
            lab.keep()
        else:
            clean_up(demo)
    if not keep:
        shutil.rmtree(HOME, ignore_errors=True)
    return demo.wrong


def main(arguments: list[str]) -> int:
    """Show, keep or remove; the exit code is 0 when everything was as it must be."""
    os.chdir(REPOSITORY)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if arguments == ["--remove"]:
        remove()
        say("the lab is gone")
        return 0
    if is_kept():
        print("scripts/demo: a lab that was kept is still up; remove it first: scripts/demo --remove", file=sys.stderr)
        return 2
    wrong = run(keep=arguments == ["--keep"])
    for each in wrong:
        print(f"scripts/demo: {each}", file=sys.stderr)
    say("everything went as it should" if not wrong else f"{len(wrong)} things were not as they should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (AssertionError, RuntimeError) as error:
        sys.exit(f"scripts/demo: {error}")
