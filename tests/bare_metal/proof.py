"""
What is proven, in order: each step is a method of `Proof` that returns what was seen, in a line, or raises `NotProven`.

A step that fails does not keep the later ones from being tried, except where nothing can be asked without it.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.bare_metal.controller import GUEST, Controller, another_version, wheels
from tests.bare_metal.leftovers import leftovers
from tests.bare_metal.machine import Machine

BOOT_S = 600.0
PLAY_S = 2400.0
STATE_S = 180.0
ASKING_S = 10
PATIENCE_S = 240.0
NEW_VERSION = "99.0.0"
MOST_EXPOSURE = 3.0
CLUSTER_IP, EXTERNAL_IP, NODE_IP = "10.96.0.80", "203.0.113.80", "10.0.2.15"
SHOWN = (
    *("ActiveState", "SubState", "UnitFileState", "NRestarts", "MemoryCurrent", "User"),
    *("InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic"),
)
FRONTENDS = ((CLUSTER_IP, 80), (EXTERNAL_IP, 80), (NODE_IP, 30080))


class NotProven(Exception):
    """The machine is not as it must be; the text says how it is."""


class Step(NamedTuple):
    """
    One thing to prove.

    Args:
        decisive: nothing after it can be tried when it fails.
    """

    title: str
    prove: Callable[[], str]
    decisive: bool = False


def must(condition: bool, otherwise: str) -> None:
    """Raise `NotProven` with `otherwise` unless `condition` holds."""
    if not condition:
        raise NotProven(otherwise)


class Proof:
    """All steps, against one machine."""

    def __init__(self, machine: Machine, controller: Controller, directory: Path) -> None:
        self._machine = machine
        self._controller = controller
        self._directory = directory
        self._before: dict[str, Any] = {}
        self._first_version = ""

    def steps(self) -> list[Step]:
        """What is proven, in this order."""
        return [
            Step("the image boots with systemd", self.boots, decisive=True),
            Step("ansible installs kpx", self.installs, decisive=True),
            Step("a second run changes nothing", self.changes_nothing),
            Step("the unit is active and enabled", self.active),
            Step("kpx check is content", self.checks),
            Step("proxy mode ipvs is in force", self.in_ipvs_mode),
            Step("Service addresses forward", self.forwards),
            Step("other ports of them reach nobody", self.answers_nothing_else),
            Step(f"systemd-analyze security is under {MOST_EXPOSURE}", self.hardened),
            Step("an upgrade loses no request", self.upgrades),
            Step("kill -9 loses no request", self.survives_a_kill),
            Step("systemctl stop keeps forwarding", self.stops),
            Step("it forwards again after a reboot", self.reboots, decisive=True),
            Step("uninstalling leaves nothing", self.uninstalls),
        ]

    def boots(self) -> str:
        """Power on, wait for systemd, and look at the machine before anything is installed."""
        began = time.monotonic()
        self._machine.start()
        self._machine.wait_for_ssh(BOOT_S)
        reached = time.monotonic() - began
        self._system_runs()
        startup = self._startup()
        self._furnish()
        self._before = self._state()
        release, kernel = self._machine.run(". /etc/os-release; echo $PRETTY_NAME; uname -r").splitlines()
        return f"{release}, kernel {kernel}; ssh after {reached:.0f} s, {startup}"

    def installs(self) -> str:
        """Apply the role, as site.yml does it."""
        recap = self._controller.play("site.yml", PLAY_S)
        self._first_version = self._version()
        return f"kpx {self._first_version}: {recap.ok} tasks, {recap.changed} of them changed something"

    def changes_nothing(self) -> str:
        """Apply it again, with everything as it is."""
        recap = self._controller.play("site.yml", PLAY_S)
        must(recap.changed == 0, f"changed: {', '.join(recap.changes)}")
        return f"{recap.ok} tasks, changed=0"

    def active(self) -> str:
        """Ask systemd about the unit."""
        shown = self._unit()
        must(shown["ActiveState"] == "active" and shown["SubState"] == "running", f"it is {shown}")
        must(shown["UnitFileState"] == "enabled", f"it is {shown['UnitFileState']}")
        must(shown["NRestarts"] == "0", f"it was restarted {shown['NRestarts']} times by itself")
        memory = int(shown["MemoryCurrent"]) / 2**20 if shown["MemoryCurrent"].isdigit() else 0.0
        return f"running as user {shown['User']}, {memory:.0f} MiB, never restarted by itself"

    def checks(self) -> str:
        """Ask kpx itself."""
        said = json.loads(self._machine.run("kpx check -o json", PATIENCE_S))
        troubles = [f"{check['name']}: {check['found']}" for check in said["checks"] if check["status"] == "failed"]
        must(said["able"] and not troubles and not said["findings"], f"{troubles} {said['findings']}")
        looks = sorted({check["name"] for check in said["checks"] if check["status"] == "look"})
        return f"{len(said['checks'])} checks, none failed; worth a look: {', '.join(looks) or 'nothing'}"

    def in_ipvs_mode(self) -> str:
        """Ask the agent and the kernel."""
        mode = self._machine.run(
            "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:10249/proxyMode\").read().decode())'"
        ).strip()
        must(mode == "ipvs", f"the agent says {mode!r}")
        rules = [line for line in self._machine.run("ipvsadm -Sn").splitlines() if line.startswith("-A")]
        destinations = self._machine.run("ipvsadm -Sn | grep -c '^-a' || true").strip()
        must(len(rules) >= 1, "the kernel has no virtual server")
        return f"{len(rules)} virtual servers, {destinations} destinations"

    def forwards(self) -> str:
        """Ask each address of the Service from the client."""
        return "; ".join(self._asked(address, port) for address, port in FRONTENDS)

    def answers_nothing_else(self) -> str:
        """
        Ask the Service's addresses for a port that a process of this host listens on: sshd, on every address.

        Of a ClusterIP it is refused (R5); of an external address it goes where this host's routes lead, which is nowhere here.
        """
        status, said, errors = self._greeting(NODE_IP)
        must(status == 0 and "SSH" in said, f"not even {NODE_IP} port 22 answers the client: {errors.strip()[-200:] or said}")
        for address, fate in ((CLUSTER_IP, "ConnectionRefusedError"), (EXTERNAL_IP, "TimeoutError")):
            status, said, errors = self._greeting(address)
            must(status == 1, f"{address} port 22 answered {said.strip()}" if status == 0 else errors.strip()[-200:])
            must(fate in errors, f"{address} port 22: {errors.strip()[-200:]}")
        return f"port 22 of {NODE_IP} is sshd's, of {CLUSTER_IP} refused, of {EXTERNAL_IP} unanswered"

    def hardened(self) -> str:
        """Ask systemd how exposed the unit is."""
        last = self._machine.run("systemd-analyze security --no-pager kpx.service", PATIENCE_S).strip().splitlines()[-1]
        found = re.search(r"kpx\.service: ([0-9.]+) ", last)
        exposure = float(found[1]) if found else math.inf
        must(exposure < MOST_EXPOSURE, last)
        return f"exposure {exposure}"

    def upgrades(self) -> str:
        """Install another version by the rolling play, while requests come all the time."""
        wheel = another_version(self._directory, NEW_VERSION)
        self._start_asking()
        try:
            recap = self._controller.play("upgrade.yml", PLAY_S, {"kpx_package": str(wheel)})
        finally:
            seen = self._stop_asking()
        must(self._version() == NEW_VERSION, f"kpx --version says {self._version()}")
        return f"{self._first_version} to {self._version()}, {recap.changed} changes; {seen}"

    def survives_a_kill(self) -> str:
        """Kill the agent; systemd starts it again."""
        self._start_asking()
        try:
            self._machine.run("systemctl kill -s KILL kpx.service")
            self._wait(
                "systemctl is-active --quiet kpx.service && test $(systemctl show -P NRestarts kpx.service) -ge 1", "no new agent"
            )
        finally:
            seen = self._stop_asking()
        return f"started again; {seen}"

    def stops(self) -> str:
        """Stop the agent, ask, start it again."""
        self._start_asking()
        try:
            self._machine.run("systemctl stop kpx.service", PATIENCE_S)
            must(self._unit()["ActiveState"] == "inactive", "it is not stopped")
            time.sleep(ASKING_S)
        finally:
            seen = self._stop_asking()
            self._machine.run("systemctl start kpx.service", PATIENCE_S)
        return seen

    def reboots(self) -> str:
        """Reboot, and ask as soon as somebody can be asked."""
        boot = self._machine.boot_id()
        began = time.monotonic()
        self._machine.attempt("systemctl reboot")
        self._machine.hang_up()
        self._machine.wait_for_ssh(BOOT_S, other_than=boot)
        self._system_runs()
        took = time.monotonic() - began
        shown = self._unit()
        must(shown["ActiveState"] == "active", f"kpx is {shown['ActiveState']}")
        since, ready = (int(shown[name]) / 1e6 for name in ("InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic"))
        seen = self._asked(CLUSTER_IP, 80)
        kpx = f"kpx ready {ready:.0f} s after the kernel's start, {ready - since:.0f} s after its own"
        return f"system up {took:.0f} s after the command; {kpx}; {seen}"

    def uninstalls(self) -> str:
        """Take kpx away, and compare with the machine as it was."""
        self._controller.play("uninstall.yml", PLAY_S)
        after = self._state()
        left = leftovers(self._before, after)
        must(not left, f"{len(left)} differences: " + "; ".join(left[:20]))
        must(self._machine.attempt("systemctl cat kpx.service")[0] != 0, "systemd still knows the unit")
        return f"{len(after['files'])} files, rules, sets, virtual servers, routes as before"

    def evidence(self) -> str:
        """What helps to find out why a step failed."""
        commands = (
            "systemctl --no-pager --full status kpx.service",
            "journalctl --no-pager -b -u kpx.service -n 300",
            "journalctl --no-pager -b -p warning -n 100",
            "kpx check; kpx diff; kpx get services",
            "ipvsadm -Ln; ipset list -terse; iptables-save; ip rule; ip route show table all",
        )
        parts = []
        for command in commands:
            status, output, errors = self._machine.attempt(f"( {command} ) 2>&1", PATIENCE_S)
            parts.append(f"$ {command}\n{output}{errors}[{status}]\n")
        return "\n".join(parts)

    def _furnish(self) -> None:
        """Bring neighbours and a mirror of Python packages."""
        self._machine.send(wheels(), "/srv/wheels")
        self._machine.send(sorted(GUEST.glob("*.py")), "/opt/shop")
        units = sorted(GUEST.glob("*.service"))
        self._machine.send(units, "/etc/systemd/system")
        self._machine.run(f"systemctl daemon-reload && systemctl enable --now {' '.join(unit.name for unit in units)}")

    def _unit(self) -> dict[str, str]:
        lines = self._machine.run(f"systemctl show kpx.service -p {','.join(SHOWN)}").splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def _version(self) -> str:
        return self._machine.run("kpx --version", PATIENCE_S).split()[-1]

    def _state(self) -> dict[str, Any]:
        return dict(json.loads(self._machine.run("python3 /opt/shop/state.py", STATE_S)))

    def _system_runs(self) -> None:
        status, said, _ = self._machine.attempt("systemctl is-system-running --wait", BOOT_S)
        must(status == 0, f"systemd says {said.strip()}: {self._machine.attempt('systemctl --failed --no-legend')[1].strip()}")

    def _startup(self) -> str:
        return (
            self._machine.run("systemd-analyze | head -n 1").strip().removeprefix("Startup finished in ").rpartition("= ")[2]
            + " by its own account"
        )

    def _wait(self, condition: str, otherwise: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self._machine.attempt(condition)[0]:
            must(time.monotonic() < deadline, f"{otherwise} after {PATIENCE_S:.0f} s")
            time.sleep(1)

    def _greeting(self, address: str) -> tuple[int, str, str]:
        question = f"import socket; print(socket.create_connection(('{address}', 22), 5).recv(3))"
        return self._machine.attempt(f'ip netns exec client python3 -c "{question}"', PATIENCE_S)

    def _asked(self, address: str, port: int) -> str:
        command = (
            f"ip netns exec client python3 /opt/shop/ask.py {address} {port} /run/asked.json {ASKING_S} && cat /run/asked.json"
        )
        return judged(f"{address}:{port}", json.loads(self._machine.run(command, PATIENCE_S)))

    def _start_asking(self) -> None:
        command = f"ip netns exec client python3 /opt/shop/ask.py {CLUSTER_IP} 80 /run/asked.json"
        self._machine.run(f"rm -f /run/asked.json; systemd-run --quiet --unit=asking {command}")
        self._wait("test -s /run/asked.json", "nothing was asked")

    def _stop_asking(self) -> str:
        # It ends by a signal and by nothing else; what it wrote before an end of its own would look like success.
        self._machine.run("systemctl is-active asking.service && systemctl stop asking.service")
        return judged(f"{CLUSTER_IP}:80", json.loads(self._machine.run("cat /run/asked.json")))


def judged(name: str, seen: dict[str, Any]) -> str:
    """
    Say what guest/ask.py has seen.

    Raises:
        NotProven: a request failed, the connection that stays did not stay, or not both servers had their share.
    """
    answers: dict[str, int] = seen["answers"]
    failures: list[str] = seen["failures"]
    must(
        not failures,
        f"{name}: {len(failures)} of {len(failures) + sum(answers.values())} requests failed: {'; '.join(failures[:3])}",
    )
    must(not seen["broken"], f"{name}: the connection that stays was lost {seen['broken']}")
    must(sorted(answers) == ["web1", "web2"], f"{name}: answered by {answers or 'nobody'}")
    total = sum(answers.values())
    return f"{name} {total} requests, 0 failed (web1 {answers['web1']}, web2 {answers['web2']}), {seen['kept']} on one connection"
