"""A program that is run for what it prints, by somebody who does not wait for it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from kpx.sources.kubernetes.poller import READ, Poller

LONGEST_OUTPUT: Final = 8 << 20
"""Bytes a program may print."""

REAP_S: Final = 0.2
"""How often to look whether a program that has said everything has ended, seconds; it mostly has."""

KILLED_S: Final = 1.0
"""How long a killed program is waited for when everything ends, seconds; only one that hangs in the kernel takes longer."""


class Child:
    """
    One run of a program.

    Args:
        command, environ: what to run, in a session of its own, so that what it starts ends with it when it is killed.
        poller: where its output is waited for.
        printed: called once with everything it printed, from `Poller.dispatch`; not after `kill`. Cut off at `LONGEST_OUTPUT`.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], poller: Poller, printed: Callable[[bytes], None]
    ) -> None:
        self._poller = poller
        self._printed = printed
        self._output = bytearray()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=dict(environ),
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout
        os.set_blocking(self._pipe.fileno(), False)
        poller.watch(self._pipe.fileno(), READ, self._readable)

    @property
    def is_talking(self) -> bool:
        """Tell whether it may still print something."""
        return not self._pipe.closed

    def has_ended(self) -> bool:
        """Tell whether nothing is left of it; to be asked until it is so."""
        return not self.is_talking and self._process.poll() is not None

    def kill(self) -> None:
        """End it and what it started, and hear no more of it; idempotent."""
        self._hang_up()
        if self._process.poll() is None:
            # It is the leader of its session and was not waited for, so the number is nobody else's.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill it and wait for its end; idempotent."""
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILLED_S)

    def _readable(self) -> None:
        try:
            while data := os.read(self._pipe.fileno(), 1 << 16):
                self._output += data
                if len(self._output) > LONGEST_OUTPUT:
                    self.kill()
                    break
        except BlockingIOError:
            return
        self._hang_up()
        self._printed(bytes(self._output[:LONGEST_OUTPUT]))

    def _hang_up(self) -> None:
        if self.is_talking:
            self._poller.forget(self._pipe.fileno())
            self._pipe.close()
