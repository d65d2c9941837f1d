"""
A virtual machine that boots a disk image as a server does, reached by ssh and by nothing else.

QEMU emulates the processor, so no virtualization support is needed. The image stays as it is: what the machine writes goes to
a temporary file of QEMU's. The machine ends with this process, whatever ends that.
"""

from __future__ import annotations

import base64
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

SHUTDOWN_S = 10.0
BETWEEN_ATTEMPTS_S = 1.0
# What costs an emulated kernel time and tells us nothing; interfaces are named as the image's network configuration names them.
KERNEL_OPTIONS = "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off audit=0 quiet systemd.show_status=no"


class MachineError(Exception):
    """The machine, or a command in it, did not do what it must; the text says what and what it said."""


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Machine:
    """
    The machine.

    Args:
        image: the directory tests/bare_metal/image made.
        directory: where the key, the console's log and the settings of ssh are kept.
    """

    user = "root"

    def __init__(self, image: Path, directory: Path, cpus: int = 2, memory: str = "2G") -> None:
        self.console = directory / "console.log"
        self.ssh_config = directory / "ssh_config"
        self._image = image
        self._directory = directory
        self._size = ["-smp", str(cpus), "-m", memory]
        self._port = free_port()
        self._qemu: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Power on; `wait_for_ssh` tells when it can be asked something."""
        key = self._directory / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bare-metal", "-f", key], check=True)
        self.ssh_config.write_text(self._ssh_settings(key))
        # systemd puts this credential into root's authorized_keys before sshd starts (tmpfiles.d, provision.conf).
        credential = base64.b64encode(key.with_suffix(".pub").read_bytes()).decode()
        smbios = f"type=11,value=io.systemd.credential.binary:ssh.authorized_keys.root={credential}"
        disk = f"file={self._image}/disk.raw,format=raw,if=virtio,snapshot=on,cache=unsafe"
        network = f"user,id=net,ipv6=off,restrict=on,hostfwd=tcp:127.0.0.1:{self._port}-:22"
        # A plain processor: the features of a modern one are what emulation is slow at.
        command = ["qemu-system-x86_64", "-machine", "q35", "-cpu", "qemu64", "-accel", "tcg,tb-size=512", *self._size]
        command += ["-kernel", f"{self._image}/vmlinuz", "-initrd", f"{self._image}/initrd.img", "-append", KERNEL_OPTIONS]
        command += ["-drive", disk, "-netdev", network, "-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci"]
        command += ["-smbios", smbios, "-nodefaults", "-display", "none", "-serial", f"file:{self.console}"]
        self._qemu = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=(self._directory / "qemu.log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def stop(self) -> None:
        """Power off, without asking anybody; safe at any time."""
        self.hang_up()
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait(SHUTDOWN_S)
            self._qemu = None

    def hang_up(self) -> None:
        """Close the connections that ssh holds ready, which do not survive a reboot."""
        if self.ssh_config.exists():
            subprocess.run([*self._ssh(), "-O", "exit", "machine"], capture_output=True, check=False)

    def run(self, command: str, timeout: float = 120.0, input_: bytes | None = None) -> str:
        """
        Run a shell command as root and return what it prints.

        Raises:
            MachineError: it failed, or was not through after `timeout` seconds.
        """
        status, output, errors = self.attempt(command, timeout, input_)
        if status:
            said = (errors or output).strip()
            raise MachineError(f"`{command}` ended with {status}: {said[-2000:] or 'it said nothing'}")
        return output

    def attempt(self, command: str, timeout: float = 120.0, input_: bytes | None = None) -> tuple[int, str, str]:
        """Run a shell command as root; return its exit status (255: not reached), what it printed and what it complained of."""
        given: dict[str, object] = {"stdin": subprocess.DEVNULL} if input_ is None else {"input": input_}
        try:
            done = subprocess.run(
                [*self._ssh(), "machine", command],
                capture_output=True,
                timeout=timeout,
                check=False,
                **given,  # type: ignore[call-overload]
            )
        except subprocess.TimeoutExpired:
            raise MachineError(f"`{command}` was not through after {timeout:.0f} s") from None
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def send(self, files: Sequence[Path], target: str) -> None:
        """Copy files into a directory of the machine."""
        packed = subprocess.run(
            ["tar", "-c", *(argument for file in files for argument in ("-C", str(file.parent), file.name))],
            capture_output=True,
            check=True,
        )
        self.run(f"mkdir -p {target} && tar -x --no-same-owner -C {target}", input_=packed.stdout)

    def boot_id(self) -> str:
        """Return what tells this boot from all others."""
        return self.run("cat /proc/sys/kernel/random/boot_id").strip()

    def wait_for_ssh(self, timeout: float, other_than: str = "") -> None:
        """
        Wait until a command can be run.

        Args:
            other_than: the boot that must be over.

        Raises:
            MachineError: not in time, or the machine ended.
        """
        deadline = time.monotonic() + timeout
        while True:
            if self._qemu is None or self._qemu.poll() is not None:
                raise MachineError(f"the machine ended: {(self._directory / 'qemu.log').read_text()[-2000:]}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise MachineError(f"no ssh after {timeout:.0f} s; its console is in {self.console}")
            try:
                if self.boot_id() != other_than:
                    return
            except MachineError:
                self.hang_up()
            time.sleep(BETWEEN_ATTEMPTS_S)

    def _ssh(self) -> list[str]:
        return ["ssh", "-F", str(self.ssh_config), "-o", "BatchMode=yes"]

    def _ssh_settings(self, key: Path) -> str:
        # Whose key it is does not matter: who can listen on a port of this machine's loopback is root here already.
        settings = {
            "HostName": "127.0.0.1",
            "Port": self._port,
            "User": self.user,
            "IdentityFile": key,
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ConnectTimeout": 30,
            "ServerAliveInterval": 15,
            "ServerAliveCountMax": 8,
            "ControlMaster": "auto",
            "ControlPersist": 120,
            "ControlPath": self._directory / "ssh-%C",
        }
        return "Host machine\n" + "".join(f"    {name} {value}\n" for name, value in settings.items())
