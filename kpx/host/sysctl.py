"""
Sysctls: what this network namespace is set to, and setting them.

kpx reads most of them only to say what is missing. It writes those without which a data plane does not do what it promises
(`kpx.host.ipvs_sysctls`), and says so; tuning of conntrack belongs to whoever installs the node.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

SYS: Final = Path("/proc/sys")


class Sysctl(NamedTuple):
    """A sysctl, the value it ought to have, and why, in words that go on after "so that"."""

    name: str
    value: str
    why: str


class Unset(NamedTuple):
    """A sysctl that is not as wanted and cannot be set: `found` is its value, None when there is none of that name."""

    sysctl: Sysctl
    found: str | None
    errno: int

    def __str__(self) -> str:
        name, value, why = self.sysctl
        if self.found is None:
            return f"{name} does not exist here"
        reason = "it does not keep what is written" if self.errno == 0 else os.strerror(self.errno)
        # EACCES is what the kernel says of sysctls that only the first network namespace may write.
        command = f"sysctl -w {name}={value} as root{' of the host' if self.errno in (errno.EROFS, errno.EACCES) else ''}"
        return f"{name} is {self.found or 'empty'} and cannot be set ({reason}): run {command}, so that {why}"


class Settled(NamedTuple):
    """
    What became of sysctls that ought to have certain values.

    Args:
        changed: a sentence for each one that was written.
        unset: those that are not as wanted all the same.
    """

    changed: tuple[str, ...]
    unset: tuple[Unset, ...]


def read_sysctl(name: str, root: Path = SYS) -> str | None:
    """
    Return the value of a sysctl, None when this kernel or this namespace does not have it.

    Args:
        name: as sysctl(8) takes it: "net.ipv4.ip_forward", or with slashes where a part has dots of its own.
        root: where sysctls are mounted.
    """
    try:
        return _path(name, root).read_text().strip()
    except OSError:
        return None


def different(wanted: Iterable[Sysctl], root: Path = SYS) -> list[tuple[Sysctl, str | None]]:
    """Return those that are not as wanted, each with the value it has; nothing is written."""
    found = ((sysctl, read_sysctl(sysctl.name, root)) for sysctl in wanted)
    return [(sysctl, value) for sysctl, value in found if value != sysctl.value]


def may_be_set(name: str, root: Path = SYS) -> bool:
    """Tell whether this process may write a sysctl: false on the read-only mount most containers have. Nothing is written."""
    # Not by access(2), which forgets the capabilities of who is not root: as systemd/kpx.service runs it, and most containers.
    try:
        os.close(os.open(_path(name, root), os.O_WRONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def settle(wanted: Iterable[Sysctl], root: Path = SYS) -> Settled:
    """
    Give sysctls the values they ought to have; idempotent, and nothing is written that is right already.

    Each value is read back: some refuse a value silently. What cannot be set is reported and stops nothing.
    """
    changed, unset = [], []
    for sysctl, before in different(wanted, root):
        number = errno.ENOENT if before is None else _write(sysctl, root)
        after = read_sysctl(sysctl.name, root)
        if after == sysctl.value:
            changed.append(f"{sysctl.name} was {before} and is {after} now, so that {sysctl.why}")
        else:
            unset.append(Unset(sysctl, after, number))
    return Settled(tuple(changed), tuple(unset))


def _write(sysctl: Sysctl, root: Path) -> int:
    """Write a sysctl; return 0 or the errno."""
    try:
        # Opened without O_CREAT: a file that is not there is a sysctl this kernel does not have.
        descriptor = os.open(_path(sysctl.name, root), os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno or errno.EIO
    try:
        os.write(descriptor, f"{sysctl.value}\n".encode())
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(descriptor)
    return 0


def _path(name: str, root: Path) -> Path:
    return root / (name if "/" in name else name.replace(".", "/"))
