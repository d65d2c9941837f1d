"""systemd/kpx.service: whatever it names must exist in kpx, and its powers stay as small as they are."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import pytest

from kpx.agent.config import SETTINGS
from kpx.cli import VERBS

UNIT = Path(__file__).parents[2] / "systemd/kpx.service"


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser["Service"]


def test_it_runs_a_verb_with_options_that_exist(service: configparser.SectionProxy) -> None:
    program, verb, *options = shlex.split(service["ExecStart"])

    assert program.endswith("/kpx")
    assert verb in VERBS
    assert {option.partition("=")[0] for option in options} <= {setting.option for setting in SETTINGS}


def test_variables_are_settings(service: configparser.SectionProxy) -> None:
    names = {assignment.partition("=")[0] for assignment in shlex.split(service["Environment"])}

    assert names
    assert names <= {setting.variable for setting in SETTINGS}


def test_it_holds_one_capability(service: configparser.SectionProxy) -> None:
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == "CAP_NET_ADMIN"
    assert service["NoNewPrivileges"] == "yes"


def test_systemd_is_told_what_it_waits_for(service: configparser.SectionProxy) -> None:
    """READY=1 and WATCHDOG=1 are what `kpx.agent.notify` says."""
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) >= 10
