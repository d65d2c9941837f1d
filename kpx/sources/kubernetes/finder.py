"""
Keeps what `credentials` finds: asks in a child process, remembers the answer, and asks again when there is a reason to.

Reasons are: the answer expires soon, a file it was read from has changed, the API server did not accept it, or none of its
addresses answers, which a name server may know better by now. Nothing here waits; the child is given up on after a minute.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from typing import Protocol as Interface

import msgspec

from kpx.errors import SourceError
from kpx.sources.kubernetes.access import ACCOUNT, Access, Told, access_of
from kpx.sources.kubernetes.pauses import pause_s
from kpx.sources.kubernetes.poller import READ, Poller
from kpx.sources.kubernetes.troubles import Trouble

CHILD_S: Final = 60.0
"""How long finding credentials may take, seconds; exec plugins may ask other servers."""

EARLY_S: Final = 30.0
"""How long before it expires an answer is renewed, seconds."""

RENEW_S: Final = 30.0
"""Shortest time between two askings because the API server refused the answer or it expires, seconds; a child takes CPU time."""

RESOLVE_S: Final = 60.0
"""How old an answer must be before unreachable addresses are a reason to ask again, seconds."""

LAST_ACT_S: Final = 0.5
"""How long a child may take to end once it has said everything, seconds."""

LONGEST_ANSWER: Final = 8 << 20
"""Bytes a child may print."""


class AccessSource(Interface):
    """Who knows how to get at the API server."""

    trouble: Trouble | None

    def current(self, now: float) -> Access | None:
        """Return what to use now, None while it is being found out."""

    def refused(self, now: float) -> None:
        """Take note that the API server did not accept it."""

    def unreachable(self, now: float) -> None:
        """Take note that no address answers."""

    def wake_at(self) -> float | None:
        """Return when `current` may give something else though no descriptor is ready, monotonic seconds."""

    def close(self) -> None:
        """Stop finding out; idempotent."""


class AccessFinder:
    """
    Finds out in a child process.

    Args:
        kubeconfig, master, account: see `credentials.find`.
        poller: where the child's answer is waited for.
        chance: random numbers, 0 <= chance < 1.

    Attributes:
        trouble: why there is nothing, or nothing new; None when all is well.
    """

    def __init__(
        self,
        kubeconfig: str,
        master: str,
        poller: Poller,
        chance: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        account: Path = ACCOUNT,
    ) -> None:
        self.trouble: Trouble | None = None
        self._command = [sys.executable, "-P", "-m", "kpx.sources.kubernetes.credentials", f"--account={account}"]
        self._command += [f"--kubeconfig={kubeconfig}"] if kubeconfig else []
        self._command += [f"--master={master}"] if master else []
        self._poller = poller
        self._chance = chance
        self._clock = clock
        self._access: Access | None = None
        self._asked_at = self._found_at = float("-inf")
        self._wanted = True
        self._accepted = True
        self._failures = 0
        self._not_before = float("-inf")
        self._stamps: tuple[tuple[int, int] | None, ...] = ()
        self._files: tuple[str, ...] = (kubeconfig,) if kubeconfig else ()
        self._child: subprocess.Popen[bytes] | None = None
        self._printed = bytearray()

    def current(self, now: float) -> Access | None:
        """
        Return what to use now, and ask for something newer where there is a reason to.

        Until that is known, and when it cannot be had, the former answer is used, unless it has expired or was refused.
        """
        if self._child is None:
            self._wanted |= self._is_old(now)
            if self._files_changed():
                self._wanted, self._not_before = True, now
            if self._wanted and now >= self._not_before:
                self._ask(now)
        elif now >= self._asked_at + CHILD_S:
            self._give_up()
        return self._access if self._accepted and not (self._expires_within(0.0) and self._is_settled(now)) else None

    def refused(self, now: float) -> None:
        """Take note that the API server did not accept what it was shown."""
        if self._access is not None and self._child is None and now >= self._asked_at + RENEW_S:
            self._wanted, self._accepted = True, False

    def unreachable(self, now: float) -> None:
        """Take note that no address answers; one that was given as a number needs no name server."""
        access = self._access
        if access is not None and access.told.addresses != (access.told.host,) and now >= self._asked_at + RESOLVE_S:
            self._wanted = True

    def wake_at(self) -> float | None:
        """Return when to ask again or to give up, monotonic seconds."""
        if self._child is not None:
            return self._asked_at + CHILD_S
        return self._not_before if self._wanted else None

    def close(self) -> None:
        """End the child, if there is one; idempotent."""
        if self._child is not None:
            self._end_child(kill=True)

    def _is_old(self, now: float) -> bool:
        """Tell whether the answer expires soon."""
        return self._expires_within(EARLY_S) and self._is_settled(now)

    def _is_settled(self, now: float) -> bool:
        """Tell whether the answer is no news: one that expires at once (or by our clock) is used for a while."""
        return now >= self._found_at + RENEW_S

    def _expires_within(self, seconds: float) -> bool:
        expires_at = None if self._access is None else self._access.told.expires_at
        return expires_at is not None and time.time() >= expires_at - seconds

    def _files_changed(self) -> bool:
        return _stamps(self._files) != self._stamps

    def _ask(self, now: float) -> None:
        self._asked_at = now
        self._stamps = _stamps(self._files)
        self._printed.clear()
        try:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
            )
        except OSError as error:
            self._failed(Trouble(f"the program that finds them cannot be started: {error.strerror}"), now)
            return
        assert self._child.stdout is not None
        os.set_blocking(self._child.stdout.fileno(), False)
        self._poller.watch(self._child.stdout.fileno(), READ, self._readable)

    def _readable(self) -> None:
        child = self._child
        if child is None or child.stdout is None:
            return
        with contextlib.suppress(BlockingIOError):
            while data := os.read(child.stdout.fileno(), 1 << 16):
                self._printed += data
                if len(self._printed) > LONGEST_ANSWER:
                    break
            self._end_child(kill=len(self._printed) > LONGEST_ANSWER)
            self._answered(self._clock())

    def _answered(self, now: float) -> None:
        try:
            told = msgspec.json.decode(self._printed, type=Told)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._failed(Trouble("the program that finds them ended without an answer"), now)
            return
        if told.error:
            self._failed(Trouble(told.error, told.lasting), now)
            return
        self._files = told.files
        self._stamps = _stamps(told.files)
        try:
            if self._access is None or self._access.told != told:
                self._access = access_of(told)
        except SourceError as error:
            self._failed(Trouble(str(error), lasting=True), now)
            return
        self.trouble = None
        self._wanted, self._accepted = False, True
        self._found_at = now
        self._failures = 0

    def _give_up(self) -> None:
        self._end_child(kill=True)
        text = f"the program that finds them (an exec plugin?) took longer than {CHILD_S:.0f} s"
        self._failed(Trouble(text), self._clock())

    def _failed(self, trouble: Trouble, now: float) -> None:
        self.trouble = trouble
        self._wanted = True
        self._failures += 1
        self._not_before = now + pause_s(self._failures, self._chance())

    def _end_child(self, kill: bool) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if child.stdout is not None:
            self._poller.forget(child.stdout.fileno())
            child.stdout.close()
        if kill:
            # It leads a session of its own, so its exec plugin goes, too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        try:
            # It closed its output as its last act; what is left of it takes milliseconds.
            child.wait(LAST_ACT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _stamps(files: Sequence[str]) -> tuple[tuple[int, int] | None, ...]:
    """Return what changes when a file is written or replaced; links are followed, as the kubelet's are."""
    return tuple(_stamp(name) for name in files)


def _stamp(name: str) -> tuple[int, int] | None:
    try:
        status = os.stat(name)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _import_path() -> list[str]:
    """Return where the child finds the same kpx as this process, however that was started."""
    return [entry for entry in sys.path if entry]
