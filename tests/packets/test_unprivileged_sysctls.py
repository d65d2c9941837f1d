"""What an agent may set that is not root but has CAP_NET_ADMIN, as systemd/kpx.service runs it."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable

import pytest

from kpx.host.features import CAP_NET_ADMIN
from kpx.host.sysctl import may_be_set

pytestmark = pytest.mark.packets

NOBODY = 65534
# asm/unistd_64.h, linux/prctl.h, linux/capability.h. Bare system calls: each changes the calling thread only.
SYS_SETRESUID, SYS_CAPSET = 117, 126
PR_SET_KEEPCAPS, CAPABILITY_VERSION_3 = 8, 0x20080522


def as_nobody(capabilities: int, ask: Callable[[], bool]) -> bool:
    """Return what `ask` answers in a thread of nobody's that has these capabilities."""
    libc = ctypes.CDLL(None, use_errno=True)
    answers: list[bool] = []

    def run() -> None:
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        assert libc.syscall(SYS_SETRESUID, NOBODY, NOBODY, NOBODY) == 0
        header = ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITY_VERSION_3, 0))
        data = ctypes.create_string_buffer(struct.pack("=6I", capabilities, capabilities, 0, 0, 0, 0))
        assert libc.syscall(SYS_CAPSET, header, data) == 0
        answers.append(ask())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (answer,) = answers
    return answer


def test_the_capability_is_enough() -> None:
    assert as_nobody(1 << CAP_NET_ADMIN, lambda: may_be_set("net.ipv4.ip_forward"))


def test_without_it_nothing_may_be_set() -> None:
    assert not as_nobody(0, lambda: may_be_set("net.ipv4.ip_forward"))
