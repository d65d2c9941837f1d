"""
Which data plane `--proxy-mode` means here.

`auto` is ipvs wherever the host has all that ipvs needs, else nftables. That is asked of the kernel once in a process and then
stays: what is needed cannot go away unnoticed, and a data plane that changed between two rounds would be two agents.

Who only reads does better to look at what is there: `in_place` finds the data plane whose objects the kernel holds. Who may not
or will not ask the kernel (`kpx explain --offline`, a data plane for its pure part, an ordinary user) gets `supposed`, which
reads files of /proc only and is right wherever ip_vs has been loaded before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, NamedTuple, runtime_checkable
from typing import Protocol as Interface

from kpx.dataplanes.registry import FACTORIES, may_be_present
from kpx.errors import CapabilityError, PermissionDenied
from kpx.host import ipvs_needs
from kpx.host.features import Check, net_admin
from kpx.host.ipvs_sysctls import CONNTRACK
from kpx.host.node import supported_families
from kpx.host.sysctl import read_sysctl

AUTO: Final = "auto"
PREFERRED: Final = "ipvs"
FALLBACK: Final = "nftables"


class Mode(NamedTuple):
    """A data plane by name, and why it is this one, in a sentence."""

    name: str
    why: str


@runtime_checkable
class Resident(Interface):
    """A data plane that can tell quickly whether the kernel holds anything of it."""

    def present(self) -> bool:
        """Tell whether anything of this data plane is in the kernel."""


_decided: dict[str, Mode] = {}


def decide(wanted: str) -> Mode:
    """
    Return the data plane to open, asking the kernel (and loading its modules) once in a process.

    Args:
        wanted: as --proxy-mode has it.

    Raises:
        CapabilityError: "ipvs" was asked for by name and this host lacks something for it.
    """
    # Without CAP_NET_ADMIN the kernel answers nothing, and what is opened next says so.
    if wanted == AUTO and _may_not_ask():
        return supposed(wanted)
    if wanted not in _decided:
        _decided[wanted] = choose(wanted, FACTORIES, lambda: needs(loading=True))
    return _decided[wanted]


def supposed(wanted: str) -> Mode:
    """Return what `decide` said before, else the best guess without asking the kernel; no privilege needed, nothing loaded."""
    if wanted in _decided:
        return _decided[wanted]
    if wanted != AUTO:
        return Mode(wanted, f"--proxy-mode {wanted} asks for it")
    families = supported_families()
    if PREFERRED in FACTORIES and read_sysctl(CONNTRACK) is not None and ipvs_needs.programs(families).ok:
        return Mode(PREFERRED, "ip_vs is loaded and iptables is installed")
    return Mode(FALLBACK, "ip_vs is not loaded, or iptables is not installed")


def in_place(wanted: str) -> Mode:
    """
    Return the data plane a verb that reads should look at: for auto the one whose objects the kernel holds.

    Where it holds none, or may not be asked, it is the one that would be used. modprobe is not run.
    """
    if wanted != AUTO:
        return Mode(wanted, f"--proxy-mode {wanted} asks for it")
    if _may_not_ask():
        return supposed(AUTO)
    # What ipvs holds includes tables of nftables, so it is looked for first.
    for name in (PREFERRED, FALLBACK):
        if name in FACTORIES and _holds(name):
            return Mode(name, "the kernel holds what it wrote")
    return choose(AUTO, FACTORIES, lambda: needs(loading=False))


def needs(loading: bool) -> list[Check]:
    """Ask the host for everything ipvs needs; see `kpx.host.ipvs_needs.ask`."""
    return list(ipvs_needs.ask(supported_families(), loading))


def choose(wanted: str, available: Collection[str], ask: Callable[[], Sequence[Check]]) -> Mode:
    """
    Choose a data plane; pure but for what `ask` does, which is called only when it matters.

    Args:
        wanted: as --proxy-mode has it. available: the names there are. ask: returns the checks of what ipvs needs.

    Raises:
        CapabilityError: see `decide`.
    """
    if PREFERRED not in available or wanted not in (AUTO, PREFERRED):
        return Mode(FALLBACK if wanted == AUTO else wanted, _asked_for(wanted) or "it is the only data plane here")
    return judge(wanted, ask())


def judge(wanted: str, checks: Iterable[Check]) -> Mode:
    """Choose between ipvs and nftables by the checks of what ipvs needs. Pure; raises as `choose` does."""
    lacking = [check for check in checks if check.ok is False]
    if not lacking:
        return Mode(PREFERRED, _asked_for(wanted) or "this host has all that ipvs needs")
    first = lacking[0]
    others = f" (and {len(lacking) - 1} more, see kpx check)" if len(lacking) > 1 else ""
    if wanted == PREFERRED:
        raise CapabilityError(f"--proxy-mode ipvs: {first.found}{others}: {first.remedy}; or use --proxy-mode {FALLBACK}")
    return Mode(FALLBACK, f"for ipvs this host lacks {', '.join(check.name for check in lacking)}")


def _asked_for(wanted: str) -> str:
    return "" if wanted == AUTO else f"--proxy-mode {wanted} asks for it"


def _may_not_ask() -> bool:
    return net_admin().ok is False


def _holds(name: str) -> bool:
    if not may_be_present(name):
        return False
    try:
        with contextlib.closing(FACTORIES[name](True)) as dataplane:
            return dataplane.present() if isinstance(dataplane, Resident) else dataplane.observe().present
    except (CapabilityError, PermissionDenied):
        return False
