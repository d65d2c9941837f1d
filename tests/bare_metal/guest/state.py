"""
Print, as JSON, what of this machine an installation can change: files that no Debian package owns, and what the kernel holds.

`files`: path to what it is, contents included. `kernel`: lines by the command that prints them. `processes`: command lines.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

COMMANDS = {
    "iptables": "iptables-save | grep -E '^(-A|:[^ ]+ -)'",
    "ip6tables": "ip6tables-save | grep -E '^(-A|:[^ ]+ -)'",
    "nft": "nft list ruleset | grep -i kpx",
    "ipset": "ipset list -name",
    "ipvsadm": "ipvsadm -Sn",
    "ip rule": "ip rule; ip -6 rule",
    "ip route": "ip -4 route show table all | sort; ip -6 route show table all | grep -v expires | sort",
    "ip address": "ip -brief address",
    "units": "systemctl list-unit-files --no-legend | grep -i kpx",
}
# What packages, and the machine while it runs, write by themselves; and what ansible and the test have brought.
OTHERS = (
    *("/root/.ansible", "/root/.ssh", "/srv/wheels"),
    *("/etc/alternatives", "/etc/ld.so.cache", *(f"/etc/rc{level}.d/" for level in "0123456S")),
    *("/usr/lib/python3", "/usr/share/doc", "/usr/share/man"),
    *("/var/cache", "/var/lib/apt", "/var/lib/dpkg", "/var/lib/pam", "/var/lib/systemd", "/var/log"),
    *("/tmp/systemd-private", "/var/tmp/systemd-private"),
)


def owned() -> set[str]:
    """Return what Debian packages own."""
    found: set[str] = set()
    for listing in Path("/var/lib/dpkg/info").glob("*.list"):
        for path in listing.read_text().splitlines():
            found.add(path)
            # /bin is a link to /usr/bin, and so on; packages may name either.
            found.add("/usr" + path if path.startswith(("/bin/", "/sbin/", "/lib/", "/lib64/")) else path)
    return found


def contents(path: str) -> str:
    """Say what a file is."""
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return f"link to {os.readlink(path)}"
    if stat.S_ISREG(status.st_mode):
        return (
            hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if status.st_size < 1_000_000 else f"{status.st_size} bytes"
        )
    return "directory" if stat.S_ISDIR(status.st_mode) else "special"


def files() -> dict[str, str]:
    """Return every file of the root file system that no package owns."""
    packages = owned()
    device = os.lstat("/").st_dev
    found: dict[str, str] = {}
    for directory, names, others in os.walk("/"):
        paths = [os.path.join(directory, name) for name in (*names, *others)]
        unowned = [path for path in paths if path not in packages and not path.startswith(OTHERS)]
        found |= {path: what for path in unowned if not (what := contents(path)).startswith("link to /etc/alternatives/")}
        names[:] = [
            name
            for name in names
            if name != "__pycache__"
            and os.lstat(os.path.join(directory, name)).st_dev == device
            and not os.path.join(directory, name).startswith(OTHERS)
        ]
    return {path: what for path, what in found.items() if "__pycache__" not in path}


def printed(command: str) -> list[str]:
    """Return the lines a command prints; none if there is no such program."""
    if not shutil.which(command.split(maxsplit=1)[0]):
        return []
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False).stdout.splitlines()


def main() -> None:
    """Print it all."""
    os.environ["PATH"] += ":/usr/sbin"
    programs = {Path(f"/proc/{name}/cmdline") for name in os.listdir("/proc") if name.isdigit()}
    running = set()
    for path in programs:
        try:
            running.add(path.read_text().replace("\0", " ").strip())
        except (FileNotFoundError, ProcessLookupError):
            continue
    state = {
        "files": files(),
        "kernel": {name: printed(command) for name, command in COMMANDS.items()},
        "processes": sorted(text for text in running if "/opt/kpx" in text),
    }
    print(json.dumps(state))


if __name__ == "__main__":
    main()
