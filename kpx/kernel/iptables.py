"""
iptables rules, written and read through iptables' own programs.

The two kernel interfaces behind iptables are private to it, and which of them holds the rules only the installed programs know.
So they are run: one process a family and change, with the rules on standard input.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

from kpx.errors import CapabilityError, KernelError, PermissionDenied

PROGRAMS: Final = {4: "iptables", 6: "ip6tables"}
DIRECTORIES: Final = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where administrators' programs are, which are not in everybody's PATH."""
TIMEOUT_S = 30.0
"""How long a program may take, waiting for the lock of other users of iptables included."""
IPV6_IS_HERE: Final = "/proc/net/if_inet6"

_PROGRAM = re.compile(r"^ip6?tables[\w-]*( v\S+ \(\w+\))?: ")
_CHAIN = re.compile(r":(\S+) (\S+)")
_COUNTERS = re.compile(r"^\[\d+:\d+\] ")
_NO_TABLE = re.compile(r"table .*does not exist", re.IGNORECASE)
_PERMISSION = re.compile(r"Permission denied|you must be root|Operation not permitted", re.IGNORECASE)


class Iptables:
    """iptables of the network namespace it is used in."""

    def __init__(self, variant: str = "") -> None:
        """Choose the programs: "nft" or "legacy" for those that keep rules there, "" for those the system uses."""
        self.variant = variant

    def name(self, family: int) -> str:
        """Return what people type for an IP family: "iptables", or with a variant "ip6tables-legacy"."""
        return f"{PROGRAMS[family]}-{self.variant}" if self.variant else PROGRAMS[family]

    def restore(self, family: int, text: str) -> None:
        """
        Write rules; what the text does not name stays as it is, each table in it changes at once or not at all.

        Args:
            family: IP version, 4 or 6.
            text: in the format of iptables-save. `:CHAIN -` makes a chain, or empties it when it is there.

        Raises:
            CapabilityError: no iptables, or no such IP family. PermissionDenied: no right to.
            KernelError: refused; with the program's own words.
        """
        self._run(family, "restore", ("--noflush", "--wait"), text)

    def save(self, family: int, tables: Sequence[str] = ()) -> dict[str, list[str]]:
        """
        Read rules.

        Args:
            family: IP version, 4 or 6.
            tables: only these; all there are when empty.

        Returns:
            For each table its lines without counters: its chains (`:KPX-STEER -`, `:INPUT ACCEPT`), then its rules (`-A ...`).
            A table that was asked for and is not there has no lines.
        """
        if not tables:
            return read_tables(self._run(family, "save", ()))
        found: dict[str, list[str]] = {}
        for table in tables:
            try:
                found[table] = read_tables(self._run(family, "save", ("-t", table))).get(table, [])
            except KernelError as error:
                if not _NO_TABLE.search(error.text):
                    raise
                found[table] = []
        return found

    @property
    def legacy(self) -> bool:
        """
        Whether iptables keeps its rules in ip_tables, not in nf_tables.

        Raises:
            CapabilityError: there is no iptables.
        """
        return "(nf_tables)" not in self._run(4, "", ("--version",))

    def _run(self, family: int, verb: str, arguments: Sequence[str], text: str = "") -> str:
        name = f"{self.name(family)}-{verb}" if verb else self.name(family)
        path = find_program(name)
        if family == 6 and not os.path.exists(IPV6_IS_HERE):
            raise CapabilityError("this kernel runs without IPv6, so ip6tables has no rules (see ipv6.disable in /proc/cmdline)")
        try:
            done = subprocess.run(
                [path, *arguments],
                input=text.encode(),
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
                env={"LC_ALL": "C", "PATH": f"{DIRECTORIES}:/usr/bin:/bin"},
            )
        except subprocess.TimeoutExpired as error:
            remedy = f"not done within {TIMEOUT_S:.0f} s; who else holds iptables' lock?"
            raise KernelError(name, errno.ETIMEDOUT, remedy) from error
        except OSError as error:
            raise CapabilityError(f"{path} cannot be run: {error.strerror}") from error
        if done.returncode:
            raise _refusal(name, done.stderr.decode(errors="replace"), done.returncode)
        return done.stdout.decode(errors="replace")


def find_program(name: str) -> str:
    """
    Return the path of a program of iptables.

    Raises:
        CapabilityError: there is none; says what to install.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{DIRECTORIES}")
    if path is None:
        raise CapabilityError(f"{name} is not installed: install the package iptables, or choose --proxy-mode nftables")
    return path


def read_tables(saved: str) -> dict[str, list[str]]:
    """Read what iptables-save printed: for each table its lines, without counters and comments."""
    tables: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in saved.splitlines():
        chain = _CHAIN.match(line)
        if line.startswith("*"):
            lines = tables.setdefault(line[1:].strip(), [])
        elif chain is not None:
            lines.append(f":{chain[1]} {chain[2]}")
        elif line.startswith(("-A ", "[")):
            lines.append(_COUNTERS.sub("", line).rstrip())
    return tables


def _refusal(name: str, stderr: str, code: int) -> KernelError:
    """Say in one line what the program said in several."""
    place = re.search(r"line:? \d+", stderr)
    words = []
    for line in stderr.splitlines():
        said = _PROGRAM.sub("", line.strip())
        if said and not said.startswith(("Try `", "Error occurred at line")):
            words.append(said)
    text = "; ".join(words) or f"exit status {code}"
    if place and place[0] not in text:
        text += f", {place[0].replace(':', '')}"
    if _PERMISSION.search(stderr):
        return PermissionDenied(name, errno.EPERM, text)
    return KernelError(name, errno.EINVAL, text)
