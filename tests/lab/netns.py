"""
Network namespaces that cannot outlive the test run.

A namespace is a file descriptor, not a name: it exists as long as somebody holds it open, so a killed test run leaves
nothing behind and two runs never meet. Only the demonstration, which people want to enter, gives its namespaces names.

Entering one is a matter of microseconds (setns(2) on the calling thread), and a socket stays for ever in the namespace
it was created in. So the whole lab lives in one process: sockets of all hosts, servers and clients alike, are opened
from here, and only programs under test are processes of their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
NAMES = Path("/run/netns")
PATIENCE = float(os.environ.get("KPX_LAB_PATIENCE", "1"))
"""What deadlines are multiplied by: 1 on a real machine, 6 or so under emulation, where starting Python takes seconds."""
COMMAND_TIMEOUT_S = 30.0 * PATIENCE

_libc = ctypes.CDLL(None, use_errno=True)


class LabError(RuntimeError):
    """The lab itself could not be built; this is no verdict on what is tested in it."""


def require_root() -> None:
    """Refuse in one line to build a lab without the right to: packet tests fail without root, they are not skipped."""
    if os.geteuid() != 0:
        raise LabError("packet tests build network namespaces and need root: run them with sudo (scripts/test does)")


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise LabError(f"{name}: {os.strerror(error)}")


def _raise_loopback() -> None:
    """`ip link set lo up` in the current namespace, without a process: the fresh interface has no other flags (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


class Namespace:
    """
    One network namespace with its loopback up.

    Args:
        title: who this is in messages.
        persistent_name: also give it this name under /run/netns, where it stays until `ip netns del`.
    """

    def __init__(self, title: str, persistent_name: str = "") -> None:
        require_root()
        self.title = title
        self.persistent_name = persistent_name
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if persistent_name:
                subprocess.run(["ip", "netns", "add", persistent_name], check=True, timeout=COMMAND_TIMEOUT_S)
                self._fd = os.open(NAMES / persistent_name, os.O_RDONLY | os.O_CLOEXEC)
                _call("setns", self._fd, CLONE_NEWNET)
            else:
                _call("unshare", CLONE_NEWNET)
                self._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            _raise_loopback()
        finally:
            _call("setns", home, CLONE_NEWNET)
            os.close(home)

    @classmethod
    def current(cls, title: str) -> Namespace:
        """The namespace this process is in."""
        namespace = cls.__new__(cls)
        namespace.title, namespace.persistent_name = title, ""
        namespace._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        return namespace

    @classmethod
    def at(cls, path: str) -> Namespace:
        """The namespace of another process, by its `path`."""
        namespace = cls.__new__(cls)
        namespace.title, namespace.persistent_name = path, ""
        namespace._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return namespace

    @property
    def path(self) -> str:
        """Where `ip`, `nsenter` and the like find it while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be in the namespace, with this thread only, inside the `with` block; blocks nest."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("setns", self._fd, CLONE_NEWNET)
            yield
        finally:
            _call("setns", home, CLONE_NEWNET)
            os.close(home)

    def run(self, *command: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program inside and wait for it; what it wrote to stderr is in the error when it fails."""
        with self.entered():
            done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
        if check and done.returncode != 0:
            raise LabError(f"{self.title}: {' '.join(command)}: exit code {done.returncode}\n{stdin}{done.stderr}")
        return done

    def start(self, command: Sequence[str], stderr: IO[Any] | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start a program inside and return at once; who starts it stops it."""
        with self.entered():
            return subprocess.Popen(command, stderr=stderr, text=True, **options)

    def ip(self, *lines: str, version: int = 0) -> None:
        """Run lines of iproute2 in one process, if need be for one IP version; the first that fails is an error."""
        if lines:
            self.run("ip", *([f"-{version}"] if version else []), "-batch", "-", stdin="\n".join(lines) + "\n")

    def sysctl(self, **values: int) -> None:
        """Set sysctls; dots are written as double underscores, `net.` is understood."""
        with self.entered():
            for key, value in values.items():
                path = Path("/proc/sys/net", *key.split("__"))
                path.write_text(str(value))

    def close(self) -> None:
        """Let go of it; the kernel removes it with everything inside unless a process still runs there."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self.persistent_name:
            subprocess.run(["ip", "netns", "del", self.persistent_name], check=False, timeout=COMMAND_TIMEOUT_S)
            self.persistent_name = ""
