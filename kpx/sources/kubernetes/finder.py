"""
Keeps what `credentials` finds: asks in a child process, remembers the answer, and asks again when there is a reason to.

Reasons are: the answer expires soon, a file it was read from has changed, the API server did not accept it, or none of its
addresses answers, which a name server may know better by now. Nothing here waits; the child is given up on after a minute.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from typing import Protocol as Interface

import msgspec

from kpx.errors import SourceError
from kpx.sources.kubernetes.access import ACCOUNT, Access, Told, access_of
from kpx.sources.kubernetes.child import REAP_S, Child
from kpx.sources.kubernetes.pauses import pause_s
from kpx.sources.kubernetes.poller import Poller
from kpx.sources.kubernetes.troubles import Trouble

CHILD_S: Final = 60.0
"""How long finding credentials may take, seconds; exec plugins may ask other servers."""

EARLY_S: Final = 30.0
"""How long before it expires an answer is renewed, seconds."""

RENEW_S: Final = 30.0
"""Shortest time between two askings because the API server refused the answer or it expires, seconds; a child takes CPU time."""

FILES_S: Final = 1.0
"""Shortest time from an answer to an asking because a file was written, seconds; `RENEW_S` where the answer was no news."""

RESOLVE_S: Final = 60.0
"""How old an answer must be before unreachable addresses are a reason to ask again, seconds."""


Stamp = tuple[int, int] | None
"""What changes when a file is written or replaced; None while there is none."""


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
        self._asked_on = 0
        self._wanted = True
        self._accepted = True
        self._failures = 0
        self._not_before = float("-inf")
        self._stamps: dict[str, Stamp] = {kubeconfig: None} if kubeconfig else {}
        self._child: Child | None = None
        self._leaving: Child | None = None
        self._reap_at = 0.0
        self._heed_files_at = float("-inf")

    def current(self, now: float) -> Access | None:
        """
        Return what to use now, and ask for something newer where there is a reason to.

        Until that is known, and when it cannot be had, the former answer is used, unless it has expired or was refused.
        """
        self._reap(now)
        if self._child is None:
            self._wanted |= self._is_old(now)
            if self._files_changed():
                self._wanted, self._not_before = True, max(now, self._heed_files_at)
            if self._wanted and now >= self._not_before:
                self._ask(now)
        elif now >= self._asked_at + CHILD_S:
            self._give_up(now)
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
        times = [self._reap_at] if self._leaving is not None else []
        if self._child is not None:
            times.append(self._asked_at + CHILD_S)
        elif self._wanted:
            times.append(self._not_before)
        return min(times, default=None)

    def close(self) -> None:
        """End the child, if there is one; idempotent."""
        for child in (self._child, self._leaving):
            if child is not None:
                child.close()
        self._child = self._leaving = None

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
        return any(_stamp(name) != stamp for name, stamp in self._stamps.items())

    def _ask(self, now: float) -> None:
        self._asked_at = now
        self._asked_on = time.time_ns()
        self._stamps = {name: _stamp(name) for name in self._stamps}
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())}
        try:
            self._child = Child(self._command, environ, self._poller, self._answered)
        except OSError as error:
            self._failed(Trouble(f"the program that finds them cannot be started: {error.strerror}"), now)

    def _answered(self, printed: bytes) -> None:
        now = self._clock()
        self._let_go(now)
        try:
            told = msgspec.json.decode(printed, type=Told)
        except (msgspec.DecodeError, UnicodeDecodeError):
            by_hand = shlex.join(["python3", *self._command[2:]])
            self._failed(Trouble(f"the program that finds them ended without an answer; run it to see why: {by_hand}"), now)
            return
        if told.error:
            self._failed(Trouble(told.error, told.lasting), now)
            return
        self._stamps = {name: self._stamp_when_asked(name) for name in told.files}
        is_news = self._access is None or self._access.told != told
        self._heed_files_at = now + (FILES_S if is_news else RENEW_S)
        try:
            if is_news:
                self._access = access_of(told)
        except SourceError as error:
            self._failed(Trouble(str(error), lasting=True), now)
            return
        self.trouble = None
        self._wanted, self._accepted = False, True
        self._found_at = now
        self._failures = 0

    def _stamp_when_asked(self, name: str) -> Stamp:
        """Return what a file was like before it was read; one it never has, which is to look again, when that is not known."""
        if name in self._stamps:
            return self._stamps[name]
        stamp = _stamp(name)
        return stamp if stamp is None or stamp[0] < self._asked_on else (0, 0)

    def _give_up(self, now: float) -> None:
        if self._child is not None:
            self._child.kill()
        self._let_go(now)
        self._failed(Trouble(f"the program that finds them (an exec plugin?) took longer than {CHILD_S:.0f} s"), now)

    def _failed(self, trouble: Trouble, now: float) -> None:
        self.trouble = trouble
        self._wanted = True
        self._failures += 1
        self._heed_files_at = now + FILES_S
        self._not_before = now + pause_s(self._failures, self._chance())

    def _let_go(self, now: float) -> None:
        """Have no more to do with the child but to see its end."""
        if self._leaving is not None:
            self._leaving.close()
        self._child, self._leaving = None, self._child
        self._reap(now)

    def _reap(self, now: float) -> None:
        if self._leaving is not None and self._leaving.has_ended():
            self._leaving = None
        self._reap_at = now + REAP_S


def _stamp(name: str) -> Stamp:
    """Return what changes when a file is written or replaced; links are followed, as the kubelet's are."""
    try:
        status = os.stat(name)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _import_path() -> list[str]:
    """Return where the child finds the same kpx as this process, however that was started."""
    return [entry for entry in sys.path if entry]
