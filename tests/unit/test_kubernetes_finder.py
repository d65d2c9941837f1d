"""When the program that finds credentials is asked again, and what is used meanwhile."""

from __future__ import annotations

import json
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from kpx.sources.kubernetes.access import Access
from kpx.sources.kubernetes.finder import EARLY_S, RENEW_S, RESOLVE_S, AccessFinder
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

    def give(self, token: str, expires_in_s: float | None = None) -> None:
        status = {"token": token}
        if expires_in_s is not None:
            status["expirationTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + expires_in_s))
        answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
        self._write(f"print({json.dumps(answer)!r})")

    def fail(self, words: str) -> None:
        self._write(f"raise SystemExit({words!r})")

    def runs(self) -> int:
        return len(self.ran.read_text())

    def _write(self, line: str) -> None:
        self.script.write_text(f"#!{sys.executable}\nopen({str(self.ran)!r}, 'a').write('x')\n{line}\n")
        self.script.chmod(self.script.stat().st_mode | stat.S_IXUSR)


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
