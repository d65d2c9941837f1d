"""The proof on a virtual machine (tests/bare_metal): how it judges, and what it takes for proven. No machine is started here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.bare_metal.__main__ import Outcome, carry_out, table
from tests.bare_metal.controller import PlaybookError, recap
from tests.bare_metal.leftovers import leftovers
from tests.bare_metal.proof import NotProven, Step, judged

IMAGE = Path(__file__).parents[1] / "bare_metal/image"

PLAY = """
TASK [kpx : Install the unit] **************
ok: [lb1]

TASK [kpx : Write settings] **************
changed: [lb1] => (item=a)
changed: [lb1] => (item=b)

RUNNING HANDLER [kpx : Restart kpx] **************
changed: [lb1]

PLAY RECAP ************
lb1                        : ok=3    changed=2    unreachable=0    failed=0    skipped=7    rescued=0    ignored=0
"""


def state(**kernel: list[str]) -> dict[str, object]:
    return {"files": {"/etc": "directory", "/etc/hosts": "1"}, "kernel": {"ipset": [], **kernel}, "processes": []}


def seen(**changes: object) -> dict[str, object]:
    return {"answers": {"web1": 3, "web2": 4}, "failures": [], "kept": 7, "broken": None, **changes}


def test_a_play_tells_what_it_changed() -> None:
    assert recap(PLAY) == (3, 2, ["kpx : Write settings", "kpx : Restart kpx"])


def test_a_play_without_a_recap_is_no_success() -> None:
    with pytest.raises(PlaybookError, match="no recap"):
        recap("ERROR! the playbook could not be found")


def test_nothing_is_left_of_what_was_never_there() -> None:
    assert leftovers(state(), state()) == []


def test_what_is_left_is_named() -> None:
    after = state(ipset=["KPX-FRONTENDS"])
    after["files"] = {"/etc": "directory", "/etc/hosts": "2", "/etc/kpx": "directory", "/etc/kpx/kpx.conf": "3"}
    after["processes"] = ["/opt/kpx/bin/kpx run"]

    assert leftovers(state(), after) == [
        "file /etc/kpx is left",
        "file /etc/hosts was changed",
        "ipset: KPX-FRONTENDS is left",
        "process /opt/kpx/bin/kpx run is left",
    ]


def test_what_is_gone_is_named() -> None:
    after = state()
    after["files"] = {"/etc": "directory"}

    assert leftovers(state(ipset=["others"]), after) == ["file /etc/hosts is gone", "ipset: others is gone"]


def test_all_requests_answered_is_proven() -> None:
    assert judged("vip", seen()) == "vip 7 requests, 0 failed (web1 3, web2 4), 7 on one connection"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"failures": ["after 1.0 s: timed out"]}, "1 of 8 requests failed: after 1.0 s: timed out"),
        ({"broken": "after 2.0 s: closed"}, "the connection that stays was lost after 2.0 s: closed"),
        ({"answers": {"web1": 7}}, "answered by {'web1': 7}"),
        ({"answers": {}}, "answered by nobody"),
    ],
)
def test_whatever_is_less_is_not(changes: dict[str, object], why: str) -> None:
    with pytest.raises(NotProven) as raised:
        judged("vip", seen(**changes))

    assert str(raised.value) == f"vip: {why}"


def test_a_step_fails_in_a_line_of_the_table() -> None:
    def proves_nothing() -> str:
        raise NotProven("it is not so\nand more")

    outcomes = [Outcome("it boots", "ok", 61.2, "Debian"), carry_out(Step("it runs", proves_nothing))]

    assert table(outcomes).splitlines() == [
        "ok       it boots     61 s  Debian",
        "FAILED   it runs       0 s  it is not so",
    ]


def test_the_image_script_refuses_what_it_does_not_know() -> None:
    done = subprocess.run([IMAGE, "--nonsense"], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "--nonsense" in done.stderr
