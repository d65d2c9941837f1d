"""What systemd hears."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpx.agent.notify import Notifier


@pytest.fixture
def systemd() -> Iterator[tuple[socket.socket, str]]:
    name = f"kpx-test-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        listening.settimeout(5)
        yield listening, "@" + name


def test_systemd_hears_everything_in_order(systemd: tuple[socket.socket, str]) -> None:
    listening, address = systemd
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready()
    notifier.status("3 Services")
    notifier.status("3 Services")
    notifier.alive()
    notifier.stopping()

    heard = [listening.recv(1024) for _ in range(4)]

    assert heard == [b"READY=1", b"STATUS=3 Services", b"WATCHDOG=1", b"STOPPING=1"]


def test_path_works_as_well_as_an_abstract_name(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).ready()

        assert listening.recv(1024) == b"READY=1"


def test_nobody_listening_is_no_error(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    Notifier({}).ready()


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "60000000"}, 30.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "60000000"}, None),
        ({"NOTIFY_SOCKET": "/x"}, None),
    ],
)
def test_watchdog_is_patted_twice_as_often_as_asked_for(environ: dict[str, str], watchdog_s: float | None) -> None:
    assert Notifier(environ).watchdog_s == watchdog_s
