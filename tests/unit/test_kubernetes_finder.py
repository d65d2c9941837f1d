"""When the program that finds credentials is asked again, and what is used meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from kpx.sources.kubernetes.access import Access
from kpx.sources.kubernetes.finder import CHILD_S, EARLY_S, RENEW_S, RESOLVE_S, AccessFinder
from kpx.sources.kubernetes.poller import Poller
from tests.lab.hearing import LONG_S


class Found:
    """A finder with a clock that a test moves."""

    def __init__(self, stack: ExitStack, kubeconfig: Path) -> None:
        self.ahead_s = 0.0
        self.poller = Poller()
        stack.callback(self.poller.close)
        self.finder = AccessFinder(str(kubeconfig), "", self.poller, lambda: 0.0, lambda: time.monotonic() + self.ahead_s)
        stack.callback(self.finder.close)

    def current(self) -> Access | None:
        return self.finder.current(time.monotonic() + self.ahead_s)

    def until(self, reached: Callable[[Access | None], bool]) -> Access | None:
        """Wait until what is to be used is as expected, and return it."""
        give_up_at = time.monotonic() + LONG_S
        while not reached(access := self.current()):
            assert time.monotonic() < give_up_at, f"not reached; {self.finder.trouble}"
            select.select([self.poller], [], [], 0.05)
            self.poller.dispatch()
        return access

    def token(self) -> str:
        access = self.until(lambda access: access is not None)
        assert access is not None
        return access.told.authorization.removeprefix("Bearer ")


class Plugin:
    """An exec plugin that counts how often it ran, and does what it is told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.script = directory / "plugin"
        self.ran = directory / "ran"
        self.ran.write_text("")
        self.config = directory / "config"
        command = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(self.script), "interactiveMode": "Never"}
        whole = {
            "clusters": [{"name": "k", "cluster": {"server": "https://192.0.2.1:6443"}}],
            "users": [{"name": "u", "user": {"exec": command}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "current-context": "c",
        }
        self.config.write_text(yaml.safe_dump(whole))

    def give(self, token: str, expires_in_s: float | None = None, meanwhile: str = "") -> None:
        """Let it return a token, and before that do what one line of Python says."""
        status = {"token": token}
        if expires_in_s is not None:
            status["expirationTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + expires_in_s))
        answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
        self._write(f"{meanwhile}\nprint({json.dumps(answer)!r})")

    def fail(self, words: str) -> None:
        self._write(f"raise SystemExit({words!r})")

    def hang(self) -> None:
        self._write(
            f"import os, time\nopen({str(self.directory / 'pid')!r}, 'w').write(str(os.getpid()) + '.')\ntime.sleep(1000)"
        )

    def pid(self) -> int | None:
        """Return the process of a plugin that hangs, None before there is one."""
        text = path.read_text() if (path := self.directory / "pid").exists() else ""
        return int(text[:-1]) if text.endswith(".") else None

    def runs(self) -> int:
        return len(self.ran.read_text())

    def _write(self, line: str) -> None:
        # Put in its place as a whole: a program that is being written to cannot be run (ETXTBSY), and half of one should not be.
        new = self.script.with_suffix(".new")
        new.write_text(f"#!{sys.executable}\nopen({str(self.ran)!r}, 'a').write('x')\n{line}\n")
        new.chmod(new.stat().st_mode | stat.S_IXUSR)
        new.replace(self.script)


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    plugin = Plugin(tmp_path)
    plugin.give("first")
    return plugin


@pytest.fixture
def found(plugin: Plugin) -> Iterator[Found]:
    with ExitStack() as stack:
        yield Found(stack, plugin.config)


def test_answer_is_kept(found: Found, plugin: Plugin) -> None:
    assert found.token() == "first"
    found.ahead_s = 1e6
    assert found.token() == "first"
    assert plugin.runs() == 1


def test_answer_is_renewed_before_it_expires(found: Found, plugin: Plugin) -> None:
    plugin.give("first", expires_in_s=EARLY_S - 5)
    assert found.token() == "first"
    plugin.give("second")
    assert found.token() == "first"
    found.ahead_s = RENEW_S
    assert found.token() == "first"
    found.until(lambda access: access is not None and access.told.authorization == "Bearer second")
    assert plugin.runs() == 2


def test_answer_that_is_expired_when_it_comes_is_used_all_the_same(found: Found, plugin: Plugin) -> None:
    """The clock of this machine may be wrong."""
    plugin.give("first", expires_in_s=-3600)
    assert found.token() == "first"


def test_answer_that_cannot_be_renewed_is_used_until_it_expires(found: Found, plugin: Plugin) -> None:
    plugin.give("first", expires_in_s=EARLY_S - 5)
    assert found.token() == "first"
    plugin.fail("no network")
    found.ahead_s = RENEW_S
    found.until(lambda _: found.finder.trouble is not None)
    assert found.finder.trouble is not None
    assert "no network" in found.finder.trouble.message
    assert found.token() == "first"


def test_answer_that_was_refused_is_used_no_more(found: Found, plugin: Plugin) -> None:
    assert found.token() == "first"
    found.finder.refused(time.monotonic())
    assert found.token() == "first", "asked for again too soon"
    plugin.give("second")
    found.ahead_s = RENEW_S
    found.finder.refused(time.monotonic() + found.ahead_s)
    assert found.current() is None
    assert found.token() == "second"


def test_file_that_is_written_anew_is_read_anew(found: Found, plugin: Plugin) -> None:
    assert found.token() == "first"
    text = plugin.config.read_text()
    plugin.config.write_text(text.replace("192.0.2.1", "192.0.2.2"))
    access = found.until(lambda access: access is not None and access.told.host == "192.0.2.2")
    assert access is not None
    assert access.server == "https://192.0.2.2:6443"


def test_file_that_becomes_unusable_leaves_the_former_answer(found: Found, plugin: Plugin) -> None:
    assert found.token() == "first"
    plugin.config.write_text("a: [")
    found.until(lambda _: found.finder.trouble is not None)
    assert found.token() == "first"


def test_address_that_is_a_number_is_not_looked_up_again(found: Found, plugin: Plugin) -> None:
    assert found.token() == "first"
    found.ahead_s = RESOLVE_S
    found.finder.unreachable(time.monotonic() + found.ahead_s)
    assert found.token() == "first"
    assert plugin.runs() == 1


def test_name_is_looked_up_again_when_no_address_answers(found: Found, plugin: Plugin) -> None:
    plugin.config.write_text(plugin.config.read_text().replace("192.0.2.1", "localhost"))
    assert found.token() == "first"
    found.ahead_s = RESOLVE_S
    found.finder.unreachable(time.monotonic() + found.ahead_s)
    found.until(lambda _: plugin.runs() == 2)


def test_file_that_is_written_while_it_is_read_is_read_again(found: Found, plugin: Plugin) -> None:
    other = plugin.config.read_text().replace("192.0.2.1", "192.0.2.2")
    plugin.give("first", meanwhile=f"open({str(plugin.config)!r}, 'w').write({other!r})")
    found.until(lambda access: access is not None and access.told.host == "192.0.2.2")


def test_file_that_is_always_new_does_not_keep_the_program_running(found: Found, plugin: Plugin) -> None:
    """As where the plugin writes to the kubeconfig each time."""
    plugin.give("first", meanwhile=f"open({str(plugin.config)!r}, 'a').write('#')")
    found.until(lambda _: plugin.runs() == 2 and not children())
    found.current()
    wake_at = found.finder.wake_at()
    assert wake_at is not None
    assert wake_at - time.monotonic() > RENEW_S / 2


def test_new_file_that_is_written_while_another_is_read_is_read_again(found: Found, plugin: Plugin, tmp_path: Path) -> None:
    """What a kubeconfig points to is known only after it was read."""
    authority = tmp_path / "ca.crt"
    authority.write_text("")
    whole = yaml.safe_load(plugin.config.read_text())
    whole["clusters"][0]["cluster"]["certificate-authority"] = str(authority)
    plugin.config.write_text(yaml.safe_dump(whole))
    plugin.give("first", meanwhile=f"open({str(authority)!r}, 'w').write('')")
    found.token()
    found.until(lambda _: plugin.runs() >= 2)


def test_nothing_is_left_of_the_program(found: Found, plugin: Plugin) -> None:
    assert found.token() == "first"
    found.until(lambda _: not children())
    found.current()
    assert found.finder.wake_at() is None


def test_program_that_takes_too_long_is_killed_with_its_plugin(found: Found, plugin: Plugin) -> None:
    plugin.hang()
    found.until(lambda _: plugin.pid() is not None)
    found.ahead_s = CHILD_S
    assert found.current() is None
    assert found.finder.trouble is not None
    assert "took longer than 60 s" in found.finder.trouble.message
    found.until(lambda _: is_gone(plugin.pid()))
    plugin.give("second")
    assert found.token() == "second"


def test_program_that_dies_is_run_again(found: Found, plugin: Plugin) -> None:
    plugin.hang()
    found.until(lambda _: plugin.pid() is not None)
    (program,) = children()
    plugin.give("second")
    os.kill(program, signal.SIGKILL)
    found.until(lambda _: found.finder.trouble is not None)
    assert found.finder.trouble is not None
    assert "ended without an answer; run it to see why: python3 -m kpx.sources" in found.finder.trouble.message
    assert found.token() == "second"
    os.kill(plugin.pid() or 0, signal.SIGKILL)


def test_closing_ends_everything_and_may_be_done_again(found: Found, plugin: Plugin) -> None:
    plugin.hang()
    found.until(lambda _: plugin.pid() is not None)
    found.finder.close()
    found.finder.close()
    assert not children()
    give_up_at = time.monotonic() + LONG_S
    while not is_gone(plugin.pid()):
        assert time.monotonic() < give_up_at
        os.sched_yield()


def test_refusals_are_worth_one_new_answer_in_a_while(found: Found, plugin: Plugin) -> None:
    assert found.token() == "first"
    found.ahead_s = RENEW_S
    for _ in range(5):
        found.finder.refused(time.monotonic() + found.ahead_s)
        assert found.token() == "first"
    assert plugin.runs() == 2


def children() -> set[int]:
    """Return the processes this one has started and not seen the end of."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                    found.add(int(entry.name))
    return found


def is_gone(pid: int | None) -> bool:
    """Tell whether a process has ended, be it that nobody has seen it."""
    try:
        return pid is None or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
