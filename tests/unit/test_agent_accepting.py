"""The clock of --accept-forwarded, and what it says when it cannot be done; its rules are in test_host_accepting."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kpx.agent.accepting import LOOK_EVERY_S, Accepting, accept_flows
from kpx.host import accepting
from kpx.kernel import iptables
from kpx.model.addresses import Family
from kpx.model.findings import Finding, Severity
from kpx.settings.config import Config

ASKED = Config(proxy_mode="nftables", accept_forwarded=True)


@pytest.fixture(autouse=True)
def _host_without_iptables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(iptables, "DIRECTORIES", str(tmp_path))


def test_a_host_without_iptables_is_told_what_its_firewall_needs() -> None:
    (finding,) = accept_flows(ASKED, "nftables", [Family.IPV4])

    assert finding.severity is Severity.WARNING
    assert str(finding) == (
        "--accept-forwarded: iptables-save is not installed; "
        "a firewall of nftables needs a rule of its own, ct status dnat accept (docs/differences.md)"
    )


def test_it_looks_again_only_while_it_is_asked_for() -> None:
    """An agent that nobody asks for it has no clock for it, so an idle one sleeps."""
    config = ASKED
    told: list[tuple[Finding, ...]] = []
    clock = Accepting(lambda: config, "nftables", lambda: (), told.append)
    assert clock.deadline() is None

    before = time.monotonic()
    clock.look()
    due = clock.deadline()
    assert due is not None
    assert before + LOOK_EVERY_S <= due <= time.monotonic() + LOOK_EVERY_S
    clock.act(due - 1)
    assert len(told) == 1
    clock.act(due)
    assert len(told) == 2

    config = Config(proxy_mode="nftables")
    clock.look()
    assert clock.deadline() is None


def test_rules_for_virtual_servers_are_for_ipvs_alone() -> None:
    assert accepting.rules() == accepting.rules(0)
    assert len(accepting.rules(0x2000)) > len(accepting.rules())
