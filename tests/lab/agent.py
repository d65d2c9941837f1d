"""
The agent under test: `kpx run` as anybody would start it, in a node's namespace, fed by files.

Whether it has caught up is asked of the kernel and not of the agent: after every change of the manifests a marker Service
is added, with an address nobody used before. It has no endpoints, so once a connection to it is refused (R1) all that was
written before is in force too. A file that vanishes is believed a moment later than one that appears; so after files were
deleted the last marker is deleted as well, and waited for until its address is nobody's. A data plane without transactions
may refuse the marker while it still writes the rest of the same change: there a second marker, added once the first is in
force, can only be read after that change is through.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.lab import dataplane, launch
from tests.lab.netns import PATIENCE, Namespace
from tests.lab.probes import probe
from tests.lab.topology import Host

REPOSITORY = Path(__file__).resolve().parents[2]
MARKER_PREFIX = {4: "198.18.0.", 6: "2001:2::"}
MARKER_RANGES = ("198.18.0.0/15", "2001:2::/48")
CATCH_UP_S = 10.0 * PATIENCE
STOP_S = 10.0 * PATIENCE
VERB_S = 30.0 * PATIENCE

Object = Mapping[str, Any]


class Agent:
    """
    One agent on one node.

    Args:
        node: where it runs; the fabric beyond it must refuse `MARKER_RANGES` (see `refuse_markers`).
        directory: an empty directory for manifests and the log.
        options: options that all verbs take.
        versions: the IP versions that markers are needed for; the families of a node are written independently.

    Attributes:
        mode: the data plane, for `--proxy-mode`.
        source: the options that say where objects come from.
        run_options: options of `kpx run` that other verbs do not take.
        build: where another build of kpx is, for `kpx run`; None for this checkout.
    """

    def __init__(self, node: Host, directory: Path, options: Sequence[str] = (), versions: Sequence[int] = (4,)) -> None:
        self.node = node
        self.manifests = directory / "manifests"
        self.manifests.mkdir()
        self.log = directory / "agent.log"
        self.options = tuple(options)
        self.mode = dataplane.CHOSEN
        self.source: tuple[str, ...] = ("--manifests", str(self.manifests))
        self.run_options: tuple[str, ...] = ()
        self.build: Path | None = None
        self._versions = tuple(versions)
        self._numbers = itertools.count(1)
        self._markers: tuple[str, ...] = ()
        self._gone_markers: tuple[str, ...] = ()
        self._process: launch.Process | None = None

    @property
    def pid(self) -> int:
        """The process id of the running agent."""
        assert self._process is not None, "the agent does not run"
        return self._process.pid

    def command(self, verb: str, *arguments: str) -> list[str]:
        """The command line of a verb with this agent's manifests and options."""
        options = (*self.source, "--proxy-mode", self.mode, *self.options)
        return [*launch.KPX, verb, *options, *arguments]

    def kpx(self, verb: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run another verb of kpx on the same node with the same options and wait for it."""
        with self.node.namespace.entered():
            done = launch.run(self.command(verb, *arguments), VERB_S, environment())
        said = f"{done.stdout}{done.stderr}"
        assert not check or done.returncode == 0, f"kpx {verb} {' '.join(arguments)}: exit code {done.returncode}\n{said}"
        return done

    def bare(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run kpx on the node with these arguments alone."""
        with self.node.namespace.entered():
            return launch.run([*launch.KPX, *arguments], VERB_S, environment())

    def write(self, objects: Iterable[Object], mark: bool = True) -> None:
        """Create or replace objects, one file each, then a marker."""
        for each in objects:
            self._put(file_name(each["kind"], each["metadata"]), each)
        if mark:
            self.mark()

    def delete(self, objects: Iterable[Mapping[str, str]], mark: bool = True) -> None:
        """Delete objects named by kind, namespace and name, then the last marker, and add a new one."""
        for each in objects:
            (self.manifests / file_name(each["kind"], each)).unlink()
            self._gone_markers = self._markers
        for old in self.manifests.glob("zz-marker-*.json") if self._gone_markers else ():
            old.unlink()
        if mark:
            self.mark()

    def mark(self) -> None:
        """Add a marker; `catch_up` waits for it."""
        number = next(self._numbers)
        self._markers = tuple(f"{MARKER_PREFIX[version]}{number}" for version in self._versions)
        families = [f"IPv{version}" for version in self._versions]
        spec = {"clusterIPs": list(self._markers), "clusterIP": self._markers[0], "ipFamilies": families, "ports": [{"port": 9}]}
        marker = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": "lab", "name": f"marker-{number}"},
            "spec": spec,
        }
        self._put(f"zz-marker-{number}.json", marker)

    def start(self) -> None:
        """Start the agent and wait until all that is written is in force."""
        self.mark()
        self.launch()
        self.catch_up()

    def launch(self) -> None:
        """Start the agent and wait until it says that it is ready, as systemd would; touches no manifest."""
        self._process = start_ready(self.node.namespace, self._run_command(), self.log, environment(self.build))

    def begin(self) -> None:
        """Start the agent and do not wait."""
        with self.node.namespace.entered(), self.log.open("a") as output:
            self._process = launch.start(self._run_command(), output, environment(self.build))

    def _run_command(self) -> list[str]:
        command = self.command("run", *self.run_options)
        # -P keeps the directory this runs in, which has a kpx too, off the path.
        return command if self.build is None else [command[0], "-P", *command[1:]]

    def catch_up(self) -> None:
        """
        Wait until everything written so far is in force; fails after `CATCH_UP_S` with the agent's log.

        What goes, goes after a marker that came in the same round; a second one comes in a later round.
        """
        self._await_markers()
        if self._markers and self._process is not None:
            self.mark()
            self._await_markers()

    def _await_markers(self) -> None:
        deadline = time.monotonic() + CATCH_UP_S
        while not all(map(self._is_refused, self._markers)) or any(map(self._is_refused, self._gone_markers)):
            assert self._process is None or self._process.poll() is None, f"the agent died: {self.log_tail()}"
            assert time.monotonic() < deadline, f"not in force after {CATCH_UP_S} s: {self.log_tail()}"
            time.sleep(0.005)
        self._gone_markers = ()

    def _is_refused(self, marker: str) -> bool:
        return probe(self.node.namespace, "TCP", "", marker, 9, timeout_s=0.2).verdict == "refused"

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the agent with a signal, wait for it, return its exit code; nothing when it does not run."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(number)
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def ended(self, timeout_s: float) -> int:
        """Wait until the agent ends by itself and return its exit code."""
        assert self._process is not None, "the agent does not run"
        process, self._process = self._process, None
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def log_tail(self, lines: int = 30) -> str:
        """The last lines the agent wrote."""
        text = self.log.read_text() if self.log.exists() else ""
        return "\n" + "\n".join(text.splitlines()[-lines:])

    def _put(self, name: str, content: Object) -> None:
        hidden = self.manifests / f".{name}"
        hidden.write_text(json.dumps(content))
        hidden.rename(self.manifests / name)


