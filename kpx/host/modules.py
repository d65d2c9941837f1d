"""
Modules of the running kernel: is one there, could it be loaded, and loading it.

The kernel loads most modules by itself when they are first asked for, by running modprobe in the host's own file system. This is
for when it did not: to try once more with our rights, and otherwise to tell apart "there is none" from "you may not".
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from enum import Enum
from pathlib import Path
from typing import Final

from kpx.host.sysctl import SYS, read_sysctl

LIBRARY: Final = Path("/lib/modules")
LOADED: Final = Path("/sys/module")
TIMEOUT_S: Final = 30.0

SEARCH_PATH: Final = f"{os.defpath}:/usr/local/sbin:/usr/sbin:/sbin"
"""Where programs of the system are looked for beside PATH, which seldom names these directories for an ordinary user."""


class Module(Enum):
    """What there is of a module, in words that go on after its name."""

    LOADED = "is loaded"
    BUILT_IN = "is part of this kernel"
    LOADABLE = "is not loaded"
    ABSENT = "is not among the modules of this kernel"
    UNKNOWN = "is not loaded, and the modules of this kernel cannot be seen from here"


def module(name: str, release: str = "", library: Path = LIBRARY, loaded: Path = LOADED) -> Module:
    """
    Tell what there is of a module.

    Args:
        name: with underscores, as lsmod prints it.
        release: of the kernel; "" for the running one.
        library: where modules are; a container usually does not see them (UNKNOWN).
        loaded: where the kernel lists modules in use, built-in ones only if they have parameters.
    """
    if (loaded / name).is_dir():
        return Module.LOADED
    directory = library / (release or os.uname().release)
    for index, answer in (("modules.builtin", Module.BUILT_IN), ("modules.dep", Module.LOADABLE)):
        if _names(directory / index, name):
            return answer
    return Module.ABSENT if (directory / "modules.dep").is_file() else Module.UNKNOWN


def program_path(name: str, path: str | None = None) -> str | None:
    """Return where a program is, None when it is not installed; `path` as the variable PATH, None for that of this process."""
    return shutil.which(name, path=path) or (shutil.which(name, path=SEARCH_PATH) if path is None else None)


def may_load(root: Path = SYS) -> bool:
    """Tell whether this process may load modules: as root, unless kernel.modules_disabled forbids it to everybody."""
    return os.geteuid() == 0 and read_sysctl("kernel.modules_disabled", root) != "1"


def load(name: str) -> str:
    """Load a module with modprobe, which loads what it needs too; return "" when it is loaded, otherwise why not."""
    program = program_path("modprobe")
    if program is None:
        return "there is no modprobe here"
    try:
        done = subprocess.run([program, "--", name], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"modprobe {name}: {error}"
    if done.returncode == 0:
        return ""
    return " ".join(done.stderr.split()) or f"modprobe {name}: exit status {done.returncode}"


def _names(index: Path, name: str) -> bool:
    """Tell whether an index of depmod has a module; file names have dashes where module names have underscores, or not."""
    try:
        text = index.read_text()
    except OSError:
        return False
    pattern = name.replace("_", "[-_]")
    return re.search(rf"^(?:[^:\s]*/)?{pattern}\.ko(?:\.\w+)?(?::|\s|$)", text, re.MULTILINE) is not None