def start_ready(
    namespace: Namespace, command: Sequence[str], log: Path, variables: Mapping[str, str] | None = None
) -> launch.Process:
    """
    Start an agent in a namespace and wait until it says it is ready, in the way systemd is told (sd_notify(3)).

    Raises:
        AssertionError: it ended, or was not ready within `CATCH_UP_S`; what it wrote is in the message.
    """
    address = log.with_suffix(".ready")
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, log.open("a") as output:
        ready.bind(str(address))
        ready.settimeout(0.1)
        told = {**(environment() if variables is None else variables), "NOTIFY_SOCKET": str(address)}
        with namespace.entered():
            process = launch.start(command, output, told)
        deadline = time.monotonic() + CATCH_UP_S
        while True:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in ready.recv(4096):
                    return process
            if process.poll() is None and time.monotonic() < deadline:
                continue
            process.kill()
            process.wait()
            raise AssertionError(f"the agent did not become ready: {log.read_text()}")


def environment(build: Path | None = None) -> dict[str, str]:
    """The environment of programs under test: kpx of this checkout or of a build, and no setting of whoever runs the tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KPX_") and key != "NOTIFY_SOCKET"}
    return {**kept, "PYTHONPATH": str(build or REPOSITORY), "PYTHONUNBUFFERED": "1"}


def file_name(kind: str, metadata: Mapping[str, str]) -> str:
    """The file an object is kept in."""
    return "-".join(part for part in (kind.lower(), metadata.get("namespace", ""), metadata["name"]) if part) + ".json"


def refuse_markers(fabric: Host) -> None:
    """Let the network beyond the nodes say that it knows no marker."""
    fabric.namespace.ip(*(f"route add prohibit {each}" for each in MARKER_RANGES))
